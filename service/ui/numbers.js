// Which map to believe: what `/compare` finds of the methods on the page, with its curves, and two maps on each other.
import { html, useEffect, useRef, useState } from "./html.js";
import { Figure } from "./figure.js";
import { Trouble } from "./problem.js";
import { form, watch } from "./server.js";
import * as draw from "./draw.js";
import { number, percent, question, seconds, t, title } from "./words.js";

export function Compare({ session }) {
  const { state } = session;
  const [lane] = state.lanes;
  const [found, set] = useState({});
  const asked = useRef();
  const targeted = state.cards.filter((card) => session.method(card.method).kind !== "grid" && session.method(card.method).needs.includes("image"));
  const about = JSON.stringify([targeted.map((card) => [card.method, card.params]), session.target(0), lane.model, state.box]);
  const ask = async () => {
    const stop = (asked.current = new AbortController());
    set({ busy: true, stop });
    const target = session.target(0);
    const request = {
      model: lane.model, methods: targeted.map((card) => ({ method: card.method, params: card.params })), metrics: ["curves", "sparsity", ...(state.box ? ["localisation"] : [])],
      ...(state.box ? { box: state.box } : {}),
      ...(target === null ? {} : { targets: [target] }), output: { heatmap: false, overlay: false, array: "none" },
    };
    try {
      const body = form(lane.picture.blob, request, session.further(request));
      const on = (_, data) => set({ busy: true, stop, progress: data });
      set({ answer: await watch("compare", body, { signal: stop.signal, on }) });
    } catch (problem) {
      if (problem.name !== "AbortError") set({ problem });
    }
  };
  useEffect(() => {
    set({});
    return () => asked.current?.abort(); // also when another view is chosen: nobody waits for it there
  }, [about, lane.picture]);
  const { answer } = found;
  return html`
    <section class="work compare" aria-label=${t("compare")}>
      <p class="lead">${t("compareLead")}</p>
      <${Two} session=${session} />
      <h2>${t("numbers")}</h2>
      ${targeted.length === 0 ? html`<p class="quiet">${t("noCards")}</p>` : html`
        ${found.busy ? html`
          <div class="progress">
            <progress aria-label=${t("numbers")} max=${found.progress?.rows_total ?? 1} value=${found.progress?.rows_done}></progress>
            <span>${found.progress?.seconds_left != null ? t("left", { time: seconds(found.progress.seconds_left) }) : t("working")}</span>
            <button onClick=${() => (found.stop.abort(), set({}))}>${t("stop")}</button>
          </div>` : html`
          <div class="row"><button class="primary" onClick=${ask}>${t("measure")}</button><span class="quiet">${t("measureMore")}</span></div>`}`}
      ${found.problem && html`<${Trouble} problem=${found.problem} again=${ask} />`}
      ${answer && html`
        <${Table} session=${session} answer=${answer} />
        <${Ask} name="gain" />
        <${Curves} session=${session} answer=${answer} />
        <${Agreement} session=${session} answer=${answer} />
        <${Ask} name="agreement" />`}
    </section>
  `;
}

function Ask({ name }) {
  const [asked, answer] = question(name);
  return html`<details><summary>${asked}</summary><p>${answer}</p></details>`;
}

const named = (session, name) => title(session.method(name) ?? { name, title: name });

// Two maps on each other: one wiped over the other, or one less the other, each scaled to -1..1.
function Two({ session }) {
  const { state } = session;
  const [lane] = state.lanes;
  const heats = state.cards.filter((card) => card.runs[0]?.state === "done" && card.runs[0].maps[0].shape.length === 2);
  const [which, choose] = useState([0, 1]);
  const [wipe, move] = useState(0.5);
  const [less, subtract] = useState(false);
  if (heats.length < 2) return html`<p class="quiet">${t("twoNeeded")}</p>`;
  const [a, b] = which.map((i) => heats[Math.min(i, heats.length - 1)]);
  const input = [state.info[lane.model].input.height, state.info[lane.model].input.width];
  const figure = (map, label) => html`<${Figure} map=${map} picture=${lane.picture} geometry=${lane.geometry} input=${input} look=${state} label=${label} bare=${!less} />`;
  const pick = (side) => html`
    <label for=${`two-${side}`}>${t(side ? "right" : "left2")}</label>
    <select id=${`two-${side}`} value=${which[side]} onChange=${(event) => choose(which.map((old, i) => (i === side ? Number(event.target.value) : old)))}>
      ${heats.map((card, i) => html`<option key=${card.id} value=${i}>${named(session, card.method)}</option>`)}
    </select>`;
  return html`
    <h2>${t("twoMaps")}</h2>
    <div class="row bar-top">${pick(0)}${pick(1)}
      <label><input type="checkbox" checked=${less} onChange=${(event) => subtract(event.target.checked)} /> ${t("difference")}</label></div>
    <div class="two">
      ${less ? figure(difference(a.runs[0].maps[0], b.runs[0].maps[0], input), t("difference"))
        : html`
          <div class="wipe">
            ${figure(b.runs[0].maps[0], named(session, b.method))}
            <div class="upper" style=${{ clipPath: `inset(0 ${100 - 100 * wipe}% 0 0)` }}>${figure(a.runs[0].maps[0], named(session, a.method))}</div>
          </div>
          <input type="range" min="0" max="1" step="0.01" value=${wipe} aria-label=${t("wipe")} onInput=${(event) => move(Number(event.target.value))} />`}
    </div>
  `;
}

