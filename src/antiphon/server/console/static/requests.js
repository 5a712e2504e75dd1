// The list of requests: those in flight, then those that are over, newest first, drawn only where one looks.

import { call } from "./api.js";
import { listen } from "./feed.js";
import { compact, count, dollars, duration, NONE, when } from "./format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { Empty, Failure, Loading, Page, Status } from "./widgets.js";

const ROW = 40;
const SPARE_ROWS = 8;
const PAGE_SIZE = 1000;
const MOST_KEPT = 50000;
const COLUMNS = [
  ["time", "Time"],
  ["status", "Status"],
  ["model", "Model"],
  ["path", "Endpoint"],
  ["key", "Key"],
  ["tokens", "Tokens in"],
  ["out", "Tokens out"],
  ["cached", "Cached"],
  ["ttft", "First token"],
  ["total", "Total"],
  ["cost", "Cost"],
];

/** A short name of an endpoint: chat, responses, embeddings, playground. */
export function endpointOf(path) {
  return path.startsWith("/console/") ? "playground" : path.replace("/v1/", "").split("/")[0];
}

function queryOf(filters, before) {
  const query = new URLSearchParams({ limit: PAGE_SIZE });
  for (const [name, value] of Object.entries(filters)) if (value) query.set(name, value);
  if (before) query.set("before", before);
  return query;
}

function accepts(filters, row) {
  return (
    (!filters.status || (filters.status === "error") === row.status >= 400) &&
    (!filters.model || (row.answered_by ?? row.model) === filters.model) &&
    (!filters.key_id || row.key_id === filters.key_id)
  );
}

/** Loads pages of requests and keeps them current. */
function useRequests(filters) {
  const [state, setState] = useState({ rows: null, hasMore: false, error: null });
  const [live, setLive] = useState([]);
  const loading = useRef({ isOn: false, isStale: false });
  const wanted = useRef(filters);
  wanted.current = filters;
  const load = async (before) => {
    if (loading.current.isOn) {
      // What is being read may be from before the reason to read again.
      loading.current.isStale ||= before === undefined;
      return;
    }
    loading.current = { isOn: true, isStale: false };
    const asked = wanted.current;
    try {
      const page = await call("GET", `/requests?${queryOf(asked, before)}`);
      setState((old) => ({
        rows: before ? [...old.rows, ...page.data] : page.data,
        hasMore: page.has_more,
        error: null,
      }));
    } catch (error) {
      setState((old) => ({ ...old, error }));
    } finally {
      const { isStale } = loading.current;
      loading.current = { isOn: false, isStale: false };
      if (isStale || asked !== wanted.current) load();
    }
  };
  useEffect(() => {
    load();
    return listen((tick) => {
      setLive(tick.live);
      // After a pause in the feed, or with more at once than it names, only the list itself knows what happened.
      if (tick.isFirst || tick.num_more) load();
      else if (tick.finished.length) setState((old) => ({ ...old, rows: merged(old.rows, tick.finished, filters) }));
    });
  }, [filters.status, filters.model, filters.key_id]);
  return { ...state, live, load, more: () => state.hasMore && state.rows.length < MOST_KEPT && load(state.rows.at(-1).id) };
}

function merged(rows, finished, filters) {
  const known = new Set((rows ?? []).slice(0, 500).map((row) => row.id));
  const added = finished.filter((row) => !known.has(row.id) && accepts(filters, row));
  return [...added, ...(rows ?? [])].sort((a, b) => b.at - a.at).slice(0, MOST_KEPT);
}

function Row({ row, place, isCurrent, onFocus }) {
  const isLive = row.status === undefined;
  const link = useRef(null);
  useEffect(() => {
    if (isCurrent === "focus") link.current?.focus({ preventScroll: true });
  }, [isCurrent]);
  const state = isLive
    ? html`<span class="status live">${row.phase === "waiting" ? "wait" : "run"}</span>`
    : html`<${Status} code=${row.status} />`;
  const cells = {
    time: html`<a ref=${link} href=${`#/requests/${row.request_id}`} tabindex=${isCurrent ? 0 : -1} onFocus=${onFocus}>${when(row.at)}</a>`,
    status: state,
    model: html`<span title=${row.model}>${row.answered_by ?? row.model ?? NONE}</span>`,
    path: html`<span title=${row.path}>${endpointOf(row.path)}</span>`,
    key: row.key ?? NONE,
    tokens: compact(row.prompt_tokens),
    out: compact(row.completion_tokens),
    cached: row.cached_tokens ? compact(row.cached_tokens) : NONE,
    ttft: duration(row.ttft_s),
    total: duration(row.duration_s),
    cost: dollars(row.usd),
  };
  return html`<div class=${`row ${isLive ? "is-live" : ""}`} role="row" aria-rowindex=${place + 2} style=${{ top: `${place * ROW}px` }}>
    ${COLUMNS.map(([name]) => html`<div key=${name} role="cell" class=${`cell cell-${name}`}>${cells[name]}</div>`)}
  </div>`;
}

