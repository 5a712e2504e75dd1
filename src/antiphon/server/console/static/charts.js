// Charts as plain SVG: bars by time, and lines of what happens now. Each has its numbers as a table or as text, too.

import { html, useLayoutEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";

const HEIGHT = 220;
const MARGIN = { top: 8, right: 0, bottom: 24, left: 52 };
export const NUM_SERIES = 6;

/** Returns a round number at or above `value`. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.5, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

function useWidth() {
  const box = useRef(null);
  const [width, setWidth] = useState(800);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return [box, width];
}

/** Stacked bars. `series` are `{name, values}` with one value for each of `labels`; `show` formats a value. */
export function StackedBars({ labels, series, show, title }) {
  const [box, width] = useWidth();
  const [hovered, setHovered] = useState(null);
  const sums = labels.map((_, place) => series.reduce((sum, each) => sum + each.values[place], 0));
  const top = ceiling(Math.max(...sums, 0));
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const step = inner.width / labels.length;
  const y = (value) => MARGIN.top + inner.height * (1 - value / top);
  const every = Math.ceil(labels.length / Math.max(1, Math.floor(inner.width / 64)));
  return html`<div class="chart" ref=${box}>
    <svg width=${width} height=${HEIGHT} role="img" aria-label=${title} onMouseLeave=${() => setHovered(null)}>
      ${[0, 0.5, 1].map(
        (share) => html`<g key=${share}>
          <line class="grid" x1=${MARGIN.left} x2=${width} y1=${y(top * share)} y2=${y(top * share)} />
          <text class="axis" x=${MARGIN.left - 8} y=${y(top * share) + 4} text-anchor="end">${show(top * share)}</text>
        </g>`,
      )}
      ${labels.map((label, place) => {
        const x = MARGIN.left + place * step;
        let base = 0;
        return html`<g key=${place} class=${hovered === place ? "hovered" : ""} onMouseEnter=${() => setHovered(place)}>
          <rect class="hit" x=${x} y=${MARGIN.top} width=${step} height=${inner.height} />
          ${series.map((each, index) => {
            const value = each.values[place];
            if (!value) return null;
            const from = base;
            base += value;
            const gap = Math.min(6, step * 0.18);
            const bar = html`<rect
              key=${each.name}
              class=${`series-${(index % NUM_SERIES) + 1}`}
              x=${x + gap}
              y=${y(from + value)}
              width=${Math.max(1, Math.min(48, step - 2 * gap))}
              height=${Math.max(1, y(from) - y(from + value))}
              rx="2"
            />`;
            return bar;
          })}
          ${place % every === 0 && html`<text class="axis" x=${x + Math.min(30, step / 2)} y=${HEIGHT - 6} text-anchor="middle">${label}</text>`}
        </g>`;
      })}
    </svg>
    <p class="chart-note" aria-hidden="true">
      ${hovered === null ? " " : `${labels[hovered]}: ${show(sums[hovered])}${detail(series, hovered, show)}`}
    </p>
  </div>`;
}

function detail(series, place, show) {
  const parts = series.filter((each) => each.values[place]).map((each) => `${each.name} ${show(each.values[place])}`);
  return parts.length > 1 ? ` (${parts.join(", ")})` : "";
}

export function Legend({ names }) {
  return html`<ul class="legend">
    ${names.map((name, index) => html`<li key=${name}><span class=${`swatch series-${(index % NUM_SERIES) + 1}`} aria-hidden="true"></span>${name}</li>`)}
  </ul>`;
}

const [SHORTEST_S, LONGEST_S] = [15, 120];

/** A line of up to the last two minutes; `points` are `[at, value]` in seconds since 1970. */
export function Line({ points, title, value, limit }) {
  const [box, width] = useWidth();
  const height = 64;
  const end = points.at(-1)?.[0] ?? 0;
  const span = Math.min(LONGEST_S, Math.max(SHORTEST_S, end - (points[0]?.[0] ?? end)));
  const top = Math.max(limit ?? 0, ...points.map(([, each]) => each), 1e-9);
  const x = (at) => width - ((end - at) / span) * width;
  const y = (each) => height - 2 - (each / top) * (height - 6);
  const inView = points.filter(([at]) => end - at <= span);
  const path = inView.map(([at, each], index) => `${index ? "L" : "M"}${x(at).toFixed(1)} ${y(each).toFixed(1)}`).join("");
  const area = inView.length > 1 ? `${path}L${x(end)} ${height}L${x(inView[0][0])} ${height}Z` : "";
  return html`<figure class="line-chart" ref=${box}>
    <figcaption><span>${title}</span><strong>${value}</strong></figcaption>
    <svg width=${width} height=${height} aria-hidden="true"><path class="area" d=${area} /><path class="line" d=${path} /></svg>
  </figure>`;
}

/** The counts of a histogram as bars, each up to its bound; `show` formats a bound. */
export function Histogram({ histogram, title, show }) {
  const total = histogram.counts.reduce((sum, each) => sum + each, 0);
  const most = Math.max(...histogram.counts, 1);
  const names = [...histogram.bounds.map((bound) => `up to ${show(bound)}`), `above ${show(histogram.bounds.at(-1))}`];
  const mean = total ? histogram.total / total : null;
  const rows = names.map((name, index) => [name, histogram.counts[index]]).filter(([, each]) => each > 0);
  return html`<figure class="histogram">
    <figcaption><span>${title}</span><strong>${mean === null ? "–" : `${show(mean)} on average`}</strong></figcaption>
    ${total === 0
      ? html`<p class="hint">Nothing measured yet.</p>`
      : html`<table><tbody>
          ${rows.map(
            ([name, each]) => html`<tr key=${name}>
              <th scope="row">${name}</th>
              <td class="track"><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="bar decode" x="0" y="0" height="10" width=${(100 * each) / most} /></svg></td>
              <td class="number">${((100 * each) / total).toFixed(each / total < 0.1 ? 1 : 0)} %</td>
            </tr>`,
          )}
        </tbody></table>`}
  </figure>`;
}
