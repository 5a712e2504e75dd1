// Calls of the console's endpoints, and who is signed in.

import { store } from "./store.js";

/** An answer other than success. `status` is 0 when the server did not answer at all. */
export class ApiFailure extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** `state`: loading, out, in. `info` is what the server says about itself and the session. */
export const session = store({ state: "loading", info: null });

const BASE = "/console/api";

/** Sends a request and returns the response; raises `ApiFailure`. */
export async function send(method, path, body, signal) {
  const options = { method, signal, cache: "no-store", credentials: "same-origin", headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = typeof body === "string" ? body : JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(BASE + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure(0, "The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const failure = await failureOf(response);
  if (failure.code === "console_sign_in") session.set({ state: "out", info: session.value.info });
  throw failure;
}

async function failureOf(response) {
  try {
    const { error } = await response.json();
    return new ApiFailure(response.status, error.message, error.code);
  } catch {
    return new ApiFailure(response.status, `The server answered with status ${response.status}.`);
  }
}

/** Sends a request and returns the JSON of its answer. */
export async function call(method, path, body, signal) {
  return (await send(method, path, body, signal)).json();
}

/** Asks who is signed in. */
export async function refreshSession() {
  take(await call("GET", "/session"));
}

export async function signIn(key) {
  take(await call("POST", "/session", { key }));
}

export async function signOut() {
  take(await call("DELETE", "/session"));
}

function take(info) {
  session.set({ state: info.signed_in ? "in" : "out", info });
}
