// The page: what is shown, and where.
import { html, render, useCallback, useEffect, useRef, useState } from "./html.js";
import { Card } from "./card.js";
import { Methods } from "./methods.js";
import { Compare } from "./numbers.js";
import { Walk } from "./walk.js";
import { Choose, Classes, Pick, Predictions, sample, SAMPLES, Samples, useDropped } from "./picture.js";
import { Drawn, References } from "./region.js";
import { Part, Trouble } from "./problem.js";
import { Session, useSession } from "./session.js";
import { key, unlock } from "./server.js";
import * as share from "./share.js";
import { language, other, speak, t, title } from "./words.js";

const session = new Session();
const ICON = document.querySelector("link[rel=icon]").href;
const VIEWS = ["explain", "walk", "compare"];

function App() {
  const state = useSession(session);
  const [tongue, learn] = useState(language);
  const show = useCallback((picture) => session.show(picture), []);
  const fail = useCallback((problem) => session.lane(0, { problem }), []);
  const over = useDropped(show);
  const write = () => session.state.ready && share.write(session.state, language);
  useEffect(() => void write(), [state.lanes, state.cards, state.target, state.against, state.sequential, state.diverging, state.view, tongue]);
  // What is dragged is written once it rests: browsers refuse an address that changes too often.
  useEffect(() => {
    const timer = setTimeout(write, 250);
    return () => clearTimeout(timer);
  }, [state.opacity, state.box]);
  const speakOther = async () => (await speak(other()), learn(language));
  const [lane] = state.lanes;
  if (state.locked) return html`<${Locked} />`;
  if (state.problem) return html`<main class="alone"><${Trouble} problem=${state.problem} again=${() => location.reload()} /></main>`;
  return html`
    <${Head} state=${state} speak=${speakOther} />
    ${!state.ready ? html`<main class="alone"><p class="quiet" role="status">${t("loading")}</p></main>`
      : !lane.picture ? html`<${Welcome} show=${show} fail=${fail} lane=${lane} info=${state.info[lane.model]} />`
      : html`<main class=${`desk ${state.view}`}>
        <h1 class="hidden">heatlens: ${t(`views.${state.view}`)}</h1>
        <${Part}><${Side} state=${state} show=${show} fail=${fail} /><//>
        <${Part} key=${state.view}>
          ${state.view === "walk" ? html`<${Walk} session=${session} />`
            : state.view === "compare" ? html`<${Compare} session=${session} />`
            : html`<${Explain} state=${state} />`}
        <//>
      </main>`}
    <${Said} state=${state} />
    ${over && html`<div class="over" aria-hidden="true"><span>${t("dropHere")}</span></div>`}
  `;
}

const models = (state) => state.models.map((one) => html`<option key=${one.name} value=${one.name} disabled=${one.status === "failed"}>${one.name}</option>`);

function Head({ state, speak: change }) {
  const [lane] = state.lanes;
  return html`
    <header class="head">
      <a class="brand" href=${location.pathname}><img src=${ICON} alt="" width="26" height="26" />heatlens</a>
      ${lane && html`
        <label for="model">${t("model")}</label>
          <select id="model" value=${lane.model} onChange=${(event) => session.use(event.target.value)}>
            ${models(state)}
          </select>`}
      ${lane?.picture && html`
        <nav aria-label=${t("viewsLabel")}>
          ${VIEWS.map((view) => html`<button key=${view} aria-current=${state.view === view ? "page" : undefined} onClick=${() => session.set({ view })}>${t(`views.${view}`)}</button>`)}
        </nav>`}
      <span class="push"></span>
      <a href="docs">${t("docs")}</a>
      <button class="plain" lang=${{ en: "en", zh: "zh-Hans" }[other()]} onClick=${change}>${t("otherLanguage")}</button>
    </header>
  `;
}

function Welcome({ show, fail, lane, info }) {
  return html`
    <main class="welcome">
      <h1>${t("welcome")}</h1>
      <p class="lead">${t("welcomeMore", { model: info.name, outputs: info.outputs ?? "" })}</p>
      <${Choose} show=${show} fail=${fail} large=${true} />
      ${lane.problem && html`<${Trouble} problem=${lane.problem} />`}
      <p class="quiet">${t("private")}</p>
    </main>
  `;
}

function Side({ state, show, fail }) {
  const [lane, second] = state.lanes;
  const classes = ["classification", "multilabel", "segmentation"].includes(session.task);
  return html`
    <aside class="side" aria-label=${t("picture")}>
      <${Drawn} session=${session} lane=${lane} />
      <${Choose} show=${show} fail=${fail} />
      ${lane.problem && html`<${Trouble} problem=${lane.problem} />`}
      ${lane.geometry?.warnings.map((text) => html`<p class="note warn" lang="en" key=${text}>${text}</p>`)}
      ${lane.predictions.length > 0 && html`<h2>${t("says")}</h2>`}
      <${Predictions} session=${session} lane=${lane} index=${0} choose=${true} />
      ${classes && html`<${Classes} session=${session} />`}
      ${["embedding", "segmentation"].includes(session.task) && html`<${References} session=${session} />`}
      <${Beside} state=${state} lane=${second} />
    </aside>
  `;
}

