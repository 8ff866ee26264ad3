// What is on the page and what is asked of the server for it: one state, changed in one place.
import { form, get, post, watch } from "./server.js";
import { useEffect, useReducer } from "./html.js";
import * as draw from "./draw.js";

const FIRST = ["grad-cam", "ram", "attention-relevance", "occlusion", "saliency"]; // what a first look takes, by what applies
const HEAVY = /\bper (sample|mask|distinct|channel|position|segment|step)|samples times|designs times|evaluations|for each s/;
const AT_ONCE = 2;

export const heavy = (method) => HEAVY.test(method.cost);

export class Session {
  constructor() {
    this.state = {
      ready: false, locked: false, problem: null, said: "",
      models: [], methods: [], info: {}, layers: {}, luts: {}, maps: [],
      lanes: [], cards: [], target: null, against: null, box: null, references: [],
      view: "explain", opacity: 0.55, sequential: null, diverging: null,
    };
    this.listeners = new Set();
    this.counter = 0;
  }

  set(patch) {
    this.state = { ...this.state, ...patch };
    for (const listener of this.listeners) listener();
  }

  // Loading

  async start(restored = {}) {
    try {
      const [models, methods, maps] = await Promise.all([get("models"), get("methods"), get("ui/colormaps.json")]);
      const luts = Object.fromEntries(maps.map((one) => [one.name, draw.table(one.colors)]));
      const first = (kind) => maps.find((one) => one.kind === kind).name;
      const known = (name) => models.models.find((one) => one.name === name);
      const model = known(restored.model) ?? models.models.find((one) => one.default) ?? models.models[0];
      this.set({
        models: models.models, methods: methods.methods, maps, luts, locked: false, problem: null,
        sequential: luts[restored.sequential] ? restored.sequential : first("sequential"),
        diverging: luts[restored.diverging] ? restored.diverging : first("diverging"),
        opacity: restored.opacity ?? this.state.opacity, view: restored.view ?? "explain",
        target: restored.target ?? null, against: restored.against ?? null, box: restored.box ?? null,
        lanes: [{ model: model.name, picture: null, predictions: [], geometry: null, problem: null }],
      });
      await this.learn(model.name);
      const named = restored.cards ?? FIRST.filter((name) => !this.reason(name)).slice(0, 1).map((method) => ({ method }));
      this.set({ ready: true, cards: named.filter((one) => this.method(one.method)).map((one) => this.card(one.method, one.params)) });
      return true;
    } catch (problem) {
      this.set({ locked: problem.status === 401, problem: problem.status === 401 ? null : problem });
      return false;
    }
  }

  // What is known of a model, once it has loaded.
  async learn(name) {
    for (;;) {
      const info = await get(`models/${name}`);
      this.set({ info: { ...this.state.info, [name]: info } });
      if (info.status !== "loading") return info;
      await new Promise((go) => setTimeout(go, 1000));
    }
  }

  async learnLayers(name) {
    if (this.state.layers[name]) return;
    const { layers } = await get(`models/${name}/layers`);
    this.set({ layers: { ...this.state.layers, [name]: layers } });
  }

  method(name) {
    return this.state.methods.find((one) => one.name === name);
  }

  // Why a method does not apply to the model of a lane; null where it does, or where nobody knows yet.
  reason(name, lane = 0) {
    const uses = this.state.info[this.state.lanes[lane]?.model]?.methods;
    return uses?.find((one) => one.name === name)?.reason ?? null;
  }

  get task() {
    return this.state.info[this.state.lanes[0]?.model]?.task;
  }

  // Pictures and models

  lane(index, patch) {
    this.set({ lanes: this.state.lanes.map((one, i) => (i === index ? { ...one, ...patch } : one)) });
  }

  show(picture, index = 0) {
    const old = this.state.lanes[index]?.picture;
    if (old && old.url !== picture.url && old.owned) URL.revokeObjectURL(old.url);
    this.lane(index, { picture, predictions: [], geometry: null, problem: null });
    if (index === 0 && !picture.kept) this.set({ target: null, against: null, box: null, references: this.task === "embedding" ? this.state.references : [] });
    this.again(() => true, index);
    this.measure(picture, index);
  }

