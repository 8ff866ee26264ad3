// Preact and htm as one: what every part of the page draws with.
import { h } from "./vendor/preact/preact.js";
import htm from "./vendor/htm/htm.js";

export { render } from "./vendor/preact/preact.js";
export { useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/preact/hooks.js";
export const html = htm.bind(h);
