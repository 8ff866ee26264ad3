// One method: its maps for each picture or model, what they mean, what they took, and what one may do with them.
import { html, useRef, useState } from "./html.js";
import { Figure, Patch, Tiles, over, seen } from "./figure.js";
import { Form } from "./form.js";
import { Trouble } from "./problem.js";
import * as draw from "./draw.js";
import * as share from "./share.js";
import { key } from "./server.js";
import { Ask, meaning, number, passes, seconds, t, title } from "./words.js";

export function Card({ session, card }) {
  const [open, show] = useState(null);
  const [which, pick] = useState([]); // of each run's maps the one that is shown
  const { state } = session;
  const method = session.method(card.method);
  const [means, cannot] = meaning(method.name);
  const toggle = (panel) => {
    if (panel === "form") session.learnLayers(state.lanes[0].model).catch(() => {});
    show(open === panel ? null : panel);
  };
  const first = card.runs[0];
  return html`
    <article class="card" id=${`card-${card.id}`} aria-label=${title(method)}>
      <header>
        <h3>${title(method)}</h3>
        <${Tool} icon="knobs" label=${t("parameters")} on=${open === "form"} act=${() => toggle("form")} />
        <${Tool} icon="take" label=${t("take")} on=${open === "take"} act=${() => toggle("take")} />
        <${Tool} icon="close" label=${t("removeMethod", { method: title(method) })} act=${() => session.remove(card.id)} />
      </header>
      <div class="runs">
        ${state.lanes.map((lane, i) => html`<${Run} key=${i} session=${session} card=${card} method=${method} lane=${lane} index=${i}
          which=${which[i] ?? 0} pick=${(one) => pick(state.lanes.map((_, j) => (i === j ? one : which[j] ?? 0)))} />`)}
      </div>
      ${open === "form" && html`
        <${Form} method=${method} params=${card.params} resolved=${first?.result?.params} layers=${state.layers[state.lanes[0].model]}
          problem=${first?.problem} apply=${(params) => session.change(card.id, params)} />`}
      ${open === "take" && html`<${Take} session=${session} card=${card} which=${which[0] ?? 0} />`}
      <p class="means">${means ?? html`<span lang="en">${method.summary}</span>`} ${cannot && html`<span class="cannot">${cannot}</span>`}</p>
      <${Ask} name=${method.name} />
    </article>
  `;
}

const ICONS = {
  knobs: "M4 7h9m4 0h3M4 17h3m4 0h9M15 4v6M9 14v6",
  take: "M12 4v11m-4-4 4 4 4-4M5 20h14",
  close: "M6 6l12 12M18 6 6 18",
};

export function Tool({ icon, label, act, on }) {
  return html`
    <button class="tool" aria-label=${label} title=${label} aria-expanded=${on} onClick=${act}>
      <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true"><path d=${ICONS[icon]} /></svg>
    </button>
  `;
}

function Run({ session, card, method, lane, index, which, pick }) {
  const run = card.runs[index];
  const { state } = session;
  const info = state.info[lane.model];
  if (!info) return null;
  const input = [info.input.height, info.input.width];
  const maps = run?.maps ?? [];
  const map = shown(maps, which);
  const geometry = lane.geometry ?? run?.result?.image;
  const again = () => session.again((one, i) => one.id === card.id && i === index);
  const busy = run?.state === "running" || run?.state === "waiting";
  const label = map && t("mapOf", { method: title(method), target: map.target?.label ?? map.layer ?? "", low: number(map.min), high: number(map.max) });
  let body;
  if (run?.state === "failed") body = html`<${Trouble} problem=${run.problem} again=${again} />`;
  else if (run?.state === "barred") body = html`<div class="trouble"><strong>${t("barred")}</strong><p lang="en">${run.reason}</p></div>`;
  else if (run?.state === "alone") body = html`<div class="trouble ask"><strong>${t("oneMore")}</strong><p>${t("needsReference")}</p></div>`;
  else if (map && !over(map)) {
    body = map.shape.length === 3 && map.kind === "grid"
      ? html`<${Tiles} map=${map} lut=${state.luts.gray} />`
      : html`<${Patch} map=${map} picture=${lane.picture} geometry=${geometry} input=${input} />`;
  } else if (lane.picture) {
    body = html`<${Figure} map=${map} picture=${lane.picture} geometry=${geometry} input=${input} look=${state} rough=${run?.rough} label=${label ?? t("noMapYet")} />`;
  }
  return html`
    <div class="run" data-state=${run?.state}>
      ${state.lanes.length > 1 && html`<p class="whose">${index ? t("second") : t("first")}${state.lanes[0].model !== state.lanes[1].model ? `: ${lane.model}` : ""}</p>`}
      ${body}
      ${maps.length > 1 && html`
        <div class="maps"><label for=${`map-${card.id}-${index}`}>${t("map")}</label>
          <select id=${`map-${card.id}-${index}`} value=${which} onChange=${(event) => pick(Number(event.target.value))}>
            ${maps.map((one, i) => html`<option key=${i} value=${i}>${one.channel !== null ? t("channel", { n: one.channel }) : one.target?.label ?? one.name}${one.layer ? ` · ${one.layer}` : ""}</option>`)}
          </select></div>`}
      ${busy && html`<${Progress} run=${run} method=${method} stop=${() => session.halt(card.id, index)} />`}
      ${run?.state === "stopped" && html`<p class="note">${t("stopped")} <button onClick=${again}>${t("run")}</button></p>`}
      ${run?.state === "done" && map && html`
        ${map.flat && html`<p class="note warn">${t("flat")}</p>`}
        ${map.all_negative && html`<p class="note warn">${t("allNegative")}</p>`}
        <p class="usage">${used(run.result, map)}</p>`}
    </div>
  `;
}