  // Write down how large a picture is, once the browser knows: on the picture itself, as it is still the same one.
  async measure(picture, index) {
    const size = await picture.sized;
    const shown = this.state.lanes[index]?.picture;
    if (shown?.url !== picture.url) return;
    Object.assign(shown, size);
    this.set({});
  }

  async use(model, index = 0) {
    this.lane(index, { model, predictions: [], geometry: null, problem: null });
    if (index === 0) this.set({ target: null, against: null, box: null, references: [] });
    const info = await this.learn(model).catch((problem) => void this.lane(index, { problem }));
    if (!info) return;
    if (info.status === "failed") return this.lane(index, { problem: { kind: "model-unavailable", detail: info.error } });
    if (index === 0 && !this.state.cards.some((card) => !this.reason(card.method))) {
      const name = FIRST.find((one) => !this.reason(one));
      if (name) return this.add(name), this.again(() => true, index);
    }
    this.again(() => true, index);
  }

  // A second picture, or a second model, beside the first.
  beside(patch) {
    if (patch === null) {
      this.state.cards.forEach((card) => card.runs[1]?.stop?.abort());
      this.set({ lanes: this.state.lanes.slice(0, 1), cards: this.state.cards.map((c) => ({ ...c, runs: c.runs.slice(0, 1) })) });
      return;
    }
    const [first] = this.state.lanes;
    const lane = { model: first.model, picture: first.picture, predictions: [], geometry: null, problem: null, ...this.state.lanes[1], ...patch };
    this.set({ lanes: [first, lane] });
    this.measure(lane.picture, 1);
    if (patch.model) this.use(patch.model, 1);
    else this.show({ ...lane.picture, owned: false }, 1);
  }

  aim(target, against = null) {
    this.set({ target, against });
    this.again((card) => this.method(card.method).needs.includes("targets"));
  }

  refer(pictures) {
    this.set({ references: pictures });
    this.bound();
  }

  // A box on the picture: to a detector or a segmenter it is what is asked about.
  box(box) {
    this.set({ box });
    this.bound();
  }

  // Aim anew at what is chosen: its class, and the box or the mask where the task has them.
  bound() {
    const { target, box, references, lanes } = this.state;
    const one = target ?? lanes[0].predictions[0];
    if (this.task === "embedding") return this.aim(target);
    if (!one || !["detection", "segmentation"].includes(this.task)) return;
    const index = target?.asked?.class ?? lanes[0].predictions.find((found) => found.label === one.label)?.index ?? one.index;
    const named = { index: one.index, label: one.label };
    if (this.task === "detection") return this.aim(box ? { ...named, asked: { box, class: index } } : null);
    const region = references.length ? { mask: 0 } : box ?? "predicted";
    return this.aim({ ...named, asked: { class: index, region } });
  }

  // Cards: a method each, with a run for each lane

  card(method, params = {}) {
    return { id: ++this.counter, method, params, runs: [] };
  }

  add(method, params) {
    const card = this.card(method, params);
    this.set({ cards: [...this.state.cards, card] });
    this.again((one) => one.id === card.id);
  }

  remove(id) {
    this.state.cards.find((card) => card.id === id)?.runs.forEach((run) => run?.stop?.abort());
    this.set({ cards: this.state.cards.filter((card) => card.id !== id) });
    this.pump();
  }

  change(id, params) {
    this.set({ cards: this.state.cards.map((card) => (card.id === id ? { ...card, params } : card)) });
    this.again((card) => card.id === id);
  }

  run(id, lane, patch) {
    this.set({
      cards: this.state.cards.map((card) => {
        if (card.id !== id) return card;
        const runs = this.state.lanes.map((_, i) => (i === lane ? { ...card.runs[i], ...patch } : card.runs[i]));
        return { ...card, runs };
      }),
    });
  }

  // Ask anew for those cards that a change concerns; what is under way for them is called off.
  again(concerns, only = null) {
    for (const card of this.state.cards.filter(concerns)) {
      this.state.lanes.forEach((lane, i) => {
        if ((only !== null && i !== only) || (!lane.picture && this.method(card.method).needs.includes("image"))) return;
        card.runs[i]?.stop?.abort();
        const alone = this.task === "embedding" && !this.state.references.length && this.method(card.method).needs.includes("targets");
        const reason = this.reason(card.method, i);
        this.run(card.id, i, { state: reason ? "barred" : alone ? "alone" : "waiting", reason, problem: null, progress: null, stop: null });
      });
    }
    this.pump();
  }

