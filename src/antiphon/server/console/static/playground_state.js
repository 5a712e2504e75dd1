// The playground's conversation: it stays while one looks at other pages, and is sent to one model or two.

import { store } from "./store.js";
import { ask } from "./streams.js";

const SETTINGS = {
  system: "",
  temperature: "",
  top_p: "",
  max_tokens: "",
  seed: "",
  tools: "",
  schema: "",
  streams: true,
};
const column = (model) => ({ model, messages: [], answer: null, error: null, isRunning: false });

/** `api`: chat or responses. Each column is a model with its own conversation. */
export const playground = store({ api: "chat", settings: SETTINGS, columns: [column("")] });

const running = new Map();

export function change(changes) {
  playground.set({ ...playground.value, ...changes });
}

export function changeSettings(changes) {
  change({ settings: { ...playground.value.settings, ...changes } });
}

function changeColumn(index, changes) {
  const columns = playground.value.columns.map((each, place) => (place === index ? { ...each, ...changes } : each));
  change({ columns });
}

export function setModel(index, model) {
  changeColumn(index, { model });
}

/** Adds a second column with the conversation so far. */
export function compare(model) {
  const [first] = playground.value.columns;
  change({ columns: [first, { ...first, model, answer: null, error: null, isRunning: false }] });
}

export function stopComparing() {
  stop();
  change({ columns: playground.value.columns.slice(0, 1) });
}

export function clear() {
  stop();
  change({ columns: playground.value.columns.map((each) => column(each.model)) });
}

export function stop() {
  for (const controller of running.values()) controller.abort();
}

/** Returns the JSON in a field, undefined for an empty one; raises an error that names the field. */
export function parsedField(text, name) {
  if (text.trim() === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name} is not JSON: ${error.message}`);
  }
}

function parsedTools(text) {
  const value = parsedField(text, "Tools");
  if (value === undefined) return undefined;
  const tools = Array.isArray(value) ? value : [value];
  return tools.map((tool) => (tool.type ? tool : { type: "function", function: tool }));
}

const number = (text) => (text === "" ? undefined : Number(text));

/** Returns the path and the body that a column's conversation is sent with. */
export function requestOf({ api, settings }, { model, messages }) {
  const tools = parsedTools(settings.tools);
  const schema = parsedField(settings.schema, "The schema");
  const shared = {
    temperature: number(settings.temperature),
    top_p: number(settings.top_p),
    stream: settings.streams || undefined,
  };
  const body = api === "chat" ? chatBody(settings, messages, tools, schema) : responseBody(settings, messages, tools, schema);
  return {
    path: api === "chat" ? "/chat/completions" : "/responses",
    body: JSON.parse(JSON.stringify({ model, ...body, ...shared })),
  };
}

function chatBody(settings, messages, tools, schema) {
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  return {
    messages: [...system, ...messages],
    tools,
    response_format: schema && { type: "json_schema", json_schema: { name: "answer", schema } },
    max_completion_tokens: number(settings.max_tokens),
    seed: number(settings.seed),
    stream_options: settings.streams ? { include_usage: true } : undefined,
  };
}

function responseBody(settings, messages, tools, schema) {
  return {
    instructions: settings.system || undefined,
    input: messages.flatMap(itemsOf),
    tools: tools?.map((tool) => (tool.function ? { type: "function", strict: false, ...tool.function } : tool)),
    text: schema && { format: { type: "json_schema", name: "answer", schema, strict: false } },
    max_output_tokens: number(settings.max_tokens),
    store: false,
  };
}

/** A message of a chat as the items of a response. */
function itemsOf(message) {
  if (message.role === "tool") {
    return [{ type: "function_call_output", call_id: message.tool_call_id, output: message.content }];
  }
  const calls = (message.tool_calls ?? []).map((call) => ({
    type: "function_call",
    call_id: call.id,
    name: call.function.name,
    arguments: call.function.arguments,
  }));
  if (!message.content) return calls;
  const content = typeof message.content === "string" ? message.content : message.content.map(partOf);
  return [{ role: message.role, content }, ...calls];
}

const partOf = (part) =>
  part.type === "image_url"
    ? { type: "input_image", image_url: part.image_url.url }
    : { type: "input_text", text: part.text };

/** Sends what the user wrote, with images as data URLs, to every column. */
export function say(text, images = []) {
  const content = images.length
    ? [...images.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }]
    : text;
  playground.value.columns.forEach((each, index) => {
    run(index, [...each.messages, { role: "user", content }]);
  });
}

/** Sends the results of a column's tool calls, by their ids. */
export function answerCalls(index, results) {
  const { messages } = playground.value.columns[index];
  run(index, [...messages, ...results.map(({ id, text }) => ({ role: "tool", tool_call_id: id, content: text }))]);
}

export function retry(index) {
  run(index, playground.value.columns[index].messages);
}

async function run(index, messages) {
  const controller = new AbortController();
  running.get(index)?.abort();
  running.set(index, controller);
  changeColumn(index, { messages, answer: null, error: null, isRunning: true });
  let latest = null;
  try {
    const { path, body } = requestOf(playground.value, playground.value.columns[index]);
    const answer = await ask(path, body, (grown) => changeColumn(index, { answer: (latest = grown) }), controller.signal);
    finish(index, messages, answer);
  } catch (error) {
    // What was said before it broke off stays in view.
    if (error.name === "AbortError") finish(index, messages, latest && { ...latest, finish: "stopped" });
    else changeColumn(index, { isRunning: false, error });
  } finally {
    if (running.get(index) === controller) running.delete(index);
  }
}

function finish(index, messages, answer) {
  if (answer === null) {
    changeColumn(index, { isRunning: false });
    return;
  }
  const calls = answer.calls.map(({ id, name, arguments: text }) => ({
    id,
    type: "function",
    function: { name, arguments: text },
  }));
  const message = { role: "assistant", content: answer.text || answer.refusal || (calls.length ? null : "") };
  if (calls.length) message.tool_calls = calls;
  const { text: _text, ...facts } = answer;
  changeColumn(index, { messages: [...messages, message], facts: factsOf(index, messages.length, facts), answer: null, isRunning: false });
}

/** What is known of each answer, by the place of its message. */
function factsOf(index, place, facts) {
  return { ...playground.value.columns[index].facts, [place]: facts };
}

/** Shows a request's body in the playground. */
export function openInPlayground(body) {
  const isSystem = (message) => message.role === "system" || message.role === "developer";
  const system = body.messages.filter(isSystem).map((message) => message.content);
  stop();
  change({
    api: "chat",
    columns: [{ ...column(body.model), messages: body.messages.filter((message) => !isSystem(message)) }],
    settings: {
      ...SETTINGS,
      system: system.filter((content) => typeof content === "string").join("\n\n"),
      temperature: body.temperature ?? "",
      top_p: body.top_p ?? "",
      seed: body.seed ?? "",
      max_tokens: body.max_completion_tokens ?? body.max_tokens ?? "",
      tools: body.tools ? JSON.stringify(body.tools, null, 2) : "",
      schema: body.response_format?.json_schema ? JSON.stringify(body.response_format.json_schema.schema, null, 2) : "",
    },
  });
  location.hash = "#/playground";
}
