// All methods to choose from: what each one means, what it takes, and why one does not fit the model.
import { html, useEffect, useRef, useState } from "./html.js";
import { meaning, t, title } from "./words.js";

const FAMILIES = ["cam", "gradient", "perturbation", "propagation", "attention", "features"];

export function Methods({ session, close }) {
  const dialog = useRef();
  const [text, filter] = useState("");
  useEffect(() => dialog.current.showModal(), []);
  const { methods, cards } = session.state;
  const used = (name) => cards.find((card) => card.method === name);
  const found = methods.filter((one) => `${one.title} ${title(one)} ${one.name} ${meaning(one.name).join(" ")}`.toLowerCase().includes(text.toLowerCase()));
  const toggle = (one) => (used(one.name) ? session.remove(used(one.name).id) : session.add(one.name));
  return html`
    <dialog ref=${dialog} class="methods" aria-labelledby="methods-title" onClose=${close} onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
      <header>
        <h2 id="methods-title">${t("methodsTitle")}</h2>
        <input type="search" aria-label=${t("search")} placeholder=${t("search")} value=${text} onInput=${(event) => filter(event.target.value)} />
        <button class="primary" onClick=${() => dialog.current.close()}>${t("done")}</button>
      </header>
      <div class="families" tabindex="0" role="group" aria-label=${t("methodsTitle")}>
        ${FAMILIES.map((family) => {
          const inside = found.filter((one) => one.family === family);
          return inside.length > 0 && html`
            <section key=${family}>
              <h3>${t(`families.${family}.0`)}</h3>
              <p class="quiet">${t(`families.${family}.1`)}</p>
              <ul>
                ${inside.map((one) => {
                  const reason = session.reason(one.name);
                  return html`
                    <li key=${one.name}>
                      <button class="method" aria-pressed=${!!used(one.name)} aria-disabled=${!!reason} title=${reason ?? one.summary}
                        onClick=${() => !reason && toggle(one)}>
                        <b>${title(one)}</b>${session.heavy(one.name) && html`<i class="slow">${t("slow")}</i>`}
                        <span>${reason ? html`<span lang="en">${reason}</span>` : meaning(one.name)[0] ?? one.summary}</span>
                      </button>
                    </li>`;
                })}
              </ul>
            </section>`;
        })}
      </div>
    </dialog>
  `;
}
