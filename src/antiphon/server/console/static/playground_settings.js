// What the playground sends with a conversation.

import * as state from "./playground_state.js";
import { html, useState } from "./vendor/htm-preact-3.1.1.js";
import { Field } from "./widgets.js";

const EXAMPLE_TOOL = JSON.stringify(
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
    },
  },
  null,
  2,
);
const EXAMPLE_SCHEMA = JSON.stringify(
  {
    type: "object",
    properties: { title: { type: "string" }, year: { type: "integer" } },
    required: ["title", "year"],
    additionalProperties: false,
  },
  null,
  2,
);
const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.05 }],
  ["max_tokens", "Max tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { step: 1 }],
];

export function SettingsPanel({ api, settings, columns, models }) {
  const [isOpen, setOpen] = useState(() => matchMedia("(min-width: 1040px)").matches);
  const set = (name) => (event) => state.changeSettings({ [name]: event.target.value });
  return html`<details class="settings card" open=${isOpen} onToggle=${(event) => setOpen(event.target.open)}>
    <summary>Settings</summary>
    <div class="stack">
      <${Field} label="API" name="api">
        <select id="api" value=${api} onChange=${(event) => state.change({ api: event.target.value })}>
          <option value="chat">Chat completions</option>
          <option value="responses">Responses</option>
        </select>
      <//>
      <${Compare} columns=${columns} models=${models} />
      <${Field} label="System prompt" name="system">
        <textarea id="system" rows="3" value=${settings.system} onInput=${set("system")}></textarea>
      <//>
      <div class="columns">
        ${NUMBERS.filter(([name]) => api === "chat" || name !== "seed").map(
          ([name, label, range]) => html`<${Field} key=${name} label=${label} name=${name}>
            <input id=${name} type="number" ...${range} placeholder="default" value=${settings[name]} onInput=${set(name)} />
          <//>`,
        )}
      </div>
      <label class="check">
        <input type="checkbox" checked=${settings.streams} onChange=${(event) => state.changeSettings({ streams: event.target.checked })} />
        Stream the answer
      </label>
      <${JsonField} name="tools" label="Tools" text=${settings.tools} example=${EXAMPLE_TOOL} />
      <${JsonField} name="schema" label="Answer as JSON of this schema" text=${settings.schema} example=${EXAMPLE_SCHEMA} />
    </div>
  </details>`;
}

function Compare({ columns, models }) {
  const isOn = columns.length > 1;
  const other = models.find((model) => model.id !== columns[0].model) ?? models[0];
  const toggle = (event) => (event.target.checked ? state.compare(other.id) : state.stopComparing());
  return html`<label class="check">
    <input type="checkbox" checked=${isOn} onChange=${toggle} />
    Compare two models
  </label>`;
}

function JsonField({ name, label, text, example }) {
  let problem = null;
  try {
    state.parsedField(text, "This");
  } catch (error) {
    problem = error.message;
  }
  return html`<div class="field">
    <label for=${name}>${label}</label>
    <textarea
      id=${name}
      class="mono"
      rows=${text ? 7 : 2}
      spellcheck=${false}
      placeholder="JSON"
      aria-invalid=${problem ? "true" : "false"}
      value=${text}
      onInput=${(event) => state.changeSettings({ [name]: event.target.value })}
    ></textarea>
    ${problem && html`<p class="problem">${problem}</p>`}
    ${!text && html`<div><button type="button" class="quiet" onClick=${() => state.changeSettings({ [name]: example })}>Insert an example</button></div>`}
  </div>`;
}
