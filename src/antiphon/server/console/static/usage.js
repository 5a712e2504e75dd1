// Usage and cost by day, key and model, and what budgets have left.

import { call } from "./api.js";
import { Legend, NUM_SERIES, StackedBars } from "./charts.js";
import { compact, count, counted, dollars, duration, hourOf, percent, utcDayOf } from "./format.js";
import { html, useState } from "./vendor/htm-preact-3.1.1.js";
import { Empty, Failure, Loading, Page, Tile, Tiles, useLoaded } from "./widgets.js";

const PERIODS = { 1: "24 hours", 7: "7 days", 30: "30 days", 90: "90 days" };
const tokensOf = (row) => row.prompt_tokens + row.completion_tokens;
const MEASURES = {
  tokens: ["Tokens", tokensOf, compact],
  requests: ["Requests", (row) => row.num_requests, compact],
  cost: ["Cost", (row) => row.usd ?? 0, dollars],
};
const GROUPS = {
  model: ["by model", (row) => row.model || "no model"],
  key: ["by key", (row) => row.key_name ?? "no key"],
};

const sum = (rows, of) => rows.reduce((total, row) => total + of(row), 0);

/** Adds up the known dollars; null where none is known. */
function sumOfDollars(rows) {
  const known = rows.filter((row) => row.usd !== null);
  return known.length ? sum(known, (row) => row.usd) : null;
}

