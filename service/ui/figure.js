// A map over its picture: coloured here, so that neither opacity nor colours ask the server; what lies under the
// pointer is read in all maps at once.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import * as draw from "./draw.js";
import { number, t } from "./words.js";

// Where people look, as shares of the picture; figures listen to it and to nothing else.
const gaze = { at: null, listeners: new Set() };
function look(at) {
  gaze.at = at;
  for (const listener of gaze.listeners) listener(at);
}
function useGaze() {
  const [at, set] = useState(gaze.at);
  useEffect(() => {
    gaze.listeners.add(set);
    return () => gaze.listeners.delete(set);
  }, []);
  return at;
}

export const share = (x) => `${100 * x}%`;

// Where the model looked, as shares of the picture.
export function seen(picture, geometry) {
  const width = geometry?.width ?? picture.width;
  const height = geometry?.height ?? picture.height;
  const [x0, y0, x1, y1] = geometry?.box ?? [0, 0, width, height];
  return { width, height, x: x0 / width, y: y0 / height, w: (x1 - x0) / width, h: (y1 - y0) / height };
}

export const over = (map) => map.shape.length === 2 || (map.kind === "picture" && !map.patch);

export function Figure({ map, picture, geometry, input, look: style, label, rough, bare }) {
  const canvas = useRef();
  const [scale, setScale] = useState(null);
  const place = seen(picture, geometry);
  const heat = map?.shape.length === 2;
  const centred = heat && draw.signed(map);
  const lut = style.luts[centred ? style.diverging : style.sequential];
  useLayoutEffect(() => {
    if (!map) return;
    if (!heat) {
      const [, h, w] = map.shape;
      draw.put(canvas.current, draw.picture(map.values, map.shape, map.kind), w, h);
      return;
    }
    const large = draw.resize(map.values, map.shape, input, map.interpolation);
    const { pixels, low, high } = draw.colours(large, centred, lut);
    draw.put(canvas.current, pixels, input[1], input[0]);
    setScale({ low, high });
  }, [map, lut, input[0], input[1]]);

  const move = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    look({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
  };
  const keys = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") look(null);
    if (!step) return;
    event.preventDefault();
    const from = gaze.at ?? { x: 0.5, y: 0.5 };
    const clip = (v) => Math.max(0, Math.min(0.999, v));
    look({ x: clip(from.x + step[0] / 40), y: clip(from.y + step[1] / 40) });
  };
  const size = { left: share(place.x), top: share(place.y), width: share(place.w), height: share(place.h) };
  return html`
    <div class="figure">
      <div
        class=${"canvas" + (rough ? " rough" : "")} style=${{ aspectRatio: `${place.width} / ${place.height}` }}
        tabindex="0" role="img" aria-label=${label} onPointerMove=${move} onPointerLeave=${() => look(null)} onKeyDown=${keys}
      >
        <img src=${picture.url} alt="" draggable=${false} />
        ${map && html`<canvas ref=${canvas} style=${{ ...size, opacity: heat ? style.opacity : 1 }} class=${map.interpolation} />`}
        <div class="unseen" style=${size}></div>
        <${Cross} />
      </div>
      ${heat && scale && !bare && html`<${Legend} low=${scale.low} high=${scale.high} lut=${lut} map=${map} place=${place} />`}
    </div>
  `;
}

function Cross() {
  const at = useGaze();
  return at && html`<div class="cross" style=${{ left: share(at.x), top: share(at.y) }}></div>`;
}

function Legend({ low, high, lut, map, place }) {
  const bar = useRef();
  const at = useGaze();
  useLayoutEffect(() => {
    const pixels = new Uint8ClampedArray(256 * 4).fill(255);
    for (let i = 0; i < 256; i++) for (let c = 0; c < 3; c++) pixels[4 * i + c] = lut[3 * i + c];
    draw.put(bar.current, pixels, 256, 1);
  }, [lut]);
  const value = at && read(map, (at.x - place.x) / place.w, (at.y - place.y) / place.h);
  return html`
    <div class="legend">
      <span>${number(low)}</span>
      <div class="bar">
        <canvas ref=${bar}></canvas>
        ${value !== null && html`<i style=${{ left: share(Math.max(0, Math.min(1, (value - low) / (high - low || 1)))) }}></i>`}
      </div>
      <span>${number(high)}</span>
      <output class="value">${value !== null ? number(value, 4) : ""}</output>
    </div>
  `;
}

// The raw value at a place of the part that the model saw; null beside it.
export function read(map, x, y) {
  const [h, w] = map.shape;
  if (!(x >= 0 && x < 1 && y >= 0 && y < 1)) return null;
  return map.values[Math.floor(y * h) * w + Math.floor(x * w)];
}

// The parts of a grid (k, h, w), each a small picture scaled on its own.
export function Tiles({ map, lut, pick, picked }) {
  const [k, h, w] = map.shape;
  // The same pieces each time, or each change of anything would paint them anew.
  const parts = useMemo(() => Array.from({ length: k }, (_, i) => map.values.subarray(i * h * w, (i + 1) * h * w)), [map]);
  return html`
    <div class="tiles">
      ${parts.map((values, i) => html`
        <${Tile} key=${map.channels?.[i] ?? i} values=${values} h=${h} w=${w}
          lut=${lut} channel=${map.channels?.[i] ?? i} pick=${pick} picked=${picked === (map.channels?.[i] ?? i)} />
      `)}
    </div>
  `;
}

function Tile({ values, h, w, lut, channel, pick, picked }) {
  const canvas = useRef();
  useLayoutEffect(() => draw.put(canvas.current, draw.colours(values, false, lut).pixels, w, h), [values, lut]);
  const label = t("channel", { n: channel });
  const inside = html`<canvas ref=${canvas} class="nearest"></canvas><span>${channel}</span>`;
  if (!pick) return html`<span class="tile" role="img" aria-label=${label} title=${label}>${inside}</span>`;
  return html`<button class="tile" aria-pressed=${picked} aria-label=${label} title=${label} onClick=${() => pick(channel)}>${inside}</button>`;
}

// A projection beside the part of the picture that it explains; or a picture that a filter asks for.
export function Patch({ map, picture, geometry, input }) {
  const left = useRef();
  const right = useRef();
  useEffect(() => {
    const [, h, w] = map.shape;
    const whole = document.createElement("canvas");
    draw.put(whole, draw.picture(map.values, map.shape, map.kind), w, h);
    const [x0, y0, x1, y1] = map.patch ?? [0, 0, w, h];
    cut(left.current, whole, [x0, y0, x1 - x0, y1 - y0]);
    if (!map.patch) return;
    const image = new Image();
    image.onload = () => {
      const [bx, by, bx1, by1] = geometry.box;
      const [sx, sy] = [(bx1 - bx) / input[1], (by1 - by) / input[0]];
      if (right.current) cut(right.current, image, [bx + x0 * sx, by + y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy]);
    };
    image.src = picture.url;
  }, [map, picture]);
  return html`
    <div class="patches">
      <canvas ref=${left} class="nearest" role="img" aria-label=${map.patch ? t("projection") : t("filter")}></canvas>
      ${map.patch && html`<canvas ref=${right} role="img" aria-label=${t("patch")}></canvas>`}
    </div>
  `;
}

function cut(canvas, source, [x, y, w, h]) {
  canvas.width = 224;
  canvas.height = Math.max(1, Math.round((224 * h) / w));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = w > 112;
  context.drawImage(source, x, y, w, h, 0, 0, canvas.width, canvas.height);
}
