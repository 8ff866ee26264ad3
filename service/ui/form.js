// A method's parameters as a form, from their JSON Schema: number, choice, switch, list and text.
import { html, useState } from "./html.js";
import { t } from "./words.js";

// A schema without its `null`: whether a value may be left out, and what it is otherwise.
function plain(schema) {
  const kinds = schema.anyOf?.filter((one) => one.type !== "null") ?? [schema];
  return { ...schema, ...(kinds.length === 1 ? kinds[0] : { type: "any" }), optional: kinds.length !== (schema.anyOf?.length ?? 1) };
}

function parsed(text, schema) {
  const one = (value) => (value !== "" && !Number.isNaN(Number(value)) ? Number(value) : value);
  if (schema.type === "array") {
    const items = text.split(/[,\s]+/).filter(Boolean);
    return items.map((item) => (schema.items?.type === "string" ? item : one(item)));
  }
  if (schema.type === "integer" || schema.type === "number" || schema.type === "any") return one(text);
  return text;
}

// A description, in which `words` between such marks are what one may type.
const marked = (text = "") => text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

const shown = (value) => (Array.isArray(value) ? value.join(", ") : value ?? "");

// A field that keeps what is being typed, whatever is drawn anew.
export function Text({ value, act, ...rest }) {
  const [draft, set] = useState(null);
  return html`<input type="text" autocomplete="off" spellcheck=${false} ...${rest} value=${draft ?? value} onInput=${(event) => set(event.target.value)}
    onBlur=${() => set(null)} onChange=${(event) => (set(null), act(event.target.value.trim()))} />`;
}

export function Form({ method, params, resolved, layers, problem, apply }) {
  const [draft, set] = useState({});
  const fields = Object.entries(method.parameters.properties ?? {});
  if (!fields.length) return html`<p class="quiet">${t("noParameters")}</p>`;
  const submit = (event) => {
    event.preventDefault();
    const found = { ...params, ...draft };
    for (const [name, value] of Object.entries(found)) if (value === undefined) delete found[name];
    apply(found);
    set({});
  };
  return html`
    <form class="form" onSubmit=${submit}>
      ${fields.map(([name, schema]) => html`
        <${Field} key=${name} name=${name} schema=${plain(schema)} layers=${layers} id=${`${method.name}-${name}`}
          value=${name in draft ? draft[name] : params[name] ?? resolved?.[name] ?? schema.default}
          wrong=${problem?.errors?.find((one) => `${one.pointer}/`.startsWith(`/params/${name}/`))?.detail}
          set=${(value) => set({ ...draft, [name]: value })} />
      `)}
      <div class="row">
        <button class="primary" type="submit">${t("run")}</button>
        <button type="button" onClick=${() => (set({}), apply({}))}>${t("defaults")}</button>
      </div>
    </form>
  `;
}

function Field({ name, schema, value, set, wrong, layers, id }) {
  const about = `${id}-about`;
  const rest = { id, name, "aria-describedby": about, "aria-invalid": wrong ? "true" : undefined };
  const text = (typed) => set(typed === "" ? undefined : parsed(typed, schema));
  const choose = (event) => text(event.target.value);
  let control;
  if (name === "layer" && layers) {
    control = html`<select ...${rest} value=${value ?? ""} onChange=${choose}>
      ${layers.filter((one) => one.spatial).map((one) => html`
        <option key=${one.path} value=${one.path}>${one.path}  ${one.shape.join(" × ")}${one.default ? ` (${t("default")})` : ""}</option>
      `)}
    </select>`;
  } else if (schema.enum) {
    control = html`<select ...${rest} value=${value} onChange=${choose}>${schema.enum.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select>`;
  } else if (schema.type === "boolean") {
    control = html`<input ...${rest} type="checkbox" checked=${value} onChange=${(event) => set(event.target.checked)} />`;
  } else if (schema.type === "integer" || schema.type === "number") {
    const whole = schema.type === "integer";
    control = html`<${Text} ...${rest} type="number" value=${value ?? ""} min=${schema.minimum ?? schema.exclusiveMinimum} max=${schema.maximum ?? schema.exclusiveMaximum} step=${whole ? 1 : "any"} act=${text} />`;
  } else {
    control = html`<${Text} ...${rest} value=${shown(value)} pattern=${schema.pattern} list=${`${id}-list`} act=${text} />
      <datalist id=${`${id}-list`}>${(schema.examples ?? []).map((one) => html`<option key=${one} value=${shown(one)}></option>`)}</datalist>`;
  }
  return html`
    <div class=${"field" + (schema.type === "boolean" ? " switch" : "")}>
      <label for=${id}>${name}</label>${control}
      <small id=${about} lang="en">${wrong ? html`<b class="wrong">${wrong}</b>${" "}` : ""}${marked(schema.description)}</small>
    </div>
  `;
}
