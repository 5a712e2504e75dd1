// One request: where its time went, and where it was captured, what was sent, seen and said.

import { call, send, session } from "./api.js";
import { LANGUAGES, operationOf, program } from "./code.js";
import { listen } from "./feed.js";
import { count, dollars, duration, fullTime, NONE, rate } from "./format.js";
import { openInPlayground } from "./playground_state.js";
import { answerText } from "./streams.js";
import { Tokens } from "./tokens.js";
import { html, useEffect, useState } from "./vendor/htm-preact-3.1.1.js";
import { Waterfall } from "./waterfall.js";
import { Code, Copy, Empty, Failure, Loading, Page, Status, Tabs, Tile, Tiles, useLoaded } from "./widgets.js";

const AGAIN = new Set(["chat/completions", "responses", "completions", "embeddings"]);

export function RequestPage({ id }) {
  const loaded = useLoaded(() => call("GET", `/requests/${encodeURIComponent(id)}`), [id]);
  const { value, error, again } = loaded;
  const isLive = value?.live !== null && value?.live !== undefined;
  useEffect(() => {
    if (!isLive) return undefined;
    return listen(again);
  }, [isLive]);
  if (value === null) {
    return html`<${Page} title="Request" note=${html`<span class="mono">${id}</span>`}>
      ${error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} what="Loading the request" />`}
    <//>`;
  }
  const request = value.live ?? value.request;
  return html`
    <${Page}
      title=${request.answered_by ?? request.model}
      note=${html`<a href="#/requests">Requests</a> / <span class="mono">${request.request_id}</span>`}
      actions=${html`${isLive ? html`<span class="status live">in flight</span>` : html`<${Status} code=${request.status} />`}`}
    >
      <${Facts} request=${request} />
      ${request.error && html`<${Problem} request=${request} contents=${value.contents} />`}
      <section class="card" aria-labelledby="time-title">
        <header><h2 id="time-title">Where the time went</h2></header>
        <${Waterfall} request=${request} />
      </section>
      <${Contents} contents=${value.contents} request=${request} />
    <//>
  `;
}

function Facts({ request }) {
  const seconds = request.ttft_s === null ? null : request.duration_s - request.ttft_s;
  const speed = seconds > 0.01 && request.completion_tokens > 1 ? (request.completion_tokens - 1) / seconds : null;
  const cached = request.cached_tokens ? `${count(request.cached_tokens)} from the cache` : "none from the cache";
  const isOther = request.answered_by && request.answered_by !== request.model;
  return html`
    <p class="facts">
      ${fullTime(request.at)} · <span class="mono">${request.path}</span> · ${request.key ? `key ${request.key}` : "no key"}
      ${isOther && html` · asked for <span class="mono">${request.model}</span>`}
      ${request.cache && html` · response cache: ${request.cache}`}
    </p>
    <${Tiles}>
      <${Tile} label="Total" value=${duration(request.duration_s)} />
      <${Tile} label="First token" value=${duration(request.ttft_s)} />
      <${Tile} label="Tokens in" value=${count(request.prompt_tokens)} note=${cached} />
      <${Tile}
        label="Tokens out"
        value=${count(request.completion_tokens)}
        note=${request.is_estimate ? "estimated" : request.reasoning_tokens ? `${count(request.reasoning_tokens)} of reasoning` : undefined}
      />
      <${Tile} label="Speed" value=${speed === null ? NONE : `${rate(speed)}/s`} note=${speed === null ? undefined : "tokens after the first"} />
      <${Tile} label="Cost" value=${dollars(request.usd)} note=${request.usd === null ? "no price is known" : undefined} />
    <//>
  `;
}

function Problem({ request, contents }) {
  return html`<section class="card problem-card" aria-labelledby="problem-title">
    <h2 id="problem-title">It failed: ${request.error}</h2>
    ${contents?.message
      ? html`<p>${contents.message}</p>`
      : html`<p class="note">The log has the message under the id of this request.</p>`}
  </section>`;
}

function Contents({ contents, request }) {
  const [tab, setTab] = useState("answer");
  if (contents === null) return html`<${NoContents} />`;
  const tabs = { answer: "Answer", prompt: "Prompt as rendered", grammar: "Grammar", request: "Request", code: "As code" };
  const body = parsed(contents.request);
  return html`<section class="card" aria-label="Contents">
    <header>
      <h2>Contents</h2>
      <p class="hint">
        Kept in memory for ${duration(contents.kept_s)} more, without keys.${contents.is_cut && " A part was too large and is cut."}
      </p>
    </header>
    <${Tabs} tabs=${tabs} value=${tab} onChange=${setTab} label="Contents of the request">
      ${tab === "answer" && html`<${Answer} contents=${contents} />`}
      ${tab === "prompt" && html`<${Prompt} pieces=${contents.prompt} />`}
      ${tab === "grammar" && html`<${Grammar} text=${contents.grammar} />`}
      ${tab === "request" && html`<${Sent} contents=${contents} body=${body} />`}
      ${tab === "code" && html`<${AsCode} path=${contents.path} body=${body} />`}
    <//>
    ${body && !contents.is_cut && AGAIN.has(operationOf(contents.path)) && html`<${SendAgain} path=${contents.path} body=${body} request=${request} />`}
  </section>`;
}

