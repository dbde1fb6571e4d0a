// The playbook's cost smoke test (`cost-metering.test.ts`) with its promises checked: one call and a thousand repeats of it
// cost one call, and the repeats are fast.
import { client, collect } from "../support/client";
import { compareOnly } from "../support/record";

const openai = client();

beforeEach(() => compareOnly("none", "there is nothing to compare it with"));

/** The same question for all of a test, and another one for each run. `gpt-4.1` is the one route with a cache, see run.py. */
const question = (about: string) => ({
  model: "gpt-4.1",
  messages: [{ role: "user" as const, content: `Return the string OK. ${about} ${Date.now()}` }],
  temperature: 0,
});

test("1 + 1000 calls are one call, and P95 of the hits is below 50 ms", async () => {
  const asked = question("smoke");
  const first = await openai.chat.completions.create(asked).withResponse();
  expect(first.response.headers.get("x-chittycan-cache")).toBe("MISS");
  expect(Number(first.response.headers.get("x-chittycan-cost"))).toBeGreaterThan(0);
  const milliseconds: number[] = [];
  let hits = 0;
  const began = performance.now();
  for (let n = 0; n < 1000; n += 1) {
    const sent = performance.now();
    const { data, response } = await openai.chat.completions.create(asked).withResponse();
    milliseconds.push(performance.now() - sent);
    hits += Number(response.headers.get("x-chittycan-cache") === "HIT" && response.headers.get("x-chittycan-cost") === "0");
    expect(data).toEqual(first.data);
  }
  const seconds = (performance.now() - began) / 1000;
  const p95 = milliseconds.sort((a, b) => a - b)[949];
  console.log(`1000 calls: ${seconds.toFixed(3)} s, ${hits} hits, P95 ${p95.toFixed(2)} ms`);
  expect(hits).toBe(1000);
  expect(p95).toBeLessThan(50);
});

test("a stream and a document are the same answer", async () => {
  const asked = question("forms");
  const document = await openai.chat.completions.create(asked);
  const { data, response } = await openai.chat.completions
    .create({ ...asked, stream: true, stream_options: { include_usage: true } })
    .withResponse();
  expect(response.headers.get("x-chittycan-cache")).toBe("HIT");
  const chunks = await collect(data);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  expect(text).toBe(document.choices[0].message.content);
  expect(chunks.at(-1).usage).toEqual(document.usage);
  const helper = await openai.chat.completions.stream(asked).finalChatCompletion();
  expect(helper.choices[0].message.content).toBe(text);
});

test("tool calls survive the way from a stream to a document", async () => {
  const tools = [{ type: "function" as const, function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
  const asked = { ...question("tools"), tools, tool_choice: "required" as const };
  const streamed = await openai.chat.completions.stream(asked).finalChatCompletion();
  const { data, response } = await openai.chat.completions.create(asked).withResponse();
  expect(response.headers.get("x-chittycan-cache")).toBe("HIT");
  const calls = (message: typeof data.choices[0]["message"]) =>
    message.tool_calls.map((call: any) => [call.id, call.function.name, call.function.arguments]);
  expect(calls(data.choices[0].message)).toEqual(calls(streamed.choices[0].message));
  expect(data.choices[0].finish_reason).toBe("tool_calls");
});

test("responses are the same answer in both forms", async () => {
  const asked = { model: "gpt-4.1", input: `Return the string OK. ${Date.now()}`, temperature: 0 };
  const document = await openai.responses.create(asked);
  const { data, response } = await openai.responses.create({ ...asked, stream: true }).withResponse();
  expect(response.headers.get("x-chittycan-cache")).toBe("HIT");
  const events = await collect(data);
  const last = events.at(-1);
  expect(last.type).toBe("response.completed");
  expect((last as any).response.id).toBe(document.id);
  const text = events.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join("");
  expect(text).toBe(document.output_text);
  expect(text.length).toBeGreaterThan(0);
});
