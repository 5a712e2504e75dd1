// The console: its frame, its pages by the part of the address after #, and signing in.

import { Engine } from "./engine.js";
import { feed, startFeed } from "./feed.js";
import { Keys } from "./keys.js";
import { Models } from "./models.js";
import { Playground } from "./playground.js";
import { RequestPage } from "./request.js";
import { Requests } from "./requests.js";
import { refreshSession, session, signIn, signOut } from "./api.js";
import { store, useStore } from "./store.js";
import { Usage } from "./usage.js";
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { Failure, Field, Icon, Loading } from "./widgets.js";

const PAGES = {
  playground: ["Playground", Playground],
  requests: ["Requests", Requests],
  usage: ["Usage", Usage],
  keys: ["Keys", Keys],
  models: ["Models", Models],
  engine: ["Engine", Engine],
};
const place = store(currentPlace());

function currentPlace() {
  return location.hash.replace(/^#\/?/, "") || "playground";
}

function Navigation({ page }) {
  return html`<nav aria-label="Pages">
    ${Object.entries(PAGES).map(
      ([name, [title]]) => html`<a key=${name} href=${`#/${name}`} aria-current=${name === page ? "page" : undefined}>
        <${Icon} name=${name} /><span>${title}</span>
      </a>`,
    )}
  </nav>`;
}

const HEALTH = { ready: "Ready", loading: "Loading a model", down: "Not answering" };

function Health() {
  const { status, tick } = useStore(feed);
  const state = status === "away" ? "away" : (tick?.health.state ?? "loading");
  const words = status === "away" ? "Server away, reconnecting" : tick ? HEALTH[state] : "Connecting";
  return html`<p class="health" role="status"><span class=${`dot ${state}`} aria-hidden="true"></span>${words}</p>`;
}

function nextTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("antiphon-theme", root.dataset.theme);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}

function Sidebar({ page, info }) {
  return html`<aside class="sidebar">
    <a class="brand" href="#/playground"><img src="/console/icon.svg" alt="" width="24" height="24" /><span>Antiphon</span></a>
    <${Navigation} page=${page} />
    <div class="foot">
      <${Health} />
      <div class="foot-row">
        <span class="who" title=${info.key}>${info.is_open ? "No key needed" : info.key}</span>
        <button type="button" class="quiet square" aria-label="Switch between dark and light" onClick=${nextTheme}>
          <${Icon} name="theme" />
        </button>
        ${!info.is_open &&
        html`<button type="button" class="quiet square" aria-label="Sign out" onClick=${signOut}><${Icon} name="leave" /></button>`}
      </div>
      <p class="version">Version ${info.version}</p>
    </div>
  </aside>`;
}

function SignIn() {
  const [key, setKey] = useState("");
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try {
      await signIn(key);
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<main class="sign-in">
    <img src="/console/icon.svg" alt="" width="40" height="40" />
    <h1>Sign in to the console</h1>
    <p class="note">It takes an admin's key. Make one where the server runs:</p>
    <pre>antiphon keys create --admin --name console</pre>
    <form onSubmit=${submit}>
      <${Field} label="Admin key" name="admin-key">
        <input
          id="admin-key"
          type="password"
          autocomplete="current-password"
          spellcheck=${false}
          required
          value=${key}
          onInput=${(event) => setKey(event.target.value)}
        />
      <//>
      ${error && html`<p class="problem" role="alert">${error.message}</p>`}
      <button class="primary" type="submit">Sign in</button>
    </form>
    <p class="hint">The browser keeps a session for twelve hours, not the key.</p>
  </main>`;
}

function App() {
  const { state, info } = useStore(session);
  const [error, setError] = useState(null);
  const content = useRef(null);
  const [page, id] = useStore(place).split("/");
  const load = () => refreshSession().then(() => setError(null), setError);
  useEffect(() => {
    load();
    startFeed();
  }, []);
  useEffect(() => content.current?.querySelector("h1")?.focus({ preventScroll: true }), [page, id]);
  if (state === "loading") return error ? html`<${Failure} error=${error} again=${load} />` : html`<${Loading} />`;
  if (state === "out") return html`<${SignIn} />`;
  const [, Shown] = PAGES[page] ?? PAGES.playground;
  return html`
    <a class="skip" href="#content" onClick=${(event) => skip(event, content.current)}>Skip to the page</a>
    <${Sidebar} page=${page} info=${info} />
    <main id="content" class=${`page page-${page === "requests" && !id ? "list" : page}`} ref=${content} tabindex="-1">
      ${page === "requests" && id ? html`<${RequestPage} key=${id} id=${id} />` : html`<${Shown} key=${page} />`}
    </main>
  `;
}

function skip(event, content) {
  event.preventDefault();
  content.focus();
}

addEventListener("hashchange", () => place.set(currentPlace()));
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
