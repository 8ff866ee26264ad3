// Preact and htm as one: what every part of the page draws with.
import { h, options } from "./vendor/preact/preact.js";
import htm from "./vendor/htm/htm.js";

export { render } from "./vendor/preact/preact.js";
export { useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/preact/hooks.js";
export const html = htm.bind(h);

// Draw nothing until something is there, or for a moment: drawing takes time from what is waited for.
let still = null;
options.debounceRendering = (draw) => queueMicrotask(() => (still ? still.then(draw) : draw()));
export const hold = (something) => {
  still = Promise.race([something, new Promise((go) => setTimeout(go, 150))]).finally(() => (still = null));
};
