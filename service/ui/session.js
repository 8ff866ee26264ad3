// What is on the page and what is asked of the server for it: one state, changed in one place.
import { form, get, post, watch } from "./server.js";
import { hold, useEffect, useReducer } from "./html.js";
import * as draw from "./draw.js";

const FIRST = ["grad-cam", "ram", "attention-relevance", "occlusion", "saliency"]; // what a first look takes, by what applies
const LONG = 40; // passes: what takes more is asked for one at a time
const AT_ONCE = 2;
export const CONTRASTS = ["classification", "multilabel"]; // tasks whose classes can be told from others

export class Session {
  constructor() {
    this.state = {
      ready: false, locked: false, problem: null,
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
      const map = (kind, name) => (maps.find((one) => one.kind === kind && one.name === name) ?? maps.find((one) => one.kind === kind)).name;
      const known = (name) => models.models.find((one) => one.name === name);
      const model = known(restored.model) ?? models.models.find((one) => one.default) ?? models.models[0];
      this.set({
        models: models.models, methods: methods.methods, maps, luts, locked: false, problem: null,
        sequential: map("sequential", restored.sequential), diverging: map("diverging", restored.diverging),
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
    return this.uses(name, lane)?.reason ?? null;
  }

  // Whether it takes many passes on the model of a lane, of which the server tells before it has run.
  heavy(name, lane = 0) {
    return this.uses(name, lane)?.passes > LONG;
  }

  uses(name, lane) {
    return this.state.info[this.state.lanes[lane]?.model]?.methods?.find((one) => one.name === name);
  }

  taskOf(lane) {
    return this.state.info[this.state.lanes[lane]?.model]?.task;
  }

  get task() {
    return this.taskOf(0);
  }

  // Pictures and models

  lane(index, patch) {
    this.set({ lanes: this.state.lanes.map((one, i) => (i === index ? { ...one, ...patch } : one)) });
  }

  show(picture, index = 0) {
    hold(new Promise((go) => (this.drawn = go)));
    const old = this.state.lanes[index]?.picture;
    // A second model looks at whatever picture the first one looks at.
    const shared = this.state.lanes.map((one, i) => i === index || (index === 0 && old && one.picture?.url === old.url));
    shared.forEach((is, i) => is && this.lane(i, { picture, predictions: [], geometry: null, problem: null }));
    if (old?.owned && !this.state.lanes.some((one) => one.picture?.url === old.url)) URL.revokeObjectURL(old.url);
    const aimed = index === 0 && !picture.kept && this.forget(this.task === "embedding" ? this.state.references : []);
    this.again((card, i) => shared[i] || (aimed && this.targeted(card)));
    this.measure(picture, index);
  }

  // End what is asked about, with its picture or model; says whether anything was.
  forget(references = []) {
    const { target, against, box, references: before } = this.state;
    this.set({ target: null, against: null, box: null, references });
    return !!(target || against || box) || before.length > references.length;
  }

  targeted(card) {
    return this.method(card.method).needs.includes("targets");
  }

  // Write down how large a picture is, once the browser knows, on the picture itself.
  async measure(picture, index) {
    const size = await picture.sized;
    const shown = this.state.lanes[index]?.picture;
    if (shown?.url !== picture.url) return;
    Object.assign(shown, size);
    this.set({});
  }

  async use(model, index = 0) {
    const [first, second] = this.state.lanes;
    // A second picture is looked at by whatever model looks at the first one.
    const shared = this.state.lanes.map((_, i) => i === index || (index === 0 && second.model === first.model && second.picture?.url !== first.picture?.url));
    shared.forEach((is, i) => is && this.lane(i, { model, predictions: [], geometry: null, problem: null }));
    const aimed = index === 0 && this.forget();
    this.stop((i) => shared[i]); // what is shown there is another model's
    const trouble = (problem) => shared.forEach((is, i) => is && this.lane(i, { problem }));
    const info = await this.learn(model).catch((problem) => problem);
    if (this.state.lanes[index]?.model !== model) return; // another one was chosen meanwhile
    if (info instanceof Error) return trouble(info);
    if (info.status === "failed") return trouble({ kind: "model-unavailable", detail: info.error, errors: [] });
    if (index === 0 && this.state.cards.length && !this.state.cards.some((card) => !this.reason(card.method))) {
      const name = FIRST.find((one) => !this.reason(one));
      if (name) this.set({ cards: [...this.state.cards, this.card(name)] });
    }
    this.again((card, i) => shared[i] || (aimed && this.targeted(card)));
  }

  // Call off what is under way in some lanes, and forget its maps.
  stop(concerns) {
    const cards = this.state.cards.map((card) => ({ ...card, runs: card.runs.map((run, i) => (concerns(i) ? void run?.stop?.abort() : run)) }));
    this.set({ cards });
    this.pump();
  }

  // A second picture, or a second model, beside the first.
  beside(patch) {
    if (patch === null) {
      const [first, second] = this.state.lanes;
      if (second?.picture.owned && second.picture.url !== first.picture.url) URL.revokeObjectURL(second.picture.url);
      this.set({ lanes: [first] });
      this.stop((i) => i === 1);
      return;
    }
    const [first, second] = this.state.lanes;
    this.set({ lanes: [first, { model: first.model, picture: first.picture, predictions: [], geometry: null, problem: null, ...second }] });
    if (!patch.model) return this.show(patch.picture, 1);
    if (patch.picture) this.lane(1, { picture: patch.picture }), this.measure(patch.picture, 1);
    this.use(patch.model, 1);
  }

  aim(target, against = null) {
    this.set({ target, against });
    this.again((card) => this.targeted(card));
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

  // Ask anew for cards and lanes that a change concerns; what is under way for them is called off.
  again(concerns) {
    for (const card of this.state.cards) {
      this.state.lanes.forEach((lane, i) => {
        if (!concerns(card, i) || (!lane.picture && this.method(card.method).needs.includes("image"))) return;
        card.runs[i]?.stop?.abort();
        const alone = this.taskOf(i) === "embedding" && !this.state.references.length && this.targeted(card);
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
    const slow = ({ card, lane }) => this.heavy(card.method, lane);
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
    if (this.targeted(card)) {
      const target = this.target(lane);
      if (target !== null) request.targets = [target];
    }
    if (Object.keys(card.params).length) request.params = card.params;
    return request;
  }

  // The target in the words of a lane's own model and picture: others have other classes, and objects elsewhere.
  target(lane) {
    const { target, against, lanes, references } = this.state;
    const [first, own] = [lanes[0], lanes[lane]];
    const task = this.taskOf(lane);
    if (task === "embedding") return references.length ? { like: references.map((_, i) => i) } : null;
    if (target === null) return null;
    const { asked } = target;
    const same = own.model === first.model;
    const here = own.picture?.url === first.picture?.url;
    if (same && (!asked || here)) return asked ?? (against && CONTRASTS.includes(task) ? { class: target.index, against: [against.index] } : target.index);
    if ((task === "regression") !== (asked?.output !== undefined)) return null;
    if (task === "regression") return same ? asked : null;
    // A number alone may be another class there: null.
    const named = (one) => (same ? one.index : one.label && !/^\d+$/.test(one.label) ? one.label : null);
    const name = same && asked?.class !== undefined ? asked.class : named(target);
    if (task === "detection") {
      const found = first.predictions.find((one) => one.rank === asked?.detection);
      const box = here && (asked?.box ?? found?.box);
      if (box && name !== null) return { box, class: name };
      const alike = own.predictions.find((one) => one.label === (target.label ?? found?.label));
      return alike ? { detection: alike.rank } : null;
    }
    if (name === null) return null;
    if (task === "segmentation") return { class: name, region: (here && asked?.region) || "predicted" };
    const contrast = against && CONTRASTS.includes(task) ? named(against) : null;
    return contrast === null ? name : { class: name, against: [contrast] };
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
      // Only now is it known which of its objects is like the one that was chosen.
      if (JSON.stringify(this.request(card, index).targets) !== JSON.stringify(request.targets)) return this.again((one, i) => one.id === card.id && i === index);
      this.run(card.id, index, { state: "done", maps, rough: false, result, progress: null, stop: null });
      this.drawn?.();
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
