// What some tasks ask for beside a class: a box drawn on the picture, a mask, pictures to be held against.
import { html, useRef, useState } from "./html.js";
import { seen, share } from "./figure.js";
import { Text } from "./form.js";
import { Pick, Samples } from "./picture.js";
import { box as typed } from "./share.js";
import { percent, t } from "./words.js";

const at = ([x0, y0, x1, y1], { width, height }) => ({ left: share(x0 / width), top: share(y0 / height), width: share((x1 - x0) / width), height: share((y1 - y0) / height) });

// Whether a box means something: to a detector or a segmenter, or to a comparison, which says how much lies in it.
const boxed = (session) => ["detection", "segmentation"].includes(session.task) || session.state.view === "compare";

// The picture, with what a detector found on it; dragging draws a box.
export function Drawn({ session, lane }) {
  const place = useRef();
  const [from, start] = useState(null);
  const { box, target } = session.state;
  const may = boxed(session);
  const size = seen(lane.picture, lane.geometry);
  const point = (event) => {
    const frame = place.current.getBoundingClientRect();
    const clip = (v) => Math.max(0, Math.min(1, v));
    return [clip((event.clientX - frame.left) / frame.width) * size.width, clip((event.clientY - frame.top) / frame.height) * size.height];
  };
  const between = ([x0, y0], [x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map(Math.round);
  const down = (event) => {
    if (!may) return;
    place.current.setPointerCapture(event.pointerId);
    start(point(event));
  };
  const move = (event) => from && session.set({ box: between(from, point(event)) });
  const up = (event) => {
    if (!from) return;
    const drawn = between(from, point(event));
    start(null);
    session.box(drawn[2] - drawn[0] > 2 && drawn[3] - drawn[1] > 2 ? drawn : null);
  };
  return html`
    <figure ref=${place} class=${may ? "drawn may" : "drawn"} style=${{ aspectRatio: `${size.width} / ${size.height}` }} onPointerDown=${down} onPointerMove=${move} onPointerUp=${up}>
      <img src=${lane.picture.url} alt=${lane.picture.sample ? t(`sample.${lane.picture.sample}`) : lane.picture.name} draggable=${false} />
      ${lane.predictions.filter((one) => one.box).map((one) => html`
        <span key=${one.rank} class=${"found" + (target?.asked?.detection === one.rank ? " chosen" : "")} style=${at(one.box, size)} aria-hidden="true"><i>${one.label} ${percent(one.score)}</i></span>`)}
      ${may && box && html`<span class="box" style=${at(box, size)} aria-hidden="true"></span>`}
    </figure>
    ${may && html`<${Typed} session=${session} size=${size} />`}
  `;
}

// The same box for those who type; x0, y0, x1, y1 in pixels of the picture.
function Typed({ session }) {
  const { box } = session.state;
  return html`
    <div class="typed">
      <label for="box">${t("box")}</label>
      <${Text} id="box" value=${box?.join(", ") ?? ""} placeholder="x0, y0, x1, y1" act=${(text) => session.box(typed(text))} />
      ${box && html`<button onClick=${() => session.box(null)}>${t("noBox")}</button>`}
    </div>
  `;
}

// Pictures to be held against, of an embedding; a mask, of a segmenter.
export function References({ session }) {
  const { references } = session.state;
  const mask = session.task === "segmentation";
  const add = (picture) => session.refer(mask ? [picture] : [...references, picture]);
  return html`
    <div class="references">
      <h2>${t(mask ? "mask" : "references")}</h2>
      <div class="row">
        <${Pick} label=${t(mask ? "chooseMask" : "addReference")} take=${add} />
        ${!mask && html`<${Samples} take=${add} fail=${(problem) => session.lane(0, { problem })} />`}
      </div>
      ${references.length > 0 && html`
        <ul class="row">${references.map((one, i) => html`
          <li key=${one.url}><button class="sample" aria-label=${t("removePicture", { name: one.name })} title=${t("removePicture", { name: one.name })}
            onClick=${() => session.refer(references.filter((_, j) => j !== i))}><img src=${one.url} alt="" /></button></li>`)}
        </ul>`}
    </div>
  `;
}
