// Values that pages share and that redraw them when they change.

import { useLayoutEffect, useReducer } from "./vendor/htm-preact-3.1.1.js";

/** Returns a value with listeners. `set` takes the next value; an equal one changes nothing. */
export function store(value) {
  const listeners = new Set();
  return {
    get value() {
      return value;
    },
    set(next) {
      if (next === value) return;
      value = next;
      for (const listener of [...listeners]) listener(value);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** Returns the current value of a store, and draws the component again when it changes. */
export function useStore(source) {
  const [, redraw] = useReducer((count) => count + 1, 0);
  useLayoutEffect(() => source.subscribe(redraw), [source]);
  return source.value;
}