const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -Infinity, End: Infinity };

/** A table of any length: as many rows as fit are in the page, and the keys move among all. */
function VirtualTable({ rows, onEnd }) {
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [current, setCurrent] = useState({ place: 0, moves: false });
  const measure = () => setView({ top: box.current.scrollTop, height: box.current.clientHeight });
  useLayoutEffect(() => {
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(view.top / ROW) - SPARE_ROWS);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW) + SPARE_ROWS);
  useEffect(() => {
    if (last >= rows.length) onEnd();
  }, [last, rows.length]);
  const move = (event) => {
    const step = STEPS[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const place = Math.min(rows.length - 1, Math.max(0, current.place + step));
    const element = box.current;
    if (place * ROW < element.scrollTop) element.scrollTop = place * ROW;
    if ((place + 1) * ROW > element.scrollTop + element.clientHeight - ROW)
      element.scrollTop = (place + 2) * ROW - element.clientHeight;
    measure();
    setCurrent({ place, moves: true });
  };
  const shown = rows.slice(first, last);
  const inView = current.place >= first && current.place < last ? current.place : first;
  return html`<div class="list" ref=${box} onScroll=${measure} onKeyDown=${move}>
    <div role="table" aria-label="Requests" aria-rowcount=${rows.length + 1} class="table" style=${{ height: `${(rows.length + 1) * ROW}px` }}>
      <div role="row" aria-rowindex="1" class="row head">
        ${COLUMNS.map(([name, title]) => html`<div key=${name} role="columnheader" class=${`cell cell-${name}`}>${title}</div>`)}
      </div>
      <div role="rowgroup" class="body">
        ${shown.map((row, index) => {
          const place = first + index;
          const isCurrent = place === inView && (current.moves && place === current.place ? "focus" : "tab");
          return html`<${Row} key=${row.request_id} row=${row} place=${place} isCurrent=${isCurrent}
            onFocus=${() => setCurrent({ place, moves: false })} />`;
        })}
      </div>
    </div>
  </div>`;
}

function Filters({ filters, onChange, options }) {
  const set = (name) => (event) => onChange({ ...filters, [name]: event.target.value });
  const choice = (name, label, values) => html`<select aria-label=${label} value=${filters[name]} onChange=${set(name)}>
    ${values.map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}
  </select>`;
  return html`
    ${choice("status", "Status", [["", "Any status"], ["ok", "Answered"], ["error", "Failed"]])}
    ${choice("model", "Model", [["", "Any model"], ...options.models.map((id) => [id, id])])}
    ${options.keys.length > 0 && choice("key_id", "Key", [["", "Any key"], ...options.keys.map((key) => [key.id, key.name])])}
  `;
}

export function Requests() {
  const [filters, setFilters] = useState({ status: "", model: "", key_id: "" });
  const [options, setOptions] = useState({ models: [], keys: [] });
  const { rows, live, hasMore, error, load, more } = useRequests(filters);
  useEffect(() => {
    Promise.all([call("GET", "/usage?days=30"), call("GET", "/keys")]).then(
      ([usage, keys]) => setOptions({ models: [...new Set(usage.data.map((each) => each.model))].sort(), keys: keys.data }),
      () => {},
    );
  }, []);
  const isFiltered = Object.values(filters).some(Boolean);
  const shown = rows === null ? null : [...(isFiltered ? [] : live.toReversed()), ...rows];
  const note = shown === null ? "" : `${count(live.length)} in flight, ${count(rows.length)}${hasMore ? "+" : ""} finished`;
  return html`
    <${Page} title="Requests" note=${note} actions=${html`<${Filters} filters=${filters} onChange=${setFilters} options=${options} />`}>
      ${error && rows === null && html`<${Failure} error=${error} again=${() => load()} />`}
      ${shown === null && !error && html`<${Loading} what="Loading requests" />`}
      ${shown?.length === 0 &&
      html`<${Empty} title=${isFiltered ? "No request matches" : "No request yet"}>
        <p>${isFiltered ? "Choose another filter." : "Send one from your program, or from the playground; it appears here at once."}</p>
        ${!isFiltered && html`<a class="button" href="#/playground">Open the playground</a>`}
      <//>`}
      ${shown?.length > 0 && html`<${VirtualTable} rows=${shown} onEnd=${more} />`}
    <//>
  `;
}