// A second picture, or a second model, next to the first.
function Beside({ state, lane }) {
  return html`
    <details class="beside" open=${!!lane}>
      <summary>${t("beside")}</summary>
      <div class="row">
        <${Pick} label=${t("secondPicture")} take=${(picture) => session.beside({ picture })} />
        <${Samples} take=${(picture) => session.beside({ picture })} fail=${(problem) => session.lane(0, { problem })} without=${state.lanes[0].picture.sample} />
      </div>
      ${state.models.length > 1 && html`
        <label for="second">${t("secondModel")}</label>
          <select id="second" value=${lane?.model ?? state.lanes[0].model} onChange=${(event) => session.beside({ model: event.target.value })}>
            ${models(state)}
          </select>`}
      ${lane?.problem && html`<${Trouble} problem=${lane.problem} />`}
      ${lane && html`
        <figure><img src=${lane.picture.url} alt=${lane.picture.name} /></figure>
        <${Predictions} session=${session} lane=${lane} index=${1} />
        <button onClick=${() => session.beside(null)}>${t("removeSecond")}</button>`}
    </details>
  `;
}

function Explain({ state }) {
  const [choosing, choose] = useState(false);
  const [copied, set] = useState(false);
  const kinds = (kind) => state.maps.filter((one) => one.kind === kind);
  const link = () => share.write(state, language) || navigator.clipboard.writeText(location.href).then(() => set(true), () => {});
  return html`
    <section class="work" aria-label=${t("maps")}>
      <div class="bar-top" role="toolbar" aria-label=${t("drawing")}>
        <button class="primary" onClick=${() => choose(true)}>${t("addMethods")}</button>
        <span class="pair"><label for="opacity">${t("opacity")}</label>
        <input id="opacity" type="range" min="0" max="1" step="0.01" value=${state.opacity} aria-valuetext=${`${Math.round(100 * state.opacity)} %`}
          onInput=${(event) => session.set({ opacity: Number(event.target.value) })} /></span>
        ${["sequential", "diverging"].map((kind) => html`
          <span class="pair" key=${kind}><label for=${kind}>${t(kind)}</label>
          <select id=${kind} value=${state[kind]} onChange=${(event) => session.set({ [kind]: event.target.value })}>
            ${kinds(kind).map((one) => html`<option key=${one.name} value=${one.name}>${one.name.split(":").pop()}</option>`)}
          </select></span>`)}
        <span class="push"></span>
        <button onClick=${link}>${copied ? t("copied") : t("link")}</button>
      </div>
      <div class="cards">
        ${state.cards.map((card) => html`<${Part} key=${card.id}><${Card} session=${session} card=${card} /><//>`)}
        <${More} state=${state} choose=${choose} />
        ${state.cards.length === 0 && html`<p class="quiet">${t("noCards")}</p>`}
      </div>
      <p class="quiet hint">${t("hint")}</p>
      ${choosing && html`<${Methods} session=${session} close=${() => choose(false)} />`}
    </section>
  `;
}

// What one may put beside the maps that are there, while there are few.
const NEXT = ["score-cam", "occlusion", "integrated-gradients", "saliency", "guided-backprop", "attention-rollout"];

function More({ state, choose }) {
  const next = NEXT.filter((name) => session.method(name) && !session.reason(name) && !state.cards.some((card) => card.method === name));
  if (!next.length || state.cards.length > 2) return null;
  return html`
    <div class="more">
      <p>${t("putBeside")}</p>
      ${next.slice(0, 4).map((name) => html`<button key=${name} onClick=${() => session.add(name)}>${title(session.method(name))}</button>`)}
      <button class="plain" onClick=${() => choose(true)}>${t("allMethods", { n: state.methods.length })}</button>
    </div>
  `;
}

// What has ended, for those who hear the page.
function Said({ state }) {
  const known = useRef(new Map());
  const [text, say] = useState("");
  useEffect(() => {
    for (const card of state.cards) {
      card.runs.forEach((run, lane) => {
        const id = `${card.id}-${lane}`;
        const before = known.current.get(id);
        if (run && before !== run.state && ["done", "failed"].includes(run.state)) say(t(`said.${run.state}`, { method: title(session.method(card.method)) }));
        known.current.set(id, run?.state);
      });
    }
  }, [state.cards]);
  return html`<div class="hidden" role="status" aria-live="polite">${text}</div>`;
}

function Locked() {
  const enter = async (event) => {
    event.preventDefault();
    unlock(new FormData(event.target).get("key").trim());
    session.set({ locked: false });
    start();
  };
  return html`
    <main class="alone">
      <form class="locked" onSubmit=${enter}>
        <h1>${t("locked")}</h1>
        <p>${t(key() ? "wrongKey" : "lockedMore")}</p>
        <label for="key">${t("key")}</label>
        <input id="key" name="key" type="password" required autocomplete="off" autofocus />
        <button class="primary" type="submit">${t("open")}</button>
      </form>
    </main>
  `;
}

async function start() {
  const restored = share.restore();
  const picture = SAMPLES.includes(restored.sample) && sample(restored.sample).catch(() => null);
  const [begun] = await Promise.all([session.start(restored), spoken]);
  if (!begun || !(await picture)) return;
  session.show({ ...(await picture), kept: true });
  const { second } = restored;
  if (!second || !session.state.models.some((one) => one.name === second.model)) return;
  const other = SAMPLES.includes(second.sample) && (await sample(second.sample).catch(() => null));
  session.beside({ model: second.model, ...(other ? { picture: other } : {}) });
}

// A link opened on the page itself changes the address alone.
addEventListener("hashchange", () => location.reload());
// The server is asked while the texts are on their way.
const spoken = speak();
start();
await spoken;
render(html`<${App} />`, document.getElementById("app"));
