// Records what each test received, for the comparison of two runs (tests/sdk/transcript.py reads it).
//
// Jest loads this file before every test file. It wraps the global `fetch` that the SDK uses, so that the playbook's
// suite is recorded without a change to it. One line of JSON per test is appended to $TRANSCRIPT; without that variable
// nothing is recorded.
import { appendFileSync } from "node:fs";

/** `wire`: everything must be equal. `notes`: status and content type, and what the test notes itself. `none`: nothing. */
type Mode = "wire" | "notes" | "none";

const file = process.env.TRANSCRIPT;
const kept = /^(content-type|openai-.*|x-ratelimit-.*|retry-after.*|x-should-retry|x-request-id)$/;

let mode: Mode = "wire";
let notes: Record<string, unknown> = {};
let exchanges: Promise<object>[] = [];

/** Adds what the SDK made of the reply to the transcript of the current test. */
export function note(name: string, value: unknown): void {
  notes[name] = value;
}

/** Says how much of the wire the current test compares, and why not all of it. */
export function compareOnly(chosen: Exclude<Mode, "wire">, _because: string): void {
  mode = chosen;
}

/** The class and the public fields of an SDK error. */
export function fault(error: any): object {
  const { status, code, type, param, message } = error;
  return { class: error.constructor.name, status, code, type, param, message };
}

const real = globalThis.fetch;
globalThis.fetch = async (input: any, init?: any) => {
  const response = await real(input, init);
  if (file && mode !== "none") exchanges.push(exchange(String(input?.url ?? input), init, response.clone()));
  return response;
};

async function exchange(url: string, init: any, response: Response): Promise<object> {
  const headers = Object.fromEntries([...response.headers].filter(([name]) => kept.test(name)));
  const path = new URL(url).pathname;
  // Read as it arrives: a stream that breaks off still shows what came before.
  const parts: Buffer[] = [];
  let ended = "complete";
  try {
    for await (const part of response.body ?? []) parts.push(Buffer.from(part));
  } catch {
    ended = "broken";
  }
  const body = Buffer.concat(parts);
  const text = body.toString("utf8");
  const isText = Buffer.from(text, "utf8").equals(body);
  const shown = isText ? { text } : { base64: body.toString("base64") };
  return { method: init?.method ?? "GET", path, status: response.status, headers, ended, ...shown };
}

beforeEach(() => {
  mode = "wire";
  notes = {};
  exchanges = [];
});

afterEach(async () => {
  if (!file || mode === "none") return;
  const done = await Promise.all(exchanges);
  appendFileSync(file, JSON.stringify({ case: expect.getState().currentTestName, mode, exchanges: done, notes }) + "\n");
});
