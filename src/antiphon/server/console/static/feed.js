// The live feed: one stream of events while the tab is visible, none while it is hidden.

import { refreshSession, session } from "./api.js";
import { store } from "./store.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
const KEPT_POINTS = 240;

/** `status`: connecting, open, away (the server does not answer). `tick` is the last event. */
export const feed = store({ status: "connecting", tick: null });
/** The engines' numbers of the last two minutes, oldest first: `{at, engines}`. */
export const history = [];

const listeners = new Set();
let source = null;
let timer = null;
let pause = FIRST_PAUSE_MS;
let clockDifference = 0;

/** While nothing changes, no event comes: repeats the last numbers, so that lines go on to the present. */
export function extendHistory() {
  const last = history.at(-1);
  if (last === undefined || feed.value.status !== "open") return;
  const at = Date.now() / 1000 + clockDifference;
  if (at - last.at < 0.9) return;
  history.push({ ...last, at });
  if (history.length > KEPT_POINTS) history.shift();
}

/** Calls `listener(event)` with every event; `event.isFirst` after each connection: what came before it was missed. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function startFeed() {
  document.addEventListener("visibilitychange", adjust);
  session.subscribe(adjust);
  adjust();
}

function adjust() {
  const wanted = document.visibilityState === "visible" && session.value.state === "in";
  if (wanted && source === null && timer === null) connect();
  if (!wanted) disconnect();
}

function disconnect() {
  clearTimeout(timer);
  timer = null;
  source?.close();
  source = null;
}

function connect() {
  let isFirst = true;
  source = new EventSource("/console/api/feed");
  source.onmessage = (message) => {
    pause = FIRST_PAUSE_MS;
    const tick = { ...JSON.parse(message.data), isFirst };
    isFirst = false;
    clockDifference = tick.at - Date.now() / 1000;
    history.push({ at: tick.at, engines: tick.engines, live: tick.num_live });
    if (history.length > KEPT_POINTS) history.shift();
    feed.set({ status: "open", tick });
    for (const listener of [...listeners]) listener(tick);
  };
  source.onerror = () => {
    disconnect();
    feed.set({ status: "away", tick: feed.value.tick });
    timer = setTimeout(again, pause);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  };
}

async function again() {
  timer = null;
  try {
    // The stream may have ended because the session did; an event source cannot say so.
    await refreshSession();
    adjust();
  } catch {
    timer = setTimeout(again, pause);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}
