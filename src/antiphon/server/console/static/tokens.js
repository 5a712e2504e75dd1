// An answer token by token: the less probable, the stronger its colour; a chosen token shows what else was possible.

import { percent } from "./format.js";
import { html, useRef, useState } from "./vendor/htm-preact-3.1.1.js";

const MOST_SHOWN = 4000;
const LEVELS = [0.9, 0.6, 0.3, 0.1];

/** Returns 0 for a token that was nearly certain, up to 4 for an unlikely one. */
function levelOf(probability) {
  const level = LEVELS.findIndex((bound) => probability >= bound);
  return level < 0 ? LEVELS.length : level;
}

const probabilityOf = (token) => (token.logprob === null ? null : Math.exp(token.logprob));
const visible = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "→");

export function Tokens({ tokens }) {
  const [place, setPlace] = useState(0);
  const box = useRef(null);
  const choices = [...new Set(tokens.map((token) => token.index))];
  const [choice, setChoice] = useState(choices[0]);
  const mine = tokens.filter((token) => token.index === choice);
  const shown = mine.slice(0, MOST_SHOWN);
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = Math.min(shown.length - 1, Math.max(0, place + step));
    setPlace(next);
    box.current.children[next]?.focus();
  };
  return html`<div class="token-view">
    ${choices.length > 1 &&
    html`<select aria-label="Choice" value=${choice} onChange=${(event) => (setChoice(Number(event.target.value)), setPlace(0))}>
      ${choices.map((index) => html`<option key=${index} value=${index}>Choice ${index + 1}</option>`)}
    </select>`}
    <div class="token-text" role="group" aria-label="Answer, token by token; arrow keys move" ref=${box} onKeyDown=${move}>
      ${shown.map(
        (token, index) => html`<button
          key=${index}
          type="button"
          class=${`token level-${levelOf(probabilityOf(token) ?? 1)}`}
          tabindex=${index === place ? 0 : -1}
          aria-pressed=${index === place ? "true" : "false"}
          onClick=${() => setPlace(index)}
        >
          ${visible(token.text)}
        </button>`,
      )}
    </div>
    ${mine.length > shown.length && html`<p class="hint">The first ${MOST_SHOWN} of ${mine.length} tokens.</p>`}
    <${Alternatives} token=${shown[place]} />
    <${Legend} />
  </div>`;
}

function Alternatives({ token }) {
  if (!token) return null;
  const others = token.top.some((top) => top.text === token.text) ? token.top : [token, ...token.top];
  return html`<div class="alternatives" aria-live="polite">
    <h3>What the model could have said here</h3>
    <table>
      <thead class="hidden-text"><tr><th scope="col">Token</th><th scope="col">Share</th><th scope="col">Probability</th></tr></thead>
      <tbody>
        ${others.map((top, index) => {
          const probability = Math.exp(top.logprob);
          const isChosen = top.text === token.text;
          return html`<tr key=${index} class=${isChosen ? "chosen" : ""}>
            <th scope="row"><code>${JSON.stringify(top.text)}</code>${isChosen && html`<small>chosen</small>`}</th>
            <td class="track">
              <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
                <rect class="bar decode" x="0" y="0" height="10" width=${100 * probability} />
              </svg>
            </td>
            <td class="number">${percent(probability)}</td>
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}

function Legend() {
  const names = ["90 % or more", "60 to 90 %", "30 to 60 %", "10 to 30 %", "below 10 %"];
  return html`<ul class="legend" aria-label="Colours">
    ${names.map((name, level) => html`<li key=${name}><span class=${`token level-${level}`} aria-hidden="true">a</span>${name}</li>`)}
  </ul>`;
}
