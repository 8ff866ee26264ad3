// Which map to believe: what `/compare` finds of the methods on the page, and two maps on each other.
import { html, useEffect, useRef, useState } from "./html.js";
import { Figure } from "./figure.js";
import { Trouble } from "./problem.js";
import { form, watch } from "./server.js";
import * as draw from "./draw.js";
import { Ask, number, passes, percent, seconds, t, title } from "./words.js";

export function Compare({ session }) {
  const { state } = session;
  const [lane] = state.lanes;
  const [found, set] = useState({});
  const [further, want] = useState([]);
  const asked = useRef();
  const targeted = state.cards.filter((card) => session.method(card.method).kind !== "grid" && session.method(card.method).needs.includes("image"));
  const about = JSON.stringify([targeted.map((card) => [card.method, card.params]), session.target(0), lane.model, state.box]);
  const ask = async () => {
    const stop = (asked.current = new AbortController());
    set({ busy: true, stop });
    const target = session.target(0);
    const request = {
      model: lane.model, methods: targeted.map((card) => ({ method: card.method, params: card.params })), metrics: ["curves", "sparsity", ...further, ...(state.box ? ["localisation"] : [])],
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
          <div class="row"><button class="primary" onClick=${ask}>${t("measure")}</button><span class="quiet">${t("measureMore")}</span></div>
          <div class="row" role="group" aria-label=${t("further")}><span class="quiet">${t("further")}</span>
            ${Object.keys(FURTHER).map((name) => html`<label key=${name} title=${t(`columns.${name}.1`)}>
              <input type="checkbox" checked=${further.includes(name)} onChange=${(event) => want(further.filter((one) => one !== name).concat(event.target.checked ? name : []))} /> ${t(`columns.${name}.0`)}</label>`)}
          </div>`}`}
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
const WAYS = ["blur", "mean"]; // to hide pixels
// Numbers that take further passes, and how each is read of a map's.
const FURTHER = {
  road: (found) => found.road,
  stability: (found) => found.stability?.largest,
  "random-logit": (found) => found.random_logit,
  completeness: (found) => found.completeness,
};
const told = (value) => (value == null ? "–" : value.promises ? `${number(value.residual, 2)} / ${number(value.change, 2)}` : number(value, 2));

// Each map of each method, or its failure.
const listed = (session, { methods }) => methods.flatMap((one) => {
  const name = named(session, one.method);
  return (one.maps.length ? one.maps : [{}]).map((map) => ({ ...one, map, name: one.maps.length > 1 ? `${name}: ${map.target?.label ?? map.name}` : name }));
});

function Table({ session, answer }) {
  const rows = listed(session, answer);
  const { controls } = answer;
  const bells = controls.map(({ bell, target }) => ({ name: t("bell") + (controls.length > 1 ? `: ${target.label}` : ""), map: { faithfulness: { gain: bell } } }));
  const reasons = [...new Set(rows.map((one) => one.map.faithfulness?.gain.reason).filter(Boolean))];
  const within = rows.some((one) => one.map.metrics?.localisation);
  const further = Object.keys(FURTHER).filter((name) => rows.some(({ map: { metrics } }) => metrics && (FURTHER[name](metrics) != null || metrics.reasons[name])));
  const columns = ["method", "gainBlur", "gainMean", "sparsity", ...(within ? ["within"] : []), ...further, "sanity", "cost"];
  const row = ({ name, map, sanity, cost, problem }, i) => {
    const { gain } = map.faithfulness ?? {};
    const { sparsity, localisation: inside, reasons: why } = map.metrics ?? {};
    // One number that is no better than chance takes the worth of the other, too.
    const chance = WAYS.some((how) => !(Math.abs(gain?.[how]) > 2)) ? "chance" : "";
    return html`
      <tr key=${i}>
        <th scope="row">${name}</th>
        ${problem ? html`<td colspan=${columns.length - 1} lang="en">${problem.detail}</td>` : html`
          ${WAYS.map((how) => html`<td key=${how} class=${chance} title=${gain?.reason ?? ""}>${gained(gain?.[how])}</td>`)}
          <td>${told(sparsity)}</td>
          ${within && html`<td>${inside ? `${percent(inside.energy)} / ${percent(inside.area)}` : "–"}</td>`}
          ${further.map((one) => html`<td key=${one} title=${why?.[one] ?? ""}>${told(map.metrics && FURTHER[one](map.metrics))}</td>`)}
          <td title=${sanity?.reason ?? ""}>${sanity ? t(`verdicts.${sanity.verdict}`) : "–"}</td>
          <td>${cost ? `${seconds(cost.seconds)}, ${passes(cost)}` : "–"}</td>`}
      </tr>`;
  };
  return html`
    <p class="quiet">${t("chance")}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("numbers")}><table>
      <thead><tr>${columns.map((name) => html`<th key=${name} scope="col" title=${t(`columns.${name}.1`)}>${t(`columns.${name}.0`)}</th>`)}</tr></thead>
      <tbody>${[...rows, ...bells].map(row)}</tbody>
    </table></div>
    ${reasons.map((reason) => html`<p class="note" key=${reason}>– : <span lang="en">${reason}</span></p>`)}
  `;
}

// Deletion and insertion: how the score goes as pixels go, most important first, or come.
function Curves({ session, answer }) {
  const lines = listed(session, answer).map(({ name, map }, i) => ({ name, ways: map.metrics?.curves ?? {}, ink: `ink${i % 8} dash${i % 5}` }));
  const chart = (how, kind) => {
    const curves = lines.filter((one) => one.ways[how]).map((one) => ({ ...one, curve: one.ways[how] }));
    if (!curves.length) return null;
    const values = curves.flatMap((one) => one.curve[kind]);
    const [low, high] = [Math.min(0, ...values), Math.max(...values, 1e-9)];
    const y = (value) => 110 - (100 * (value - low)) / (high - low);
    const said = `${t(kind)} (${t(`behind.${how}`)})`;
    return html`
      <figure key=${said}>
        <figcaption>${said}</figcaption>
        <svg viewBox="0 0 220 124" role="img" aria-label=${`${said}: ${curves.map((one) => `${one.name} ${number(one.curve[`${kind}_area`])}`).join(", ")}`}>
          <path class="axis" d="M10 10V110H212" />
          ${curves.map((one, i) => html`<polyline key=${i} class=${one.ink} points=${one.curve.shares.map((x, j) => `${10 + 200 * x},${y(one.curve[kind][j])}`).join(" ")} />`)}
          <text x="10" y="122">0 %</text><text x="212" y="122" text-anchor="end">100 %</text>
        </svg>
      </figure>`;
  };
  const charts = WAYS.flatMap((how) => ["deletion", "insertion"].map((kind) => chart(how, kind))).filter(Boolean);
  return charts.length > 0 && html`
    <h2>${t("curves")}</h2>
    <div class="charts">${charts}</div>
    <ul class="inks">${lines.filter((one) => WAYS.some((how) => one.ways[how])).map((one, i) => html`
      <li key=${i}><svg width="30" height="8" aria-hidden="true"><path class=${one.ink} d="M0 4H30" /></svg>${one.name}</li>`)}</ul>
    <${Ask} name="curves" />
  `;
}

function Agreement({ session, answer }) {
  return answer.agreement.map(({ target, methods, spearman }, n) => {
    const names = methods.map((i) => named(session, answer.methods[i].method));
    const said = t("agreement") + (answer.agreement.length > 1 ? `: ${target.label}` : "");
    return html`
    <h2 key=${n}>${said}</h2>
    <div class="scroll" tabindex="0" role="region" aria-label=${said}><table class="matrix">
      <thead><tr><td></td>${names.map((name, i) => html`<th key=${i} scope="col">${name}</th>`)}</tr></thead>
      <tbody>${spearman.map((row, i) => html`<tr key=${i}><th scope="row">${names[i]}</th>${row.map((value, j) => html`
        <td key=${j} style=${value === null ? {} : { "--much": percent(Math.abs(value)) }} class=${value < 0 ? "against" : ""}>${value === null ? "–" : number(value, 2)}</td>`)}</tr>`)}</tbody>
    </table></div>
    `;
  });
}