const shown = (maps, which) => maps[Math.min(which, maps.length - 1)];

function used({ usage }, map) {
  const parts = [map.target?.label, map.shape.slice(-2).join(" × "), passes(usage), seconds(usage.device_ms / 1000)];
  if (usage.cache === "hit" || usage.cache === "shared") parts.push(t("cached"));
  if (!usage.exact) parts.push(t("estimated"));
  return parts.filter(Boolean).join(" · ");
}

function Progress({ run, method, stop }) {
  const { progress } = run;
  const label = run.state === "waiting" ? t("waiting") : progress?.left != null ? t("left", { time: seconds(progress.left) }) : t("working");
  return html`
    <div class="progress">
      <progress aria-label=${title(method)} max=${progress?.total ?? 1} value=${progress ? progress.done : undefined}></progress>
      <span>${label}</span>
      <button onClick=${stop}>${t("stop")}</button>
    </div>
  `;
}

const HEAT = ["positive", "signed", "regions"];

// To take along: files, and the same request for a terminal or a program.
function Take({ session, card, which }) {
  const [copied, set] = useState(null);
  const box = useRef();
  const { lanes, opacity, sequential, diverging } = session.state;
  const [lane] = lanes;
  const run = card.runs[0];
  const map = shown(run?.maps ?? [], which);
  const copy = async (name, text) => {
    await navigator.clipboard.writeText(text).then(() => set(name), () => set(null));
  };
  const { kind, needs } = session.method(card.method);
  const request = session.request(card);
  // What draws the same as the page does, over the whole picture.
  if (map ? map.shape.length === 2 : HEAT.includes(kind)) {
    const signed = map ? draw.signed(map) : kind === "signed";
    request.output = { opacity, colormap: signed ? diverging : sequential, size: "original" };
  }
  const name = needs.includes("image") ? lane.picture.name : null;
  const asked = [card.method, request, name, session.further(request).map((one) => one.name), key() !== null];
  const texts = {
    curl: share.curl(...asked),
    Python: share.python(...asked),
  };
  const png = () => {
    const canvases = [...box.current.closest(".card").querySelector(".run").querySelectorAll("canvas")];
    if (map.kind === "grid") return share.grid(run, map, canvases);
    share.png(run, map, canvases[0], lane.picture, over(map) ? seen(lane.picture, lane.geometry) : null, map.shape.length === 2 ? opacity : 1);
  };
  return html`
    <div class="take" ref=${box}>
      ${run?.state === "done" && html`
        <div class="row">
          <button onClick=${png}>PNG</button>
          <button onClick=${() => share.npy(run, map)}>NumPy</button>
          <button onClick=${() => share.json(run)}>JSON</button>
        </div>`}
      ${Object.entries(texts).map(([name, text]) => html`
        <details key=${name}><summary>${name}</summary>
          <pre tabindex="0">${text}</pre>
          <button onClick=${() => copy(name, text)}>${copied === name ? t("copied") : t("copy")}</button>
        </details>`)}
      ${run?.result && html`
        <details><summary>${t("resolved")}</summary><pre tabindex="0">${JSON.stringify(run.result.params, null, 2)}</pre>
          ${Object.keys(run.result.details).length > 0 && html`<pre tabindex="0">${JSON.stringify(run.result.details, null, 1).slice(0, 2000)}</pre>`}
        </details>`}
    </div>
  `;
}
