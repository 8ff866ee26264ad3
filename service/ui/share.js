// What people take along: a link that keeps the state, the request for a terminal or a program, files.
import { address } from "./server.js";
import * as draw from "./draw.js";

// The state of the page in the address's hash; the picture never leaves the browser but to be explained.
export function write(state, language) {
  const said = new URLSearchParams();
  const [lane, second] = state.lanes;
  if (!lane) return;
  said.set("model", lane.model);
  said.set("m", state.cards.map((c) => c.method + (Object.keys(c.params).length ? `~${JSON.stringify(c.params)}` : "")).join("|"));
  if (lane.picture?.sample) said.set("sample", lane.picture.sample);
  if (second && (second.picture?.sample || second.picture?.url === lane.picture?.url)) {
    said.set("model2", second.model);
    said.set("sample2", second.picture.sample ?? "");
  }
  if (state.box) said.set("box", state.box.join(","));
  if (state.target && !state.references.length) said.set("target", JSON.stringify(state.target));
  if (state.against) said.set("against", JSON.stringify(state.against));
  said.set("opacity", state.opacity);
  said.set("colours", `${state.sequential}|${state.diverging}`);
  if (state.view !== "explain") said.set("view", state.view);
  said.set("lang", language);
  history.replaceState(null, "", `#${said}`);
}

// x0, y0, x1, y1 as somebody has typed them; null where they enclose nothing.
export function box(text) {
  const [x0, y0, x1, y1] = text.split(/[\s,;]+/).filter(Boolean).map(Number);
  return x1 > x0 && y1 > y0 && Math.max(x1, y1, -x0, -y0) < Infinity ? [x0, y0, x1, y1] : null;
}

const plain = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : null);

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
  const opacity = parseFloat(said.get("opacity"));
  if (opacity >= 0 && opacity <= 1) found.opacity = opacity;
  if (said.has("model2")) found.second = { model: said.get("model2"), sample: said.get("sample2") };
  found.box = box(said.get("box") ?? "");
  [found.sequential, found.diverging] = (said.get("colours") ?? "").split("|");
  const one = (name) => (plain(json(said.get(name)))?.index === undefined ? null : json(said.get(name)));
  [found.target, found.against] = [one("target"), one("against")];
  // A link without methods is one of a page where all were taken away.
  found.cards = said.get("m")?.split("|").filter(Boolean).map((card) => {
    const [method, ...params] = card.split("~");
    return { method, params: plain(json(params.join("~"))) ?? {} };
  });
  return found;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const file = (field, name) => `-F ${quoted(`${field}=@"${name.replace(/["\\]/g, "\\$&")}"`)}`; // as curl quotes in a form

// The request for a terminal; `further` are the names of the pictures that its target names.
export function curl(method, request, name, further, locked) {
  const parts = [`curl -s ${quoted(address(`explain/${method}`))}`];
  if (locked) parts.push(`-H "Authorization: Bearer $HEATLENS_API_KEY"`);
  if (name) parts.push(file("image", name));
  parts.push(...further.map((one) => file("pictures", one)));
  parts.push(`--form-string ${quoted(`request=${JSON.stringify(request)}`)}`, `-H 'Accept: image/png' -o ${method}.png`);
  return parts.join(" \\\n  ");
}

function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value !== null && typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`).join(", ")}}`;
  return { true: "True", false: "False", null: "None" }[typeof value === "string" ? "" : String(value)] ?? JSON.stringify(value);
}

// The same for a program, by the client.
export function python(method, { output, ...request }, name, further, locked) {
  const drawn = output && Object.entries({ overlay: true, ...output });
  const said = Object.entries(request).concat(drawn ?? []).map(([field, value]) => `${field}=${literal(value)}`);
  if (further.length) said.push(`pictures=${literal(further)}`);
  return [
    ...(locked ? ["import os"] : []),
    "from heatlens_client import Client",
    "",
    `hl = Client(${JSON.stringify(address("").replace(/\/$/, ""))}${locked ? ', api_key=os.environ["HEATLENS_API_KEY"]' : ""})`,
    `found = hl.explain(${[literal(method), ...(name ? [literal(name)] : []), ...said].join(", ")})`,
    "heat = found.maps[0].values",
    ...(drawn ? [`found.maps[0].overlay.save(${literal(`${method}.png`)})`] : []),
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

// All parts of a grid, row by row.
export function grid(run, map, canvases) {
  const columns = Math.ceil(Math.sqrt(canvases.length));
  const [{ width, height }] = canvases;
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [columns * width, Math.ceil(canvases.length / columns) * height];
  const context = sheet.getContext("2d");
  canvases.forEach((one, i) => context.drawImage(one, (i % columns) * width, Math.floor(i / columns) * height));
  sheet.toBlob((blob) => save(blob, named(run, map, ".png")));
}

export const npy = (run, map) => save(draw.npy(map), named(run, map, ".npy"));
export const json = (run) => save(new Blob([JSON.stringify(run.result)], { type: "application/json" }), `${run.result.method}.json`);
