// What went wrong, as a person would say it, and what to do about it; the server's own words beneath.
import { html, useEffect, useErrorBoundary, useState } from "./html.js";
import { t } from "./words.js";

// A part of the page: where drawing it fails, the rest stays.
export function Part({ children }) {
  const [error, again] = useErrorBoundary();
  return error ? html`<${Trouble} problem=${{ kind: "unknown", detail: `${error}` }} again=${again} />` : children;
}

export function Trouble({ problem, again }) {
  const [left, wait] = useState(problem.retryAfter);
  useEffect(() => wait(problem.retryAfter), [problem]); // another one in the place of the last
  useEffect(() => {
    if (!left) return;
    const timer = setTimeout(() => wait(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  const said = t(`problems.${problem.kind}`);
  const known = said !== `problems.${problem.kind}`;
  const words = known ? said : problem.title || t("problems.unknown");
  return html`
    <div class="trouble">
      <div role="alert">
        <strong>${words}</strong>
        ${problem.detail && html`<p lang="en">${problem.detail}</p>`}
      </div>
      ${again && html`<button onClick=${again} disabled=${left > 0}>${left > 0 ? t("retryIn", { n: left }) : t("retry")}</button>`}
    </div>
  `;
}