function grouped(rows, of) {
  const groups = new Map();
  for (const row of rows) {
    const name = of(row);
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  return groups;
}

/** The largest groups as series; what is left is one series together. */
function seriesOf(rows, buckets, groupOf, measure) {
  const places = new Map(buckets.map((start, place) => [start, place]));
  const values = (members) => {
    const series = buckets.map(() => 0);
    for (const row of members) series[places.get(row.start)] += measure(row);
    return series;
  };
  const ordered = [...grouped(rows, groupOf)].sort((a, b) => sum(b[1], measure) - sum(a[1], measure));
  const shown = ordered.length > NUM_SERIES ? ordered.slice(0, NUM_SERIES - 1) : ordered;
  const rest = ordered.slice(shown.length).flatMap(([, members]) => members);
  const series = shown.map(([name, members]) => ({ name, values: values(members) }));
  return rest.length ? [...series, { name: "others", values: values(rest) }] : series;
}

export function Usage() {
  const [days, setDays] = useState("30");
  const [measure, setMeasure] = useState("tokens");
  const [group, setGroup] = useState("model");
  const { value, error, again } = useLoaded(() => call("GET", `/usage?days=${days}`), [days]);
  const keys = useLoaded(() => call("GET", "/keys"));
  const actions = html`
    <${Choice} label="Measure" value=${measure} onChange=${setMeasure} options=${Object.entries(MEASURES).map(([name, [title]]) => [name, title])} />
    <${Choice} label="Group" value=${group} onChange=${setGroup} options=${Object.entries(GROUPS).map(([name, [title]]) => [name, title])} />
    <${Choice} label="Period" value=${days} onChange=${setDays} options=${Object.entries(PERIODS)} />
  `;
  return html`<${Page} title="Usage" note="Days are in UTC. Costs are of models with a price." actions=${actions}>
    ${error && value === null && html`<${Failure} error=${error} again=${again} />`}
    ${value === null && !error && html`<${Loading} what="Adding up" />`}
    ${value !== null && html`<${Report} report=${value} measure=${measure} group=${group} />`}
    ${keys.value && html`<${Budgets} keys=${keys.value.data} /><${LimitsLeft} keys=${keys.value.data} />`}
  <//>`;
}

function Choice({ label, value, onChange, options }) {
  return html`<select aria-label=${label} value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${options.map(([name, title]) => html`<option key=${name} value=${name}>${title}</option>`)}
  </select>`;
}

function Report({ report, measure, group }) {
  const { data, buckets, width_s: width } = report;
  if (data.length === 0) {
    return html`<${Empty} title="Nothing was used in this period"><p>Requests appear here as soon as they are over.</p><//>`;
  }
  const [title, measureOf, show] = MEASURES[measure];
  const [groupTitle, groupOf] = GROUPS[group];
  const series = seriesOf(data, buckets, groupOf, measureOf);
  const labels = buckets.map(width < 86400 ? hourOf : utcDayOf);
  const failed = sum(data, (row) => row.num_failed);
  const requests = sum(data, (row) => row.num_requests);
  const prompt = sum(data, (row) => row.prompt_tokens);
  const cached = sum(data, (row) => row.cached_tokens);
  return html`
    <${Tiles}>
      <${Tile} label="Requests" value=${count(requests)} note=${`${count(failed)} failed`} />
      <${Tile} label="Tokens in" value=${compact(prompt)} note=${`${percent(prompt ? cached / prompt : 0)} from the cache`} />
      <${Tile} label="Tokens out" value=${compact(sum(data, (row) => row.completion_tokens))} />
      <${Tile} label="Cost" value=${dollars(sumOfDollars(data))} note=${unpriced(data)} />
    <//>
    <section class="card" aria-labelledby="chart-title">
      <header><h2 id="chart-title">${title} ${groupTitle}</h2><${Legend} names=${series.map((each) => each.name)} /></header>
      <${StackedBars} labels=${labels} series=${series} show=${show} title=${`${title} ${groupTitle}; the table below has the sums`} />
    </section>
    <section class="card" aria-labelledby="table-title">
      <h2 id="table-title">Sums ${groupTitle}</h2>
      <${Sums} groups=${grouped(data, groupOf)} name=${group === "model" ? "Model" : "Key"} />
    </section>
  `;
}

function unpriced(data) {
  const without = sum(data, (row) => row.num_unpriced);
  return without ? `${counted(without, "request")} without a price` : "every request has a price";
}

function Sums({ groups, name }) {
  const rows = [...groups].sort((a, b) => sum(b[1], tokensOf) - sum(a[1], tokensOf));
  return html`<div class="scroll" role="region" aria-label="Sums" tabindex="0"><table>
    <thead><tr>
      <th scope="col">${name}</th>
      ${["Requests", "Failed", "Tokens in", "Cached", "Tokens out", "First token", "Cost"].map((title) => html`<th key=${title} scope="col" class="number">${title}</th>`)}
    </tr></thead>
    <tbody>
      ${rows.map(([title, members]) => {
        const timed = members.filter((row) => row.mean_ttft_s !== null);
        const ttft = timed.length ? sum(timed, (row) => row.mean_ttft_s * row.num_requests) / sum(timed, (row) => row.num_requests) : null;
        const cells = [
          count(sum(members, (row) => row.num_requests)),
          count(sum(members, (row) => row.num_failed)),
          count(sum(members, (row) => row.prompt_tokens)),
          count(sum(members, (row) => row.cached_tokens)),
          count(sum(members, (row) => row.completion_tokens)),
          duration(ttft),
          dollars(sumOfDollars(members)),
        ];
        return html`<tr key=${title}><th scope="row" class="name">${title}</th>${cells.map((cell, index) => html`<td key=${index} class="number">${cell}</td>`)}</tr>`;
      })}
    </tbody>
  </table></div>`;
}

const PERIOD_WORDS = { day: "a day", month: "a month", total: "in all" };

function Budgets({ keys }) {
  const limited = keys.filter((key) => key.budget_usd !== null && key.state === "active");
  if (limited.length === 0) return null;
  return html`<section class="card" aria-labelledby="budget-title">
    <h2 id="budget-title">Budgets</h2>
    <ul class="budgets">
      ${limited.map((key) => {
        const share = Math.min(1, key.spent_usd / key.budget_usd);
        return html`<li key=${key.id}>
          <span>${key.name}</span>
          <meter min="0" max="1" low="0.7" high="0.9" optimum="0" value=${share} aria-label=${`Budget of ${key.name}, used`}></meter>
          <span class="number">${dollars(Math.max(0, key.budget_usd - key.spent_usd))} left of ${dollars(key.budget_usd)} ${PERIOD_WORDS[key.budget_period]}</span>
        </li>`;
      })}
    </ul>
  </section>`;
}

const SCOPES = { rpm: "requests a minute", tpm: "tokens a minute", rpd: "requests a day" };

/** What the limits of keys that were used lately have left; they fill again by themselves. */
function LimitsLeft({ keys }) {
  const rows = keys.filter((key) => key.state === "active").flatMap((key) => key.left.map((each) => ({ ...each, key: key.name })));
  if (rows.length === 0) return null;
  return html`<section class="card" aria-labelledby="limits-title">
    <h2 id="limits-title">Limits</h2>
    <div class="scroll" role="region" aria-label="What limits have left" tabindex="0"><table>
      <thead><tr><th scope="col">Key</th><th scope="col">Model</th><th scope="col">Limit</th><th scope="col" class="number">Left</th></tr></thead>
      <tbody>
        ${rows.map((row) => html`<tr key=${`${row.key} ${row.model} ${row.scope}`}>
          <th scope="row" class="name">${row.key}</th>
          <td>${row.model}</td>
          <td>${count(row.limit)} ${SCOPES[row.scope]}</td>
          <td class="number">${count(row.left)}</td>
        </tr>`)}
      </tbody>
    </table></div>
  </section>`;
}
