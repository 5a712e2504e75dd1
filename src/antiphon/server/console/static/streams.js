// Answers of chat completions and responses, streamed or whole, as one growing value.

import { send } from "./api.js";

/** The answer so far. `calls` are tool calls `{id, name, arguments}`; times are seconds since the request was sent. */
const nothing = () => ({
  text: "",
  reasoning: "",
  refusal: "",
  calls: [],
  usage: null,
  finish: null,
  model: null,
  requestId: null,
  firstS: null,
  totalS: null,
});

/** Yields the JSON of each server-sent event. */
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const frames = rest.split("\n\n");
    rest = done ? "" : frames.pop();
    yield* frames.map(dataOf).filter((data) => data !== null);
    if (done) return;
  }
}

function dataOf(frame) {
  const lines = frame.split("\n").filter((line) => line.startsWith("data:"));
  const text = lines.map((line) => line.slice(5).trim()).join("\n");
  if (text === "" || text === "[DONE]") return null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function takeChatChunk(answer, chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  answer.model = chunk.model ?? answer.model;
  answer.usage = chunk.usage ?? answer.usage;
  const choice = chunk.choices?.find((each) => each.index === 0);
  if (!choice) return;
  answer.finish = choice.finish_reason ?? answer.finish;
  const said = choice.delta ?? choice.message ?? {};
  answer.text += said.content ?? choice.text ?? "";
  answer.reasoning += said.reasoning_content ?? said.reasoning ?? "";
  answer.refusal += said.refusal ?? "";
  (said.tool_calls ?? []).forEach((part, place) => {
    const index = part.index ?? place;
    const call = (answer.calls[index] ??= { id: "", name: "", arguments: "" });
    call.id ||= part.id ?? "";
    call.name += part.function?.name ?? part.custom?.name ?? "";
    call.arguments += part.function?.arguments ?? part.custom?.input ?? "";
  });
}

function takeResponseEvent(answer, event) {
  switch (event.type) {
    case "response.output_text.delta":
      answer.text += event.delta;
      break;
    case "response.refusal.delta":
      answer.refusal += event.delta;
      break;
    case "response.reasoning_summary_text.delta":
    case "response.reasoning_text.delta":
      answer.reasoning += event.delta;
      break;
    case "response.output_item.added":
      if (event.item.type === "function_call") {
        answer.calls.push({ id: event.item.call_id, name: event.item.name, arguments: "", item: event.item.id });
      }
      break;
    case "response.function_call_arguments.delta": {
      const call = answer.calls.find((each) => each.item === event.item_id);
      if (call) call.arguments += event.delta;
      break;
    }
    case "response.completed":
    case "response.incomplete":
      takeResponse(answer, event.response, { isEnd: true });
      break;
    case "response.failed":
      throw new Error(event.response.error?.message ?? "The response failed.");
    case "error":
      throw new Error(event.message ?? event.error?.message ?? "The stream failed.");
  }
}

function takeResponse(answer, response, { isEnd = false } = {}) {
  answer.model = response.model;
  answer.finish = response.status === "incomplete" ? (response.incomplete_details?.reason ?? "incomplete") : "stop";
  answer.usage = response.usage && {
    prompt_tokens: response.usage.input_tokens,
    completion_tokens: response.usage.output_tokens,
  };
  if (isEnd) return;
  for (const item of response.output) {
    if (item.type === "function_call") {
      answer.calls.push({ id: item.call_id, name: item.name, arguments: item.arguments });
    }
    for (const part of item.content ?? []) {
      if (part.type === "output_text") answer.text += part.text;
      if (part.type === "refusal") answer.refusal += part.refusal;
      if (part.type === "reasoning_text") answer.reasoning += part.text;
    }
  }
}

function take(answer, value) {
  if (value.error && value.error.message) throw new Error(value.error.message);
  if (typeof value.type === "string") takeResponseEvent(answer, value);
  else if (value.object === "response") takeResponse(answer, value);
  else takeChatChunk(answer, value);
}

/** Sends `body` and calls `onUpdate(answer)` as the answer grows; returns the whole. Raises what went wrong. */
export async function ask(path, body, onUpdate, signal) {
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  const answer = nothing();
  const response = await send("POST", path, body, signal);
  answer.requestId = response.headers.get("x-request-id");
  const values = body.stream ? eventsOf(response.body) : [await response.json()];
  for await (const value of values) {
    take(answer, value);
    if (answer.firstS === null && (answer.text || answer.reasoning || answer.calls.length)) answer.firstS = seconds();
    onUpdate({ ...answer, calls: answer.calls.map((call) => ({ ...call })) });
  }
  answer.totalS = seconds();
  return answer;
}

/** The text of an answer as it was sent, streamed or whole; that of its error if it is one. */
export function answerText(raw) {
  const answer = nothing();
  const isStream = /^(data|event|:)/.test(raw);
  const values = isStream ? raw.split("\n\n").map(dataOf).filter(Boolean) : [whole(raw)].filter(Boolean);
  if (!isStream && values.length === 0) return raw;
  try {
    for (const value of values) take(answer, value);
  } catch (error) {
    return `${answer.text}${answer.text && "\n"}${error.message}`;
  }
  const calls = answer.calls.map((call) => `${call.name}(${call.arguments})`);
  return [answer.text || answer.refusal, ...calls].filter(Boolean).join("\n") || (isStream ? "" : raw);
}

function whole(raw) {
  try {
    return JSON.parse(raw);
  } catch {
    return null;
  }
}
