// Keys: who may use the server. A key is shown once, when it is made.

import { call, refreshSession, session } from "./api.js";
import { count, dollars, fullTime, NONE, when } from "./format.js";
import { html, useState } from "./vendor/htm-preact-3.1.1.js";
import { Copy, Dialog, Empty, Failure, Field, Loading, Page, useLoaded } from "./widgets.js";

const LIMITS = [
  ["rpm", "Requests per minute"],
  ["tpm", "Tokens per minute"],
  ["rpd", "Requests per day"],
  ["concurrency", "In flight at once"],
];
const SHORT = { rpm: "requests/min", tpm: "tokens/min", rpd: "requests/day", concurrency: "at once" };
const NO_LIMITS = { rpm: "", tpm: "", rpd: "", concurrency: "", budget_usd: "", budget_period: "total", models: "" };

export function Keys() {
  const { value, error, again } = useLoaded(() => call("GET", "/keys"));
  const [dialog, setDialog] = useState(null);
  const close = () => setDialog(null);
  const done = (next) => {
    setDialog(next ?? null);
    again();
  };
  const create = html`<button type="button" class="primary" onClick=${() => setDialog({ kind: "create" })}>Create a key</button>`;
  const keys = value?.data ?? [];
  return html`<${Page} title="Keys" note="Changes hold at once, on every server that shares the database." actions=${keys.length > 0 && create}>
    ${error && value === null && html`<${Failure} error=${error} again=${again} />`}
    ${value === null && !error && html`<${Loading} what="Loading keys" />`}
    ${value !== null && keys.length === 0 &&
    html`<${Empty} title="No key yet">
      <p>Without keys, any program on this machine may use the server, and only programs on this machine.</p>
      ${create}
    <//>`}
    ${keys.length > 0 && html`<${KeyTable} keys=${keys} onAct=${setDialog} />`}
    ${dialog?.kind === "create" && html`<${CreateDialog} isFirst=${session.value.info.is_open} onClose=${close} onDone=${done} />`}
    ${dialog?.kind === "shown" && html`<${ShownDialog} made=${dialog.made} isNew=${dialog.isNew} onClose=${close} />`}
    ${dialog?.kind === "limits" && html`<${LimitsDialog} record=${dialog.record} onClose=${close} onDone=${done} />`}
    ${dialog?.kind === "rotate" && html`<${RotateDialog} record=${dialog.record} onClose=${close} onDone=${done} />`}
    ${dialog?.kind === "revoke" && html`<${RevokeDialog} record=${dialog.record} onClose=${close} onDone=${done} />`}
  <//>`;
}

function limitsOf(key) {
  const own = LIMITS.filter(([name]) => key.limits[name] !== null).map(([name]) => `${count(key.limits[name])} ${SHORT[name]}`);
  return own.join(", ") || "the server's";
}

function budgetOf(key) {
  return key.budget_usd === null ? NONE : `${dollars(key.spent_usd)} of ${dollars(key.budget_usd)}`;
}

const BADGES = { active: "good", expired: "warn", revoked: "" };

function KeyTable({ keys, onAct }) {
  const act = (kind, record) => () => onAct({ kind, record });
  return html`<section class="card" aria-label="Keys"><div class="scroll" role="region" aria-label="Table of keys" tabindex="0"><table>
    <thead><tr>
      ${["Name", "Key", "State", "Created", "Limits", "Budget used", "Models"].map((title) => html`<th key=${title} scope="col">${title}</th>`)}
      <th scope="col"><span class="hidden-text">Actions</span></th>
    </tr></thead>
    <tbody>
      ${keys.toReversed().map(
        (key) => html`<tr key=${key.id} class=${key.state === "active" ? "" : "is-over"}>
          <th scope="row" class="name">${key.name} ${key.is_admin && html`<span class="badge admin">admin</span>`}</th>
          <td><code>${key.hint}</code></td>
          <td><span class=${`badge ${BADGES[key.state]}`}>${key.state}</span></td>
          <td title=${fullTime(key.created_at)}>${when(key.created_at)}</td>
          <td>${limitsOf(key)}</td>
          <td>${budgetOf(key)}</td>
          <td>${key.models?.join(", ") ?? "all"}</td>
          <td><div class="row-actions">
            ${key.state === "active" &&
            html`<button type="button" class="quiet" aria-label=${`Limits of ${key.name}`} onClick=${act("limits", key)}>Limits</button>
              <button type="button" class="quiet" aria-label=${`Rotate ${key.name}`} onClick=${act("rotate", key)}>Rotate</button>
              <button type="button" class="quiet" aria-label=${`Revoke ${key.name}`} onClick=${act("revoke", key)}>Revoke</button>`}
          </div></td>
        </tr>`,
      )}
    </tbody>
  </table></div></section>`;
}

/** The form's texts as the server wants them. */
function limitsBody(form) {
  const number = (text) => (text === "" ? null : Number(text));
  const models = form.models.split(",").map((each) => each.trim()).filter(Boolean);
  return {
    ...Object.fromEntries(LIMITS.map(([name]) => [name, number(form[name])])),
    budget_usd: number(form.budget_usd),
    budget_period: form.budget_period,
    models: models.length ? models : null,
  };
}

