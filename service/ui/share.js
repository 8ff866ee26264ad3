// What people take along: a link that keeps the state, the request for a terminal or a program, files.
import { address } from "./server.js";
import * as draw from "./draw.js";

// The state of the page in the address's hash; the picture never leaves the browser but to be explained.
export function write(state, language) {
  const said = new URLSearchParams();
  const [lane] = state.lanes;
  if (!lane) return;
  said.set("model", lane.model);
  said.set("m", state.cards.map((c) => c.method + (Object.keys(c.params).length ? `~${JSON.stringify(c.params)}` : "")).join("|"));
  if (lane.picture?.sample) said.set("sample", lane.picture.sample);
  if (state.target && !state.references.length) said.set("target", JSON.stringify(state.target));
  if (state.against) said.set("against", JSON.stringify(state.against));
  said.set("opacity", state.opacity);
  said.set("colours", `${state.sequential}|${state.diverging}`);
  if (state.view !== "explain") said.set("view", state.view);
  said.set("lang", language);
  history.replaceState(null, "", `#${said}`);
}

export function restore() {
  const said = new URLSearchParams(location.hash.slice(1));
  const json = (text) => {
    try {
      return JSON.parse(text);
    } catch {
      return null; // a link that somebody has cut short still opens
    }
  };
  const found = { model: said.get("model"), sample: said.get("sample"), view: ["walk", "compare"].includes(said.get("view")) ? said.get("view") : "explain" };
  if (said.has("opacity")) found.opacity = Math.max(0, Math.min(1, Number(said.get("opacity")) || 0));
  [found.sequential, found.diverging] = (said.get("colours") ?? "").split("|");
  found.target = json(said.get("target"));
  found.against = json(said.get("against"));
  if (said.get("m")) {
    found.cards = said.get("m").split("|").map((one) => {
      const [method, ...params] = one.split("~");
      return { method, params: json(params.join("~")) ?? {} };
    });
  }
  return found;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(method, request, lane, locked) {
  const parts = [`curl -s ${quoted(address(`explain/${method}`))}`];
  if (locked) parts.push(`-H "Authorization: Bearer $HEATLENS_API_KEY"`);
  if (lane.picture) parts.push(`-F ${quoted(`image=@${lane.picture.name}`)}`);
  parts.push(`-F ${quoted(`request=${JSON.stringify(request)}`)}`, `-H 'Accept: image/png' -o ${method}.png`);
  return parts.join(" \\\n  ");
}

const literal = (value) =>
  JSON.stringify(value, null, 1).replace(/\n\s*/g, " ").replace(/\b(true|false|null)\b(?=[,\s\]}])/g, (word) => ({ true: "True", false: "False", null: "None" })[word]);

export function python(method, request, lane, locked) {
  const key = locked ? `,\n    headers={"Authorization": "Bearer " + os.environ["HEATLENS_API_KEY"]}` : "";
  const files = lane.picture ? `"image": open(${JSON.stringify(lane.picture.name)}, "rb"), ` : "";
  return [
    ...(locked ? ["import os"] : []),
    "import json",
    "import httpx",
    "import numpy as np",
    "",
    `request = ${literal(request)}`,
    "answer = httpx.post(",
    `    ${JSON.stringify(address(`explain/${method}`))},`,
    `    files={${files}"request": (None, json.dumps(request))},`,
    `    timeout=300${key},`,
    ").raise_for_status().json()",
    `heat = np.array(answer["maps"][0]["array"]["data"], np.float32)`,
    "",
  ].join("\n");
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const named = (run, map, extension) => `${run.result.method}-${map.target?.label ?? map.name}`.replace(/[^\w-]+/g, "-") + extension;

// The map over the whole picture, drawn at the picture's own size.
export async function png(run, map, canvas, picture, place, opacity) {
  const sheet = document.createElement("canvas");
  const patches = !place;
  [sheet.width, sheet.height] = patches ? [canvas.width, canvas.height] : [place.width, place.height];
  const context = sheet.getContext("2d");
  if (!patches) {
    const image = new Image();
    image.src = picture.url;
    await image.decode();
    context.drawImage(image, 0, 0, place.width, place.height);
    context.globalAlpha = opacity;
    context.drawImage(canvas, place.x * place.width, place.y * place.height, place.w * place.width, place.h * place.height);
  } else context.drawImage(canvas, 0, 0);
  sheet.toBlob((blob) => save(blob, named(run, map, ".png")));
}

export const npy = (run, map) => save(draw.npy(map), named(run, map, ".npy"));
export const json = (run) => save(new Blob([JSON.stringify(run.result)], { type: "application/json" }), `${run.result.method}.json`);
