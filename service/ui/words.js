// What the page says, in the reader's language: each language is one file of texts.
import { html } from "./html.js";

const KNOWN = ["en", "zh"];

let texts = {};
export let language = "en";

const wanted = () => {
  const asked = new URLSearchParams(location.hash.slice(1)).get("lang");
  const found = [asked, ...navigator.languages].map((tag) => tag?.slice(0, 2).toLowerCase());
  return found.find((tag) => KNOWN.includes(tag)) ?? "en";
};

export async function speak(chosen = wanted()) {
  texts = (await import(`./texts/${chosen}.js`)).default;
  language = chosen;
  document.documentElement.lang = { en: "en", zh: "zh-Hans" }[chosen];
}

// A text by its name; {these} are filled in. A name that no text has is told as it is, and not as nothing.
export function t(name, values = {}) {
  const text = name.split(".").reduce((inside, part) => inside?.[part], texts);
  return typeof text === "string" ? text.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "") : name;
}

// The two sentences about a method: what its map means, and what it cannot say.
export const meaning = (method) => texts.methods[method] ?? [];
// A method's name for people: its title, parted where its name is, as in Grad-CAM++ and Integrated gradients.
export function title({ name, title: said }) {
  const letters = said.replaceAll("PlusPlus", "++");
  let from = 0;
  const parts = name.split("-").map((part) => letters.slice(from, (from += part.length)));
  if (parts.join("") !== letters) return said.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
  return parts.reduce((whole, part) => whole + (/^[A-Z]{2}/.test(part) ? `-${part}` : part === "Grad" ? part : ` ${part.toLowerCase()}`));
}

// A question that people ask, where there is one of that name, and its answer.
export function Ask({ name }) {
  const [asked, answer] = texts.questions[name] ?? [];
  return asked && html`<details><summary>${asked}</summary><p>${answer}</p></details>`;
}

export const counted = (name, n) => t(n === 1 ? `${name}.one` : `${name}.many`, { n });
// As the service counts them: a row's forward is one, its backward two.
export const passes = ({ forwards, backwards }) => counted("passes", forwards + 2 * backwards);
export const other = () => KNOWN.find((one) => one !== language);

export const number = (value, digits = 3) =>
  value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e5)
    ? new Intl.NumberFormat(language, { maximumSignificantDigits: digits }).format(value)
    : value.toExponential(digits - 1);
export const percent = (share) => new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 }).format(share);
export const seconds = (s) => t("seconds", { n: s < 10 ? Math.max(s, 0.1).toFixed(1) : Math.round(s) });