function NoContents() {
  const { capture } = session.value.info;
  return html`<section class="card"><${Empty} title="Contents were not kept">
    ${capture.is_on
      ? html`<p>This request is older than what is kept, or was made before the server started.</p>`
      : html`<p>
            The server keeps no prompts and answers unless you ask for it. To see the request as sent, the prompt as rendered,
            the grammar and each token's probability, start it with this setting:
          </p>
          <pre>[console]\ncapture = true</pre>`}
  <//></section>`;
}

function Answer({ contents }) {
  const text = answerText(contents.answer);
  return html`<div class="stack">
    ${contents.tokens.length > 0
      ? html`<${Tokens} tokens=${contents.tokens} />`
      : html`<${Code} text=${text || "The answer is empty."} label="Text of the answer" />`}
    <details>
      <summary>The answer as sent</summary>
      <${Code} text=${contents.answer || "Nothing was sent."} label="The answer as sent" />
    </details>
  </div>`;
}

function Prompt({ pieces }) {
  if (pieces.length === 0) {
    return html`<p class="note">This request was not rendered here: another API answered it, or it was refused before.</p>`;
  }
  return html`<div class="code" role="region" aria-label="Prompt as rendered" tabindex="0">
    <pre>${pieces.map((piece, index) => html`<span key=${index} class=${piece.special ? "special" : ""}>${marked(piece)}</span>`)}</pre>
  </div>`;
}

/** Control tokens stand out; only the template's own text can hold them. */
function marked(piece) {
  if (!piece.special) return piece.text;
  return piece.text.split(/(<\|[^|<>]*\|>|<\/?s>|\[\/?INST\])/).map((part, index) =>
    index % 2 ? html`<mark key=${index}>${part}</mark>` : part,
  );
}

function Grammar({ text }) {
  if (text === null) return html`<p class="note">No grammar: this answer was free text.</p>`;
  return html`<${Code} text=${text} label="Grammar" />`;
}

function Sent({ contents, body }) {
  const headers = Object.entries(contents.headers).map(([name, value]) => `${name}: ${value}`);
  const text = body === null ? contents.request : JSON.stringify(body, null, 2);
  return html`<div class="stack">
    <${Code} text=${[`POST ${contents.path}`, ...headers, "", text].join("\n")} label="Request as sent" />
    <div><${Copy} text=${text} label="Copy the body" /></div>
  </div>`;
}

function AsCode({ path, body }) {
  const [language, setLanguage] = useState("python");
  if (body === null) return html`<p class="note">The body is not JSON.</p>`;
  const text = program(language, path, body);
  return html`<div class="stack">
    <div class="actions">
      <select aria-label="Language" value=${language} onChange=${(event) => setLanguage(event.target.value)}>
        ${Object.entries(LANGUAGES).map(([name, title]) => html`<option key=${name} value=${name}>${title}</option>`)}
      </select>
      <${Copy} text=${text} label=${`Copy as ${LANGUAGES[language]}`} />
    </div>
    <${Code} text=${text} label="The same request as code" />
  </div>`;
}

function SendAgain({ path, body }) {
  const [state, setState] = useState({ phase: "idle" });
  const again = async () => {
    setState({ phase: "running" });
    try {
      const response = await send("POST", `/${operationOf(path)}`, body);
      const text = answerText(await response.text());
      setState({ phase: "done", text, id: response.headers.get("x-request-id") });
    } catch (error) {
      setState({ phase: "failed", error });
    }
  };
  const canOpen = operationOf(path) === "chat/completions" && Array.isArray(body.messages);
  return html`<div class="stack again">
    <div class="actions">
      <button type="button" onClick=${again} disabled=${state.phase === "running"}>
        ${state.phase === "running" ? "Sending…" : "Send again"}
      </button>
      ${canOpen && html`<button type="button" onClick=${() => openInPlayground(body)}>Open in the playground</button>`}
      <span role="status">
        ${state.phase === "done" && html`Answered: <a href=${`#/requests/${state.id}`}>see the new request</a>`}
      </span>
    </div>
    ${state.phase === "done" && html`<${Code} text=${state.text} label="The new answer" />`}
    ${state.phase === "failed" && html`<p class="problem" role="alert">${state.error.message}</p>`}
  </div>`;
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
