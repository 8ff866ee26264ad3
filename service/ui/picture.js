// Whose picture it is, what the network says of it, and what is to be explained.
import { html, useEffect, useRef, useState } from "./html.js";
import { address, send } from "./server.js";
import { Text } from "./form.js";
import { CONTRASTS } from "./session.js";
import { number, percent, t } from "./words.js";

export const SAMPLES = ["chelsea", "astronaut", "coffee"];

// A picture of a file, or one that this server has. It is explained while the browser still looks at how large it is,
// which `sized` tells; what the browser cannot show is explained all the same.
export function opened(blob, name, more = {}) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  const sized = new Promise((tell) => {
    image.onload = () => tell({ width: image.naturalWidth || 4, height: image.naturalHeight || 3 });
    image.onerror = () => tell({});
  });
  image.src = url;
  const file = blob instanceof File ? blob : new File([blob], name, { type: blob.type });
  return { blob: file, name, url, width: 4, height: 3, owned: true, sized, ...more };
}

export async function sample(name) {
  const blob = await (await send(`ui/photographs/${name}.jpg`)).blob();
  return opened(blob, `${name}.jpg`, { sample: name });
}

// A button to choose a file by.
export function Pick({ label, primary, take }) {
  const file = useRef();
  return html`
    <button class=${primary ? "primary" : ""} onClick=${() => file.current.click()}>${label}</button>
    <input ref=${file} type="file" accept="image/*" hidden aria-label=${label} onChange=${(event) => {
      const [picked] = event.target.files;
      event.target.value = "";
      if (picked) take(opened(picked, picked.name));
    }} />`;
}

export function Samples({ take, fail, without }) {
  return SAMPLES.filter((name) => name !== without).map((name) => html`
    <button key=${name} class="sample" title=${t(`sample.${name}`)} aria-label=${t(`sample.${name}`)} onClick=${() => sample(name).then(take, fail)}>
      <img src=${address(`ui/photographs/${name}.jpg`)} alt="" width="64" height="64" />
    </button>`);
}

export function Choose({ show, fail, large }) {
  return html`
    <div class=${large ? "choose large" : "choose"}>
      <p class="drop">
        ${large && html`<span class="lead">${t("drop")}</span>`}
        <${Pick} label=${t(large ? "choose" : "chooseOther")} primary=${large} take=${show} />
        ${large && html`<small>${t("paste")}</small>`}
      </p>
      <div class="samples" role="group" aria-label=${t("samples")}>
        ${large && html`<span class="quiet">${t("samples")}</span>`}
        <${Samples} take=${show} fail=${fail} />
      </div>
    </div>
  `;
}

// Pictures dropped anywhere or pasted; says whether something is held over the page.
export function useDropped(show) {
  const [over, set] = useState(false);
  useEffect(() => {
    let depth = 0;
    const first = (list) => [...(list ?? [])].find((one) => one.kind === "file" || one instanceof File);
    const take = (item) => {
      const file = item instanceof File ? item : item?.getAsFile();
      if (file) show(opened(file, file.name || "picture.png"));
    };
    const on = {
      dragenter: (event) => (event.preventDefault(), depth++, set(true)),
      dragover: (event) => event.preventDefault(),
      dragleave: () => --depth <= 0 && ((depth = 0), set(false)),
      drop: (event) => (event.preventDefault(), (depth = 0), set(false), take(first(event.dataTransfer.items) ?? first(event.dataTransfer.files))),
      paste: (event) => take(first(event.clipboardData?.items)),
    };
    for (const [name, act] of Object.entries(on)) addEventListener(name, act);
    return () => Object.entries(on).forEach(([name, act]) => removeEventListener(name, act));
  }, []);
  return over;
}

// Each task's own words and numbers for what the network says, and what a click on it asks to explain.
const strength = (one) => one.probability ?? one.share ?? one.score ?? null;
function targeted(one, task, target) {
  if (task === "regression") {
    const direction = turned(one, target);
    return direction && { asked: { output: one.index, direction }, index: one.index, label: one.label };
  }
  if (task === "detection") return { asked: { detection: one.rank }, index: one.rank, label: one.label };
  if (task === "segmentation") return { asked: { class: one.index, region: "predicted" }, index: one.index, label: one.label };
  return { index: one.index, label: one.label };
}

// A value is asked about in turn: what raises it, what lowers it, and no longer alone.
const turned = (one, target) => (target?.asked?.output !== one.index ? "up" : target.asked.direction === "up" ? "down" : null);

export function Predictions({ session, lane, index, choose }) {
  const { target } = session.state;
  const task = session.state.info[lane.model]?.task;
  if (!lane.predictions.length) return null;
  const valued = task === "regression";
  const chosen = (one) => (target ? (one.rank ?? one.index) === target.index : !valued && one === lane.predictions[0]);
  const arrow = (one) => (valued && target && chosen(one) ? { up: "↑ ", down: "↓ " }[target.asked?.direction] : "");
  return html`
    <ol class="predictions">
      ${lane.predictions.map((one, i) => {
        const share = strength(one);
        const words = html`
          <span class="name">${one.label ?? (one.norm !== undefined ? t("norm") : one.index)}</span>
          <span class="much">${arrow(one)}${share !== null ? percent(share) : number(one.value ?? one.norm, 4)}</span>
          ${share !== null && html`<span class="meter"><i style=${{ width: `${100 * share}%` }}></i></span>`}
        `;
        const may = choose && index === 0 && (share !== null || valued);
        return html`<li key=${i}>${may
          ? html`<button aria-pressed=${chosen(one)} title=${t(valued ? `turn.${turned(one, target)}` : "explainThis")} onClick=${() => session.aim(targeted(one, task, target))}>${words}</button>`
          : html`<div>${words}</div>`}</li>`;
      })}
    </ol>
  `;
}

// Any class, by its name; and another one that it is to be told from.
export function Classes({ session }) {
  const { target, against, lanes } = session.state;
  const [known, set] = useState([]);
  const asked = useRef(null);
  useEffect(() => void ((asked.current = null), set([])), [lanes[0].picture, lanes[0].model]);
  const load = async () => {
    if (asked.current) return;
    asked.current = true;
    set(await session.classes().catch(() => ((asked.current = null), [])));
  };
  const named = (text) => known.find((one) => one.label === text) ?? (text ? { index: /^\d+$/.test(text) ? Number(text) : text, label: text } : null);
  const only = (one) => one && { index: one.index, label: one.label };
  return html`
    <div class="classes">
      <label for="class">${t("class")}</label>
      <${Text} id="class" list="known" value=${target?.label ?? ""} placeholder=${t("topClass")} onFocus=${load} act=${(text) => session.aim(only(named(text)))} />
      ${target && html`
        ${CONTRASTS.includes(session.task) && html`
          <label for="against">${t("rather")}</label>
          <${Text} id="against" list="known" value=${against?.label ?? ""} placeholder=${t("nothing")} onFocus=${load} act=${(text) => session.aim(target, only(named(text)))} />`}
        <button onClick=${() => session.aim(null)}>${t("backToTop")}</button>
      `}
      <datalist id="known">${known.map((one) => html`<option key=${one.index} value=${one.label}>${percent(one.probability ?? one.share ?? 0)}</option>`)}</datalist>
    </div>
  `;
}
