// Conversations as files that the toolkit's `Chat.load` reads, and that this page reads again.

const FORMAT = "antiphon-chat/1";

/** Groups messages into turns: each begins with what the user says and ends before the next. */
function turnsOf(messages) {
  const turns = [];
  for (const message of messages) {
    if (message.role === "user" || turns.length === 0) turns.push([]);
    turns.at(-1).push(message);
  }
  return turns;
}

/** Returns the file's JSON; an unanswered last turn is left out, because a chat goes on after an answer. */
export function savedChat(model, system, messages) {
  const turns = turnsOf(messages).filter((turn) => turn.at(-1).role === "assistant");
  return {
    format: FORMAT,
    system: system || null,
    reminder: null,
    start: 0,
    summary: null,
    turns: turns.map((turn) => ({ messages: turn, is_pinned: false })),
    model,
  };
}

/** Returns `{model, system, messages}` of a file's text; raises an error for anything else. */
export function readChat(text) {
  const value = JSON.parse(text);
  if (value.format !== FORMAT || !Array.isArray(value.turns)) throw new Error("This is not a saved chat.");
  return { model: value.model, system: value.system ?? "", messages: value.turns.flatMap((turn) => turn.messages) };
}

/** Lets the browser save `value` as a file. */
export function download(name, value) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
