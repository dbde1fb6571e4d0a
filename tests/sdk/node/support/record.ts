// Records what each test received, for the comparison of two runs (tests/sdk/transcript.py reads it).
//
// Jest loads this file before every test file. It wraps the global `fetch` that the SDK uses, so that the playbook's
// suite is recorded without a change to it. One line of JSON per test is appended to $TRANSCRIPT; without that variable
// nothing is recorded.
import { appendFileSync } from "node:fs";

/** `wire`: everything must be equal. `notes`: status and content type, and what the test notes itself. `none`: nothing. */
type Mode = "wire" | "notes" | "none";

type Exchange = {
  method: string;
  path: string;
  status: number;
  headers: Record<string, string>;
  ended: "complete" | "broken";
  parts: Buffer[];
};

const file = process.env.TRANSCRIPT;
const kept = /^(content-type|openai-.*|x-ratelimit-.*|retry-after.*|x-should-retry|x-request-id)$/;

let mode: Mode = "wire";
let notes: Record<string, unknown> = {};
let exchanges: Exchange[] = [];

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
  if (!file || mode === "none") return response;
  const { status, statusText } = response;
  const headers = Object.fromEntries([...response.headers].filter(([name]) => kept.test(name)));
  const path = new URL(String(input?.url ?? input)).pathname;
  const exchange: Exchange = { method: init?.method ?? "GET", path, status, headers, ended: "complete", parts: [] };
  exchanges.push(exchange);
  const body = response.body && copied(response.body, exchange);
  return new Response(body, { status, statusText, headers: response.headers });
};

/** The same body, read when the SDK reads it; `clone()` would read on after the SDK has left, and hang with it. */
function copied(body: ReadableStream<Uint8Array>, exchange: Exchange): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) return controller.close();
          exchange.parts.push(Buffer.from(value));
          controller.enqueue(value);
        } catch (error) {
          exchange.ended = "broken";
          controller.error(error);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}

function written({ parts, ...head }: Exchange): object {
  const body = Buffer.concat(parts);
  const text = body.toString("utf8");
  return { ...head, ...(Buffer.from(text, "utf8").equals(body) ? { text } : { base64: body.toString("base64") }) };
}

beforeEach(() => {
  mode = "wire";
  notes = {};
  exchanges = [];
});

afterEach(() => {
  if (!file || mode === "none") return;
  const line = { case: expect.getState().currentTestName, mode, exchanges: exchanges.map(written), notes };
  appendFileSync(file, JSON.stringify(line) + "\n");
});
