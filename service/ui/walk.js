// A walk through the network, from pixels to abstraction: what each layer answers to the picture, how much of it is
// silent, and for each channel the pattern that set it off and the picture that it looks for.
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { Patch, Tiles } from "./figure.js";
import { Trouble } from "./problem.js";
import { unpacked } from "./session.js";
import { form, post } from "./server.js";
import { Ask, percent, t } from "./words.js";

const SHOWN = 12; // channels of a layer
const ENOUGH = 40; // stations of a short walk

// The stations of a short walk: whole blocks instead of what is inside them. A container of four parts and more is
// walked through part by part, as long as the way does not get too long.
export function stations(layers) {
  const spatial = layers.filter((one) => one.spatial);
  const inside = (path) => spatial.filter((one) => one.path.startsWith(`${path}.`));
  const parts = (path) => new Set(inside(path).map((one) => one.path.slice(path.length + 1).split(".")[0])).size;
  const roots = spatial.filter((one) => !spatial.some((other) => one.path.startsWith(`${other.path}.`)));
  const open = (one) => {
    if (parts(one.path) < 4) return [one];
    const within = inside(one.path);
    return within.filter((x) => !within.some((y) => x.path.startsWith(`${y.path}.`)));
  };
  let found = roots;
  for (;;) {
    const next = found.flatMap(open);
    if (next.length === found.length || next.length > ENOUGH) return found;
    found = next;
  }
}

export function Walk({ session }) {
  const { state } = session;
  const [lane] = state.lanes;
  const [every, all] = useState(false);
  const [after, activate] = useState(true);
  const [problem, trouble] = useState(null);
  const layers = state.layers[lane.model];
  useEffect(() => void session.learnLayers(lane.model).catch(trouble), [lane.model]);
  const way = useMemo(() => layers && (every ? layers.filter((one) => one.spatial) : stations(layers)), [layers, every]);
  if (problem) return html`<section class="work"><${Trouble} problem=${problem} /></section>`;
  if (!way) return html`<section class="work"><p class="quiet">${t("loading")}</p></section>`;
  const why = session.reason("feature-maps");
  if (why || !way.length) return html`<section class="work"><div class="trouble"><strong>${t("barred")}</strong><p lang="en">${why ?? ""}</p></div></section>`;
  return html`
    <section class="work walk" aria-label=${t("walk")}>
      <p class="lead">${t("walkLead")}</p>
      <div class="row bar-top">
        <label><input type="checkbox" checked=${every} onChange=${(event) => all(event.target.checked)} /> ${t("everyLayer", { n: layers.filter((one) => one.spatial).length })}</label>
        <label><input type="checkbox" checked=${after} onChange=${(event) => activate(event.target.checked)} /> ${t("afterActivation")}</label>
      </div>
      <${Ask} name="walk" />
      <ol class="way">
        ${way.map((layer, i) => html`<${Station} key=${`${lane.model} ${layer.path} ${after}`} session=${session} layer=${layer} before=${way[i - 1]} after=${after} lane=${lane} />`)}
      </ol>
    </section>
  `;
}

// Ask once something has come into view, and again where what is asked about has changed.
function useSeen(ask, about) {
  const place = useRef();
  const [seen, see] = useState(false);
  useEffect(() => {
    const watch = new IntersectionObserver((found) => found.some((one) => one.isIntersecting) && see(true), { rootMargin: "300px" });
    watch.observe(place.current);
    return () => watch.disconnect();
  }, []);
  useEffect(() => {
    if (!seen) return;
    const stop = new AbortController();
    ask(stop.signal);
    return () => stop.abort();
  }, [seen, ...about]);
  return place;
}

// What a request for one layer or channel gets: nothing yet, maps, or a problem.
async function explained(method, picture, request, signal, set) {
  set({});
  try {
    const output = { heatmap: false, overlay: false, array: "base64" };
    const found = await post(`explain/${method}`, form(picture, { ...request, output }), signal);
    set({ maps: unpacked(found.maps), details: found.details, geometry: found.image });
  } catch (problem) {
    if (problem.name !== "AbortError") set({ problem });
  }
}

function Station({ session, layer, before, after, lane }) {
  const [found, set] = useState({});
  const [picked, pick] = useState(null);
  const { luts } = session.state;
  const params = { layers: [layer.path], top_k: SHOWN, activation: after ? "after" : "before" };
  const place = useSeen((signal) => (pick(null), explained("feature-maps", lane.picture.blob, { model: lane.model, params }, signal, set)), [lane.picture, lane.model]);
  const [map] = found.maps ?? [];
  const about = found.details?.layers[0];
  const [channels, h, w] = about?.shape ?? layer.shape;
  const smaller = map && before && places(before) > h * w;
  return html`
    <li class="station" ref=${place}>
      <header>
        <h3>${layer.path}</h3>
        <span class="quiet">${layer.type}${about?.activation_applied ? ` → ${about.activation_applied}` : ""}</span>
        <span class="push"></span>
        ${map && html`<span class="shape">${t("shape", { k: channels, h, w })}</span>`}
      </header>
      ${about && html`<p class="silent"><span class="meter"><i style=${{ width: `${100 * about.zeros}%` }}></i></span>${t("silent", { share: percent(about.zeros) })}${smaller ? ` ${t("smaller")}` : ""}</p>`}
      ${found.problem && html`<${Trouble} problem=${found.problem} />`}
      ${map ? html`<${Tiles} map=${map} lut=${luts[session.state.sequential]} pick=${(channel) => pick(picked === channel ? null : channel)} picked=${picked} />`
        : !found.problem && html`<div class="tiles waiting" aria-hidden="true">${Array.from({ length: SHOWN }, () => html`<span class="tile"></span>`)}</div>`}
      ${picked !== null && html`<${Channel} key=${picked} session=${session} layer=${layer} channel=${picked} lane=${lane} />`}
    </li>
  `;
}

// How many places a layer's maps have: its shape is (channels, h, w), however the network holds them.
export const places = ({ shape: [, h, w] }) => h * w;

// One channel: what in this picture set it off, and what it looks for in any.
function Channel({ session, layer, channel, lane }) {
  const [cause, setCause] = useState({});
  const [wish, setWish] = useState({});
  const info = session.state.info[lane.model];
  const input = [info.input.height, info.input.width];
  const params = { layer: layer.path, channels: [channel] };
  const asked = { cause: session.reason("deconvnet"), wish: session.reason("filters") };
  useEffect(() => {
    const stop = new AbortController();
    const request = { model: lane.model, params };
    if (!asked.cause) explained("deconvnet", lane.picture.blob, request, stop.signal, setCause);
    if (!asked.wish) explained("filters", null, request, stop.signal, setWish);
    return () => stop.abort();
  }, [lane.picture, lane.model, channel]);
  const shown = (found, why, label, show) => html`
    <figure>
      <figcaption>${label}</figcaption>
      ${why ? html`<p class="quiet" lang="en">${why}</p>`
        : found.problem ? html`<${Trouble} problem=${found.problem} />`
        : found.maps ? html`<${Patch} map=${found.maps[0]} picture=${lane.picture} geometry=${found.geometry} input=${input} />`
        : html`<p class="quiet" role="status">${t("working")}</p>`}
      <${Ask} name=${show} />
    </figure>`;
  return html`
    <div class="channel" aria-label=${t("channel", { n: channel })}>
      ${shown(cause, asked.cause, t("causeOf", { n: channel }), "deconvnet")}
      ${shown(wish, asked.wish, t("wishOf", { n: channel }), "filters")}
    </div>
  `;
}
