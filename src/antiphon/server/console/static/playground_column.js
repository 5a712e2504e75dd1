// One model's side of the conversation.

import { count, duration, rate } from "./format.js";
import * as state from "./playground_state.js";
import { html, useEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";

export function Column({ column, index, models }) {
  const end = useRef(null);
  const { messages, answer, error, isRunning, facts = {} } = column;
  useEffect(() => {
    if (messages.length > 0) end.current.scrollIntoView({ block: "nearest" });
  }, [messages.length, answer?.text, error]);
  const open = openCalls(messages);
  return html`<section class="column" aria-label=${column.model}>
    <header>
      <select aria-label=${index ? "Second model" : "Model"} value=${column.model} onChange=${(event) => state.setModel(index, event.target.value)}>
        ${models.map((model) => html`<option key=${model.id} value=${model.id}>${model.id}</option>`)}
      </select>
    </header>
    <div class="messages" role="log" aria-live="polite" aria-busy=${isRunning ? "true" : "false"} tabindex="0" aria-label=${`Conversation with ${column.model}`}>
      ${messages.length === 0 && html`<p class="welcome">Ask ${column.model} something. The settings take a system prompt, tools and a schema.</p>`}
      ${messages.map((message, place) => html`<${Message} key=${place} message=${message} facts=${facts[place]} />`)}
      ${isRunning && html`<${Growing} answer=${answer} />`}
      ${error &&
      html`<div class="problem-card message">
        <p class="problem" role="alert">${error.message}</p>
        <div><button type="button" onClick=${() => state.retry(index)}>Try again</button></div>
      </div>`}
      ${!isRunning && open.length > 0 && html`<${CallResults} key=${messages.length} calls=${open} index=${index} />`}
      <div ref=${end}></div>
    </div>
  </section>`;
}

/** The calls of the last message, if it waits for their results. */
function openCalls(messages) {
  return messages.at(-1)?.tool_calls ?? [];
}

const ROLES = { user: "You", assistant: "Model", tool: "Tool result", developer: "Developer", system: "System" };

function Message({ message, facts }) {
  const parts = Array.isArray(message.content) ? message.content : [{ type: "text", text: message.content ?? "" }];
  return html`<article class=${`message ${message.role}`}>
    <p class="speaker">${ROLES[message.role] ?? message.role}</p>
    ${facts?.reasoning && html`<details class="reasoning"><summary>Reasoning</summary><p>${facts.reasoning}</p></details>`}
    ${parts.map((part, index) =>
      part.type === "image_url"
        ? html`<img key=${index} class="shown-image" src=${part.image_url.url} alt="Attached by you" />`
        : part.text && html`<p key=${index} class="text">${part.text}</p>`,
    )}
    ${message.tool_calls?.map((each) => html`<${ToolCall} key=${each.id} name=${each.function.name} text=${each.function.arguments} />`)}
    ${facts && html`<${Facts} facts=${facts} />`}
  </article>`;
}

function Growing({ answer }) {
  return html`<article class="message assistant">
    <p class="speaker">Model</p>
    ${answer?.reasoning && html`<details class="reasoning" open=${!answer.text}><summary>Reasoning</summary><p>${answer.reasoning}</p></details>`}
    ${answer?.text || answer?.refusal
      ? html`<p class="text">${answer.text || answer.refusal}<span class="caret" aria-hidden="true"></span></p>`
      : !answer?.calls.length && html`<p class="waiting"><span class="spinner" aria-hidden="true"></span><span class="hidden-text">Waiting for the answer</span></p>`}
    ${answer?.calls.map((each, index) => html`<${ToolCall} key=${index} name=${each.name} text=${each.arguments} />`)}
  </article>`;
}

function ToolCall({ name, text }) {
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // Arguments that are still being written are no JSON yet.
  }
  return html`<div class="call"><strong>${name}</strong><pre>${shown}</pre></div>`;
}

function CallResults({ calls, index }) {
  const [texts, setTexts] = useState({});
  const submit = (event) => {
    event.preventDefault();
    state.answerCalls(index, calls.map(({ id }) => ({ id, text: texts[id] ?? "" })));
  };
  return html`<form class="message results" onSubmit=${submit}>
    ${calls.map(
      ({ id, function: called }) => html`<div class="field" key=${id}>
        <label for=${`result-${id}`}>Result of ${called.name}</label>
        <textarea id=${`result-${id}`} rows="2" required value=${texts[id] ?? ""} onInput=${(event) => setTexts({ ...texts, [id]: event.target.value })}></textarea>
      </div>`,
    )}
    <div><button type="submit" class="primary">Send the result${calls.length > 1 ? "s" : ""}</button></div>
  </form>`;
}

const ENDINGS = { length: "cut at its longest", max_output_tokens: "cut at its longest", content_filter: "filtered", stopped: "stopped by you" };

function Facts({ facts }) {
  const { usage, firstS, totalS, finish, requestId } = facts;
  const seconds = totalS === null || firstS === null ? 0 : totalS - firstS;
  const tokens = usage?.completion_tokens;
  const said = [
    usage && `${count(usage.prompt_tokens)} tokens in, ${count(tokens)} out`,
    firstS !== null && `first after ${duration(firstS)}`,
    tokens > 1 && seconds > 0.01 && `${rate((tokens - 1) / seconds)} tokens/s`,
    ENDINGS[finish],
  ].filter(Boolean);
  return html`<p class="answer-facts">
    ${said.join(" · ")}${requestId && html` · <a href=${`#/requests/${requestId}`}>see the request</a>`}
  </p>`;
}