  halt(id, lane) {
    this.state.cards.find((card) => card.id === id)?.runs[lane]?.stop?.abort();
    this.run(id, lane, { state: "stopped", progress: null, stop: null });
    this.pump();
  }

  // Few at a time, and of those that take long one: a look at Grad-CAM must not wait for RISE.
  pump() {
    const all = this.state.cards.flatMap((card) => card.runs.map((run, lane) => ({ card, run, lane })));
    const running = all.filter(({ run }) => run?.state === "running");
    const slow = ({ card }) => heavy(this.method(card.method));
    let [free, long] = [AT_ONCE - running.length, running.some(slow)];
    const waiting = all.filter(({ run }) => run?.state === "waiting").sort((a, b) => slow(a) - slow(b));
    for (const one of waiting) {
      if (free <= 0) return;
      if (slow(one) && long) continue;
      long ||= slow(one);
      free--;
      this.ask(one.card, one.lane);
    }
  }

  // What is asked of the server, without the picture.
  request(card, lane = 0) {
    const { model } = this.state.lanes[lane];
    const request = { model };
    if (this.method(card.method).needs.includes("targets")) {
      const target = this.target(lane);
      if (target !== null) request.targets = [target];
    }
    if (Object.keys(card.params).length) request.params = card.params;
    return request;
  }

  // The target as a request names it: by its label where another model counts its classes otherwise.
  target(lane) {
    const { target, against, lanes, references } = this.state;
    if (this.task === "embedding" && references.length) return { like: references.map((_, i) => i) };
    if (target === null) return null;
    const same = lanes[lane].model === lanes[0].model;
    if (typeof target.asked === "object" && target.asked !== null) return target.asked;
    const named = (one) => (same || !one.label ? one.index : one.label);
    return against ? { class: named(target), against: [named(against)] } : named(target);
  }

  async ask(card, index) {
    const stop = new AbortController();
    const mine = () => this.state.cards.find((one) => one.id === card.id)?.runs[index]?.stop === stop;
    this.run(card.id, index, { state: "running", stop, progress: null, problem: null });
    const lane = this.state.lanes[index];
    const method = this.method(card.method);
    const request = { ...this.request(card, index), output: { heatmap: false, overlay: false, array: "base64" } };
    const picture = method.needs.includes("image") ? lane.picture.blob : null;
    const further = this.further(request);
    try {
      const body = form(picture, request, further);
      const on = (name, data) => {
        if (!mine()) return;
        const patch = { progress: { done: data.rows_done, total: data.rows_total, left: data.seconds_left } };
        if (name === "partial") Object.assign(patch, { maps: unpacked(data.maps), rough: true });
        this.run(card.id, index, patch);
      };
      const result = await watch(`explain/${method.name}`, body, { signal: stop.signal, on });
      if (!mine()) return;
      const maps = unpacked(result.maps);
      if (result.image) this.lane(index, { geometry: result.image, predictions: result.predictions, problem: null });
      this.run(card.id, index, { state: "done", maps, rough: false, result, progress: null, stop: null });
    } catch (problem) {
      if (problem.name === "AbortError" || !mine()) return;
      if (problem.status === 401) this.set({ locked: true });
      this.run(card.id, index, { state: "failed", problem, progress: null, stop: null, maps: null, result: null });
    }
    this.pump();
  }

  // The pictures that a request's target names.
  further({ targets: [target] = [] }) {
    return target?.like || target?.region?.mask === 0 ? this.state.references.map((one) => one.blob) : [];
  }

  // All that the model says of a picture, to choose a class from.
  async classes() {
    const [lane] = this.state.lanes;
    const body = form(lane.picture.blob, { model: lane.model, top_k: 1000 });
    return (await post("predict", body)).predictions;
  }
}

// Maps with their numbers unpacked; what was sent is kept for whoever downloads it.
export function unpacked(maps) {
  return maps.map((map) => ({ ...map, ...draw.decode(map.array) }));
}

export function useSession(session) {
  const [, redraw] = useReducer((n) => n + 1, 0);
  const drawn = session.state;
  useEffect(() => {
    session.listeners.add(redraw);
    if (session.state !== drawn) redraw(); // what came after the first drawing and before this
    return () => session.listeners.delete(redraw);
  }, [session]);
  return session.state;
}
