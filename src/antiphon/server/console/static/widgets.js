// Parts that several pages are made of.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";

const ICONS = {
  playground: "M4 5h16v10H9l-5 4z",
  requests: "M4 6h16M4 12h16M4 18h10",
  usage: "M5 19V10M12 19V5M19 19v-6",
  keys: "M12 15a4 4 0 1 1-8 0 4 4 0 0 1 8 0zM10.8 12.2 19 4M15.5 7.5l2.5 2.5",
  models: "M12 3 20 7.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  engine: "M4 13h4l2.5-7 4 13 2.5-6h3",
  theme: "M12 4a8 8 0 1 0 8 8 6 6 0 0 1-8-8z",
  leave: "M14 5H6v14h8M11 12h9m-3-3 3 3-3 3",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  image: "M4 5h16v14H4zM4 16l5-5 5 5 2-2 4 4M15 9.5h.01",
  up: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
};

/** A line drawing; decorative, so it has no name of its own. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>`;
}

export function Page({ title, note, actions, children }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${title} · Antiphon`;
  }, [title]);
  return html`
    <header class="page-head">
      <div>
        <h1 tabindex="-1" ref=${heading}>${title}</h1>
        ${note && html`<p class="note">${note}</p>`}
      </div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </header>
    ${children}
  `;
}

export const Loading = ({ what = "Loading" }) =>
  html`<div class="state" role="status"><span class="spinner" aria-hidden="true"></span>${what}…</div>`;

export function Failure({ error, again }) {
  return html`<div class="state failure" role="alert">
    <p>${error.message}</p>
    ${again && html`<button type="button" onClick=${again}>Try again</button>`}
  </div>`;
}

export const Empty = ({ title, children }) => html`<div class="state empty"><h2>${title}</h2>${children}</div>`;

export const Status = ({ code }) =>
  html`<span class=${`status ${code < 400 ? "good" : code === 499 ? "gone" : "bad"}`}>${code}</span>`;

export const Tile = ({ label, value, note }) =>
  html`<div class="tile"><dt>${label}</dt><dd>${value}${note && html`<small>${note}</small>`}</dd></div>`;

export const Tiles = ({ children }) => html`<dl class="tiles">${children}</dl>`;

/** A button that copies `text()` and says so. */
export function Copy({ text, label = "Copy" }) {
  const [isDone, setDone] = useState(false);
  useEffect(() => {
    if (!isDone) return undefined;
    const timer = setTimeout(() => setDone(false), 1600);
    return () => clearTimeout(timer);
  }, [isDone]);
  const copy = async () => {
    await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
    setDone(true);
  };
  return html`<button type="button" class="quiet" onClick=${copy}>
    <${Icon} name="copy" /><span aria-live="polite">${isDone ? "Copied" : label}</span>
  </button>`;
}

/** Tabs as WAI-ARIA describes them: arrow keys choose, the panel follows. `tabs` maps names to titles. */
export function Tabs({ tabs, value, onChange, label, children }) {
  const names = Object.keys(tabs);
  const choose = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = names[(names.indexOf(value) + step + names.length) % names.length];
    onChange(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`)?.focus();
  };
  return html`<div class="tabs">
    <div role="tablist" aria-label=${label} onKeyDown=${choose}>
      ${names.map(
        (name) => html`<button
          key=${name}
          type="button"
          role="tab"
          data-tab=${name}
          id=${`tab-${name}`}
          aria-selected=${name === value ? "true" : "false"}
          aria-controls="tab-panel"
          tabindex=${name === value ? 0 : -1}
          onClick=${() => onChange(name)}
        >
          ${tabs[name]}
        </button>`,
      )}
    </div>
    <div role="tabpanel" id="tab-panel" aria-labelledby=${`tab-${value}`} tabindex="0">${children}</div>
  </div>`;
}

/** A modal dialog: the browser's own, which keeps the focus inside and closes on Escape. */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    const element = dialog.current;
    element.showModal();
    return () => {
      element.close();
      before?.focus?.();
    };
  }, []);
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onCancel=${onClose}>
    <header>
      <h2 id="dialog-title">${title}</h2>
      <button type="button" class="quiet square" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>
    </header>
    ${children}
  </dialog>`;
}

/** A labelled control; `hint` explains it. */
export function Field({ label, hint, children, name }) {
  return html`<div class="field">
    <label for=${name}>${label}</label>
    ${children}
    ${hint && html`<p class="hint" id=${`${name}-hint`}>${hint}</p>`}
  </div>`;
}

/** Loads a value when the page opens; `value` stays while it is loaded again. */
export function useLoaded(load, inputs = []) {
  const [state, setState] = useState({ value: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let isCurrent = true;
    load().then(
      (value) => isCurrent && setState({ value, error: null }),
      (error) => isCurrent && setState((before) => ({ value: before.value, error })),
    );
    return () => {
      isCurrent = false;
    };
  }, [...inputs, turn]);
  return { ...state, again: () => setTurn((count) => count + 1), set: (value) => setState({ value, error: null }) };
}

export function Code({ text, label }) {
  return html`<div class="code" role="region" aria-label=${label} tabindex="0"><pre>${text}</pre></div>`;
}
