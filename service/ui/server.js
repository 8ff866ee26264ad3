// The service over HTTP: its problems as errors, and its events while it works.
const BASE = new URL("..", import.meta.url);
const KEY = "heatlens-key";
// By which replicas of a server keep a tab's pictures together.
const TAB = Array.from(crypto.getRandomValues(new Uint32Array(2)), (part) => part.toString(16).padStart(8, "0")).join("");

export const address = (path) => new URL(path, BASE).href;
export const key = () => sessionStorage.getItem(KEY);
export const unlock = (given) => sessionStorage.setItem(KEY, given);

// What went wrong, as RFC 9457 has it; `offline` and `broken` are said by the page itself.
export class Problem extends Error {
  constructor({ type, title, detail, status, errors }, retryAfter = null) {
    super(detail);
    Object.assign(this, { kind: type.split(":").pop(), title, detail, status, errors: errors ?? [], retryAfter });
  }
}

const lost = (kind) => new Problem({ type: kind, title: "", detail: "", status: 0 });

export async function send(path, options = {}) {
  const headers = { accept: "application/json", "x-session-id": TAB, ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(address(path), { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : lost("offline");
  }
  if (response.ok) return response;
  const problem = response.headers.get("content-type")?.startsWith("application/problem+json")
    ? await response.json()
    : { type: "unknown", title: response.statusText, detail: "", status: response.status };
  throw new Problem(problem, Number(response.headers.get("retry-after")) || null);
}

export const get = async (path) => (await send(path)).json();

export function form(picture, request, further = []) {
  const body = new FormData();
  if (picture) body.append("image", picture, picture.name ?? "picture");
  body.append("request", JSON.stringify(request));
  for (const one of further) body.append("pictures", one, one.name ?? "picture");
  return body;
}

export const post = async (path, body, signal) => (await send(path, { method: "POST", body, signal })).json();

// Ask and be told on the way: `on(name, data)` for each event, the last one's data as the result. An EventSource only gets.
export async function watch(path, body, { signal, on }) {
  const response = await send(path, { method: "POST", body, signal, headers: { accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : lost("broken");
    });
    if (done) throw lost("broken");
    text += value;
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const { event, data } = read(block);
      if (!data) continue;
      if (event === "error") throw new Problem(JSON.parse(data));
      if (event === "result") return JSON.parse(data);
      on(event, JSON.parse(data));
    }
  }
}

function read(block) {
  const found = { event: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name === "data") found.data += (found.data && "\n") + value;
    else if (name) found[name] = value;
  }
  return found;
}
