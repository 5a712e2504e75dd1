// The playground: a conversation with one model, or with two at once.

import { call } from "./api.js";
import { download, readChat, savedChat } from "./chat_file.js";
import { LANGUAGES, program } from "./code.js";
import * as state from "./playground_state.js";
import { SettingsPanel } from "./playground_settings.js";
import { Column } from "./playground_column.js";
import { useStore } from "./store.js";
import { html, useEffect, useRef, useState } from "./vendor/htm-preact-3.1.1.js";
import { Code, Copy, Dialog, Empty, Failure, Icon, Loading, Page, Tabs, useLoaded } from "./widgets.js";

const STARTERS = [
  "Explain in two sentences what a KV cache is.",
  "Write a haiku about a patient server.",
  "List three uses of a local language model.",
];
const MOST_IMAGE_BYTES = 8 * 1024 * 1024;

export function Playground() {
  const { columns, api, settings } = useStore(state.playground);
  const { value, error, again } = useLoaded(() => call("GET", "/models"));
  const [dialog, setDialog] = useState(null);
  const models = (value?.served ?? []).filter((model) => model.kind === "chat");
  useEffect(() => {
    if (models.length > 0 && !columns[0].model) state.setModel(0, models[0].id);
  }, [models.length]);
  if (value === null) {
    return html`<${Page} title="Playground">${error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} what="Looking for models" />`}<//>`;
  }
  if (models.length === 0) {
    return html`<${Page} title="Playground"><${Empty} title="No chat model is served">
      <p>Start the server with one: <code>antiphon serve --model smollm2-135m-instruct</code></p>
    <//><//>`;
  }
  const isEmpty = columns.every((column) => column.messages.length === 0);
  return html`
    <${Page} title="Playground" actions=${html`<${Actions} columns=${columns} isEmpty=${isEmpty} onCode=${() => setDialog("code")} />`}>
      <div class="playground">
        <div class="talk">
          <div class=${`talk-columns of-${columns.length}`}>
            ${columns.map((column, index) => html`<${Column} key=${index} column=${column} index=${index} models=${models} />`)}
          </div>
          ${isEmpty && html`<${Starters} />`}
          <${Composer} isRunning=${columns.some((column) => column.isRunning)} takesImages=${takesImages(models, columns)} />
        </div>
        <${SettingsPanel} api=${api} settings=${settings} columns=${columns} models=${models} />
      </div>
      ${dialog === "code" && html`<${CodeDialog} onClose=${() => setDialog(null)} />`}
    <//>
  `;
}

/** A model in this machine's engine reads text alone; whether another API's takes images, only that API knows. */
const takesImages = (models, columns) =>
  columns.every((column) => models.find((model) => model.id === column.model)?.takes_images !== false);

function Starters() {
  return html`<div class="starters" role="group" aria-label="Questions to begin with">
    ${STARTERS.map((text) => html`<button key=${text} type="button" onClick=${() => state.say(text)}>${text}</button>`)}
  </div>`;
}

function Actions({ columns, isEmpty, onCode }) {
  const file = useRef(null);
  const [problem, setProblem] = useState(null);
  const open = async (event) => {
    const [chosen] = event.target.files;
    event.target.value = "";
    if (!chosen) return;
    try {
      const { model, system, messages } = readChat(await chosen.text());
      state.clear();
      state.changeSettings({ system });
      state.change({ columns: [{ ...state.playground.value.columns[0], model, messages }] });
      setProblem(null);
    } catch (error) {
      setProblem(`${chosen.name} is not a saved chat: ${error.message}`);
    }
  };
  const save = () => {
    const [{ model, messages }] = columns;
    download("chat.json", savedChat(model, state.playground.value.settings.system, messages));
  };
  return html`
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <button type="button" onClick=${onCode}>Code</button>
    <button type="button" onClick=${save} disabled=${isEmpty}>Save</button>
    <button type="button" onClick=${() => file.current.click()}>Open</button>
    <input ref=${file} type="file" accept="application/json,.json" class="hidden-text" tabindex="-1" aria-label="Saved chat" onChange=${open} />
    <button type="button" onClick=${state.clear} disabled=${isEmpty}>Clear</button>
  `;
}

function Composer({ isRunning, takesImages: canAttach }) {
  const [text, setText] = useState("");
  const [images, setImages] = useState([]);
  const [problem, setProblem] = useState(null);
  const box = useRef(null);
  const file = useRef(null);
  const submit = (event) => {
    event.preventDefault();
    if (isRunning || (!text.trim() && images.length === 0)) return;
    state.say(text, images);
    setText("");
    setImages([]);
    box.current.focus();
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const attach = async (event) => {
    const chosen = [...event.target.files];
    event.target.value = "";
    if (chosen.some((each) => each.size > MOST_IMAGE_BYTES)) {
      setProblem("An image may have 8 MB.");
      return;
    }
    setProblem(null);
    setImages([...images, ...(await Promise.all(chosen.map(dataUrl)))]);
  };
  return html`<form class="composer" onSubmit=${submit}>
    ${images.length > 0 &&
    html`<div class="attached">
      ${images.map(
        (url, index) => html`<button key=${index} type="button" aria-label=${`Remove image ${index + 1}`} onClick=${() => setImages(images.filter((each) => each !== url))}>
          <img src=${url} alt="" />
        </button>`,
      )}
    </div>`}
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <textarea
      ref=${box}
      rows="2"
      aria-label="Message"
      placeholder="Write a message. Enter sends it, Shift+Enter begins a line."
      value=${text}
      onInput=${(event) => setText(event.target.value)}
      onKeyDown=${onKey}
    ></textarea>
    <div class="composer-row">
      ${canAttach &&
      html`<button type="button" class="quiet" onClick=${() => file.current.click()}><${Icon} name="image" />Image</button>
        <input ref=${file} type="file" accept="image/*" multiple class="hidden-text" tabindex="-1" aria-label="Image" onChange=${attach} />`}
      <span class="spring"></span>
      ${isRunning
        ? html`<button type="button" onClick=${state.stop}><${Icon} name="stop" />Stop</button>`
        : html`<button type="submit" class="primary" disabled=${!text.trim() && images.length === 0}><${Icon} name="up" />Send</button>`}
    </div>
  </form>`;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function CodeDialog({ onClose }) {
  const [language, setLanguage] = useState("python");
  const current = state.playground.value;
  let text;
  try {
    const { path, body } = state.requestOf(current, withQuestion(current.columns[0]));
    text = program(language, `/v1${path}`, body);
  } catch (error) {
    text = error.message;
  }
  return html`<${Dialog} title="The same request as code" onClose=${onClose}>
    <${Tabs} tabs=${LANGUAGES} value=${language} onChange=${setLanguage} label="Language">
      <${Code} text=${text} label="Code" />
    <//>
    <div class="buttons"><${Copy} text=${text} label="Copy the code" /></div>
  <//>`;
}

/** The conversation up to its last question: what one would send. */
function withQuestion(column) {
  const last = column.messages.findLastIndex((message) => message.role !== "assistant");
  const messages = last < 0 ? [{ role: "user", content: STARTERS[0] }] : column.messages.slice(0, last + 1);
  return { ...column, messages };
}
