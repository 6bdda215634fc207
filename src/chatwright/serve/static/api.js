// Talking to the server: one place for the key, for what can go wrong, and for reading a stream.

import { randomId } from "./dom.js";

const KEY = "chatwright.key", USER = "chatwright.user";

/** The API key lives as long as the tab, and nowhere else. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: value => value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY),
};

/** A random name for this browser, so that a person stays with one arm of an experiment. */
export function user() {
  let name = localStorage.getItem(USER);
  if (!name) localStorage.setItem(USER, name = `web-${randomId()}`);
  return name;
}

/** What went wrong, by kind: key, scope, busy, deadline, lost, refused, broken. `wait` is in seconds. */
export class Problem extends Error {
  constructor(kind, detail = "", wait = 0) {
    super(detail || kind);
    Object.assign(this, { kind, detail, wait });
  }
}

function kindOf(status, code) {
  if (status === 401) return "key";
  if (status === 403) return "scope";
  if (status === 429) return "busy";
  if (status === 408 || status === 504 || /deadline|timeout/.test(code)) return "deadline";
  return status === 503 ? "busy" : status >= 500 ? "broken" : "refused";
}

async function problem(response) {
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* a proxy's own page: the status says enough */ }
  const wait = Number.parseFloat(response.headers.get("retry-after")) || 0;
  return new Problem(kindOf(response.status, `${error.code ?? ""}${error.type ?? ""}`), error.message ?? "", wait);
}

/** The response of a request that went well; throws Problem otherwise. An abort stays an AbortError. `once` names
 * what is to be stored once, however often it is sent. */
async function request(path, { method = "GET", body, signal, once } = {}) {
  const headers = {};
  if (once) headers["idempotency-key"] = once;
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem("lost");
  }
  if (!response.ok) throw await problem(response);
  return response;
}

export async function call(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? null : response.json();
}

export async function download(path, name) {
  const blob = await (await request(path)).blob();
  const address = URL.createObjectURL(blob);
  const anchor = document.createElement("a");
  Object.assign(anchor, { href: address, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** The chunks of a streamed answer. Ends only after the server said [DONE]; anything less is a Problem. */
export async function* stream(body, signal) {
  const response = await request("/v1/chat/completions", { method: "POST", body: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Problem("lost");
    }
    if (part.done) throw new Problem("lost");
    const events = (rest + part.value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(kindOf(chunk.error.status ?? 500, `${chunk.error.code ?? ""}${chunk.error.type ?? ""}`), chunk.error.message ?? "");
      yield chunk;
    }
  }
}