function difference(a, b, input) {
  const unit = (map) => {
    const large = draw.resize(map.values, map.shape, input, map.interpolation);
    const [low, high] = draw.limits(large, draw.signed(map));
    return large.map((value) => (draw.signed(map) ? value / (high || 1) : (Math.min(value, high) - low) / (high - low || 1)));
  };
  const [left, right] = [unit(a), unit(b)];
  const values = left.map((value, i) => value - right[i]);
  const [min, max] = draw.range(values);
  return { ...a, kind: "signed", interpolation: "bilinear", values, shape: input, min, max };
}

const gained = (value) => (value == null ? "–" : `${value > 0 ? "+" : ""}${number(value, 2)}`);

function Table({ session, answer }) {
  const [controls] = answer.controls;
  const gains = [...answer.methods.map((one) => one.maps[0]?.faithfulness?.gain), controls?.bell];
  const reasons = [...new Set(gains.map((one) => one?.reason).filter(Boolean))];
  const within = answer.methods.some((one) => one.maps[0]?.metrics?.localisation);
  const columns = ["method", "gainBlur", "gainMean", "sparsity", ...(within ? ["within"] : []), "sanity", "cost"];
  const Row = ({ name, gain, sanity, sparsity, inside, cost, problem }) => html`
    <tr>
      <th scope="row">${name}</th>
      ${problem ? html`<td colspan=${columns.length - 1} lang="en">${problem.detail}</td>` : html`
        ${["blur", "mean"].map((how) => html`<td key=${how} class=${Math.abs(gain?.[how] ?? 9) < 2 ? "chance" : ""} title=${gain?.reason ?? ""}>${gained(gain?.[how])}</td>`)}
        <td>${sparsity == null ? "–" : number(sparsity, 2)}</td>
        ${within && html`<td>${inside ? `${percent(inside.energy)} / ${percent(inside.area)}` : "–"}</td>`}
        <td title=${sanity?.reason ?? ""}>${sanity ? t(`verdicts.${sanity.verdict}`) : "–"}</td>
        <td>${cost ? seconds(cost.seconds) : "–"}</td>`}
    </tr>`;
  return html`
    <p class="quiet">${t("chance")}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("numbers")}><table>
      <thead><tr>${columns.map((name) => html`<th key=${name} scope="col" title=${t(`columns.${name}.1`)}>${t(`columns.${name}.0`)}</th>`)}</tr></thead>
      <tbody>
        ${answer.methods.map((one, i) => html`<${Row} key=${i} name=${named(session, one.method)} gain=${one.maps[0]?.faithfulness?.gain} sparsity=${one.maps[0]?.metrics?.sparsity}
          inside=${one.maps[0]?.metrics?.localisation} sanity=${one.sanity} cost=${one.cost} problem=${one.problem} />`)}
        ${controls && html`<${Row} name=${t("bell")} gain=${controls.bell} />`}
      </tbody>
    </table></div>
    ${reasons.map((reason) => html`<p class="note" key=${reason}>– : <span lang="en">${reason}</span></p>`)}
  `;
}

const INKS = 8;

// Deletion and insertion: how the score goes as pixels go, most important first, or come.
function Curves({ session, answer }) {
  const curves = answer.methods.map((one, i) => ({ name: named(session, one.method), curve: one.maps[0]?.metrics?.curves?.blur ?? one.maps[0]?.metrics?.curves?.mean, ink: i % INKS })).filter((one) => one.curve);
  if (!curves.length) return null;
  const chart = (kind) => {
    const values = curves.flatMap((one) => one.curve[kind]);
    const [low, high] = [Math.min(0, ...values), Math.max(...values, 1e-9)];
    const y = (value) => 110 - (100 * (value - low)) / (high - low);
    return html`
      <figure>
        <figcaption>${t(kind)}</figcaption>
        <svg viewBox="0 0 220 124" role="img" aria-label=${`${t(kind)}: ${curves.map((one) => `${one.name} ${number(one.curve[`${kind}_area`])}`).join(", ")}`}>
          <path class="axis" d="M10 10V110H212" />
          ${curves.map((one) => html`<polyline key=${one.name} class=${`ink${one.ink}`} points=${one.curve.shares.map((x, i) => `${10 + 200 * x},${y(one.curve[kind][i])}`).join(" ")} />`)}
          <text x="10" y="122">0 %</text><text x="212" y="122" text-anchor="end">100 %</text>
        </svg>
      </figure>`;
  };
  return html`
    <h2>${t("curves")}</h2>
    <div class="charts">${chart("deletion")}${chart("insertion")}</div>
    <ul class="inks">${curves.map((one) => html`<li key=${one.name} class=${`ink${one.ink}`}>${one.name}</li>`)}</ul>
    <${Ask} name="curves" />
  `;
}

function Agreement({ session, answer }) {
  const [first] = answer.agreement;
  if (!first) return null;
  const names = first.methods.map((i) => named(session, answer.methods[i].method));
  return html`
    <h2>${t("agreement")}</h2>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("agreement")}><table class="matrix">
      <thead><tr><td></td>${names.map((name, i) => html`<th key=${i} scope="col">${name}</th>`)}</tr></thead>
      <tbody>${first.spearman.map((row, i) => html`<tr key=${i}><th scope="row">${names[i]}</th>${row.map((value, j) => html`
        <td key=${j} style=${value === null ? {} : { "--much": percent(Math.abs(value)) }} class=${value < 0 ? "against" : ""}>${value === null ? "–" : number(value, 2)}</td>`)}</tr>`)}</tbody>
    </table></div>
  `;
}
