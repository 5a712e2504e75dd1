// A request's time as bars from its arrival to its end.

import { duration } from "./format.js";
import { html } from "./vendor/htm-preact-3.1.1.js";

/** Returns the phases as `{name, start, end, kind}`, in seconds from the request's arrival. */
export function phasesOf(request) {
  const end = request.duration_s;
  const first = request.ttft_s;
  const attempts = (request.attempts ?? []).map((attempt) => ({
    name: `${attempt.backend}: ${attempt.model}`,
    note: attempt.status === 200 ? "answered" : `${attempt.status} ${attempt.error ?? "given up"}`,
    kind: attempt.status === 200 ? "upstream" : "failed",
    start: attempt.start_s,
    end: attempt.start_s + attempt.duration_s,
  }));
  if (first === null || first === undefined) {
    return [...attempts, ...(attempts.length ? [] : [{ name: "Until the end", kind: "plan", start: 0, end }])];
  }
  if (request.prefill_s === null || request.prefill_s === undefined) {
    const before = attempts.length ? attempts : [{ name: "Until the first token", kind: "prefill", start: 0, end: first }];
    return [...before, { name: "Answer", kind: "decode", start: first, end }];
  }
  const prefill = Math.max(0, first - request.prefill_s);
  const queue = Math.max(0, prefill - request.queue_s);
  return [
    { name: "Receive and plan", kind: "plan", start: 0, end: queue },
    ...attempts.filter((attempt) => attempt.kind === "failed"),
    { name: "Queue", kind: "queue", start: queue, end: prefill },
    { name: "Prefill", kind: "prefill", start: prefill, end: first },
    { name: "Decode", kind: "decode", start: first, end },
  ];
}

export function Waterfall({ request }) {
  const phases = phasesOf(request);
  const total = Math.max(request.duration_s, ...phases.map((phase) => phase.end), 1e-6);
  return html`<table class="waterfall">
    <thead class="hidden-text"><tr><th scope="col">Phase</th><th scope="col">When</th><th scope="col">How long</th></tr></thead>
    <tbody>
      ${phases.map(
        (phase, index) => html`<tr key=${index}>
          <th scope="row">${phase.name}${phase.note && html`<small>${phase.note}</small>`}</th>
          <td class="track">
            <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
              <rect
                class=${`bar ${phase.kind}`}
                x=${(100 * phase.start) / total}
                y="0"
                width=${Math.max(0.4, (100 * (phase.end - phase.start)) / total)}
                height="10"
              />
            </svg>
            <span class="hidden-text">from ${duration(phase.start)} to ${duration(phase.end)}</span>
          </td>
          <td class="number">${duration(phase.end - phase.start)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
