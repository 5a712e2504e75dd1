// The engines, live: what runs, how full the KV cache is, how fast tokens come.

import { Histogram, Line } from "./charts.js";
import { extendHistory, feed, history } from "./feed.js";
import { bytes, compact, count, counted, duration, NONE, percent, rate } from "./format.js";
import { useStore } from "./store.js";
import { html, useEffect, useReducer } from "./vendor/htm-preact-3.1.1.js";
import { Empty, Loading, Page, Tile, Tiles } from "./widgets.js";

export function Engine() {
  const { tick } = useStore(feed);
  const [, redraw] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    const timer = setInterval(() => {
      extendHistory();
      redraw();
    }, 1000);
    return () => clearInterval(timer);
  }, []);
  if (tick === null) return html`<${Page} title="Engine"><${Loading} what="Connecting" /><//>`;
  return html`<${Page} title="Engine" note="Live; lines show up to two minutes.">
    ${tick.engines.length === 0 &&
    html`<${Empty} title="No engine runs on this machine"><p>Requests go to other APIs, or to a script.</p><//>`}
    ${chatFirst(tick.engines).map((engine) => html`<${OneEngine} key=${engine.model} engine=${engine} />`)}
    ${tick.parts.length > 0 && html`<${Parts} parts=${tick.parts} />`}
  <//>`;
}

/** Engines that generate have KV cells; those that embed have none, and come last. */
const chatFirst = (engines) => [...engines].sort((a, b) => (b.cells_total > 0) - (a.cells_total > 0));

function pointsOf(model, of) {
  return history.flatMap(({ at, engines }) => {
    const engine = engines.find((each) => each.model === model);
    return engine ? [[at, of(engine)]] : [];
  });
}

/** Tokens per second in the last half minute or so, from how the counters grew; 0 while nothing runs. */
function ratePoints(model, counter) {
  const points = pointsOf(model, (engine) => engine[counter]);
  return points.slice(1).map(([at, value], index) => {
    const before = points[Math.max(0, index - 2)];
    return [at, at > before[0] ? Math.max(0, (value - before[1]) / (at - before[0])) : 0];
  });
}

function OneEngine({ engine }) {
  const { model } = engine;
  const hitRate = engine.prompt_tokens ? engine.prompt_tokens_shared / engine.prompt_tokens : null;
  const used = engine.cells_total ? engine.cells_used / engine.cells_total : null;
  const generates = engine.cells_total > 0;
  const lines = [
    ["Running sequences", count(engine.running), pointsOf(model, (each) => each.running), 4],
    ["Waiting sequences", count(engine.waiting), pointsOf(model, (each) => each.waiting), 4],
    generates && ["KV cells in use", `${count(engine.cells_used)} of ${count(engine.cells_total)}`, pointsOf(model, (each) => each.cells_used), engine.cells_total],
    ["Prefill, tokens/s", rate(ratePoints(model, "prefill_tokens").at(-1)?.[1] ?? 0), ratePoints(model, "prefill_tokens"), 1],
    generates && ["Decode, tokens/s", rate(ratePoints(model, "decode_tokens").at(-1)?.[1] ?? 0), ratePoints(model, "decode_tokens"), 1],
  ].filter(Boolean);
  return html`<section class="card" aria-label=${model}>
    <header>
      <h2>${model}</h2>
      <span class="note">${counted(engine.requests, "request")}, ${counted(engine.restarts, "restart")}</span>
    </header>
    <${Tiles}>
      ${generates &&
      html`<${Tile} label="Cache hit rate" value=${percent(hitRate)} note="of prompt tokens" />
        <${Tile} label="KV cells in use" value=${percent(used)} note=${`${compact(engine.cached_tokens)} tokens cached`} />`}
      <${Tile} label="Prefill tokens" value=${engine.prefill_tokens_per_s ? `${rate(engine.prefill_tokens_per_s)}/s` : NONE} note="while working" />
      ${generates &&
      html`<${Tile} label="Decode tokens" value=${engine.decode_tokens_per_s ? `${rate(engine.decode_tokens_per_s)}/s` : NONE} note="while working" />
        <${Tile} label="Speculation" value=${engine.drafted_tokens ? percent(engine.accepted_tokens / engine.drafted_tokens) : NONE} note="of drafts accepted" />`}
      <${Tile} label="Memory" value=${bytes(engine.resident_bytes)} />
    <//>
    <div class="lines">
      ${lines.map(([title, value, points, limit]) => html`<${Line} key=${title} title=${title} value=${value} points=${points} limit=${limit} />`)}
    </div>
    <div class="lines">
      <${Histogram} title="Step time" histogram=${engine.step_s} show=${duration} />
      ${generates &&
      html`<${Histogram} title="Time to first token" histogram=${engine.ttft_s} show=${duration} />
        <${Histogram} title="Time between tokens" histogram=${engine.inter_token_s} show=${duration} />`}
    </div>
  </section>`;
}

function Parts({ parts }) {
  return html`<section class="card" aria-labelledby="parts-title">
    <h2 id="parts-title">Other backends</h2>
    <div class="cards">
      ${parts.map((part) => {
        const name = [part.part.replaceAll("_", " "), ...Object.values(part.labels)].join(" · ");
        return html`<section key=${name} aria-label=${name}>
          <h3>${name}</h3>
          <dl class="facts-list">
            ${Object.entries(part.values).map(([key, value]) => html`<div key=${key}><dt>${key.replaceAll("_", " ")}</dt><dd>${typeof value === "number" ? compact(value) : String(value ?? NONE)}</dd></div>`)}
          </dl>
        </section>`;
      })}
    </div>
  </section>`;
}