function LimitFields({ form, set }) {
  return html`<fieldset>
    <legend>Limits; empty means the server's own</legend>
    <div class="columns">
      ${LIMITS.map(([name, label]) => html`<${Field} key=${name} label=${label} name=${`limit-${name}`}>
        <input id=${`limit-${name}`} type="number" min="1" step="1" value=${form[name]} onInput=${set(name)} />
      <//>`)}
    </div>
    <div class="columns">
      <${Field} label="Budget in dollars" name="budget">
        <input id="budget" type="number" min="0.01" step="0.01" value=${form.budget_usd} onInput=${set("budget_usd")} />
      <//>
      <${Field} label="Budget is for" name="budget-period">
        <select id="budget-period" value=${form.budget_period} onChange=${set("budget_period")}>
          <option value="total">all time</option>
          <option value="month">each month</option>
          <option value="day">each day</option>
        </select>
      <//>
    </div>
    <${Field} label="Models" name="key-models" hint="Names separated by commas; gpt-4o* is a pattern. Empty means all.">
      <input id="key-models" spellcheck=${false} value=${form.models} onInput=${set("models")} />
    <//>
  </fieldset>`;
}

/** A form in a dialog: sends `submit(form)` and shows what the server says against it. */
function FormDialog({ title, first, submit, button, isDangerous, onClose, onDone, children }) {
  const [form, setForm] = useState(first);
  const [state, setState] = useState({ isSending: false, error: null });
  const set = (name) => (event) =>
    setForm({ ...form, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const send = async (event) => {
    event.preventDefault();
    setState({ isSending: true, error: null });
    try {
      onDone(await submit(form));
    } catch (error) {
      setState({ isSending: false, error });
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <form onSubmit=${send}>
      ${children(form, set)}
      ${state.error && html`<p class="problem" role="alert">${state.error.message}</p>`}
      <div class="buttons">
        <button type="button" onClick=${onClose}>Cancel</button>
        <button type="submit" class=${isDangerous ? "danger" : "primary"} disabled=${state.isSending}>${button}</button>
      </div>
    </form>
  <//>`;
}

function CreateDialog({ isFirst, onClose, onDone }) {
  const submit = async (form) => {
    const { name, is_admin, expires_days: days } = form;
    const made = await call("POST", "/keys", { name, is_admin, expires_days: days ? Number(days) : null, ...limitsBody(form) });
    if (isFirst) await refreshSession();
    return { kind: "shown", made, isNew: true };
  };
  const first = { name: "", is_admin: isFirst, expires_days: "", ...NO_LIMITS };
  return html`<${FormDialog} title="Create a key" first=${first} submit=${submit} button="Create" onClose=${onClose} onDone=${onDone}>
    ${(form, set) => html`
      ${isFirst &&
      html`<p class="callout">This is the first key. From then on every program needs one, and this one is an admin's, for the console.</p>`}
      <${Field} label="Name" name="key-name"><input id="key-name" required autofocus maxlength="200" value=${form.name} onInput=${set("name")} /><//>
      ${!isFirst &&
      html`<label class="check"><input type="checkbox" checked=${form.is_admin} onChange=${set("is_admin")} />Admin: may use the console and read everyone's usage</label>`}
      <${Field} label="Expires after days" name="key-expires" hint="Empty means never.">
        <input id="key-expires" type="number" min="1" step="1" value=${form.expires_days} onInput=${set("expires_days")} />
      <//>
      <${LimitFields} form=${form} set=${set} />
    `}
  <//>`;
}

function ShownDialog({ made, isNew, onClose }) {
  return html`<${Dialog} title=${isNew ? "Keep this key now" : "Keep the new key now"} onClose=${onClose}>
    <div class="stack">
      <p>It is stored hashed and cannot be shown again. ${!isNew && "The old one no longer works."}</p>
      <div class="secret"><code id="new-key">${made.key}</code><${Copy} text=${made.key} label="Copy the key" /></div>
      <pre class="hint">export OPENAI_BASE_URL=${location.origin}/v1\nexport OPENAI_API_KEY=…</pre>
      <div class="buttons"><button type="button" class="primary" onClick=${onClose}>I have kept it</button></div>
    </div>
  <//>`;
}

function LimitsDialog({ record, onClose, onDone }) {
  const text = (value) => (value === null ? "" : String(value));
  const first = {
    ...Object.fromEntries(LIMITS.map(([name]) => [name, text(record.limits[name])])),
    budget_usd: text(record.budget_usd),
    budget_period: record.budget_period ?? "total",
    models: record.models?.join(", ") ?? "",
  };
  const submit = async (form) => void (await call("POST", `/keys/${record.id}`, limitsBody(form)));
  return html`<${FormDialog} title=${`Limits of ${record.name}`} first=${first} submit=${submit} button="Save" onClose=${onClose} onDone=${onDone}>
    ${(form, set) => html`<${LimitFields} form=${form} set=${set} />`}
  <//>`;
}

function RotateDialog({ record, onClose, onDone }) {
  const submit = async () => ({ kind: "shown", made: await call("POST", `/keys/${record.id}/rotate`), isNew: false });
  return html`<${FormDialog} title=${`Rotate ${record.name}?`} first=${{}} submit=${submit} button="Rotate" onClose=${onClose} onDone=${onDone}>
    ${() => html`<p>The key gets a new secret. Programs with the old one are refused from their next request on; limits, budget and usage stay.</p>`}
  <//>`;
}

function RevokeDialog({ record, onClose, onDone }) {
  const submit = async () => void (await call("DELETE", `/keys/${record.id}`));
  return html`<${FormDialog} title=${`Revoke ${record.name}?`} first=${{}} submit=${submit} button="Revoke" isDangerous onClose=${onClose} onDone=${onDone}>
    ${() => html`<p>Every server refuses this key from its next request on. This cannot be undone.</p>`}
  <//>`;
}
