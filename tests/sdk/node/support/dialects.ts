// What the suites of dialects share: the clients, the tools in each dialect, and answers that can be compared.
//
// Through the gateway each SDK talks to models that speak another dialect than its own; `direct` clients ask the
// simulated provider itself, in the model's own dialect. It answers the same question in the same way in every dialect.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import OpenAI from "openai";

const gateway = process.env.OPENAI_BASE.replace(/\/v1$/, "");
const provider = process.env.PROVIDER_BASE.replace(/\/v1$/, "");

export const CLAUDE = "claude-sonnet-4-5";
export const GPT = "gpt-4.1";
export const CHAT_ONLY = "llama-3-70b";
export const CHAT_ONLY_DIRECT = "llama-3.3-70b-versatile";

export const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

export const through = {
  openai: openai(gateway),
  anthropic: anthropic(),
};
export const direct = {
  openai: openai(provider),
  anthropic: new Anthropic({ baseURL: provider, maxRetries: 0 }),
};

export function openai(base = gateway, more: ConstructorParameters<typeof OpenAI>[0] = {}): OpenAI {
  return new OpenAI({ baseURL: `${base}/v1`, maxRetries: 0, ...more });
}

export function anthropic(more: ConstructorParameters<typeof Anthropic>[0] = {}): Anthropic {
  return new Anthropic({ baseURL: gateway, maxRetries: 0, ...more });
}

const parameters = (name: string) => ({
  type: "object" as const,
  properties: { [name]: { type: "string", description: `The ${name}.` } },
  required: [name],
  additionalProperties: false,
});
const TOOLS: Record<string, { description: string; parameters: ReturnType<typeof parameters> }> = {
  get_weather: { description: "Tells the weather.", parameters: parameters("city") },
  get_time: { description: "Tells the time.", parameters: parameters("zone") },
};

/** Tools of Chat Completions. Strict, which the SDKs' helpers insist on. */
export const chatTools = (...names: string[]) =>
  names.map((name) => ({ type: "function" as const, function: { name, ...TOOLS[name], strict: true } }));

export const responsesTools = (...names: string[]) =>
  names.map((name) => ({ type: "function" as const, name, ...TOOLS[name], strict: true }));

export const messagesTools = (...names: string[]) =>
  names.map((name) => ({
    name,
    description: TOOLS[name].description,
    input_schema: TOOLS[name].parameters,
    strict: true,
  }));

export const user = (content: any) => ({ role: "user" as const, content });

/** What a reply says, whichever way it came. The arguments of a call are what their JSON says. */
export type Answer = {
  text: string;
  finish: string;
  calls: { id: string; name: string; input: unknown }[];
  usage: any;
  reasoning: string;
  /** What goes back in the next request. */
  reply: any;
};

export const named = (answer: Answer) => answer.calls.map(({ name, input }) => [name, input]);

/** The arguments of a call, which must be one JSON object. */
export function argumentsOf(text: string): unknown {
  const value = JSON.parse(text);
  expect(value).toEqual(expect.objectContaining({}));
  return value;
}

export function messageAnswer(message: Anthropic.Message): Answer {
  const blocks: any[] = message.content;
  const joined = (type: string, key: string) => blocks.filter((b) => b.type === type).map((b) => b[key]).join("");
  return {
    text: joined("text", "text"),
    finish: message.stop_reason,
    calls: blocks.filter((b) => b.type === "tool_use").map(({ id, name, input }) => ({ id, name, input })),
    usage: message.usage,
    reasoning: joined("thinking", "thinking"),
    reply: message,
  };
}

/** What the Claude model itself says to a request of its own dialect. */
export async function claudeSays(body: object): Promise<Answer> {
  const request: any = { model: CLAUDE, max_tokens: 8192, ...body };
  return messageAnswer(await direct.anthropic.messages.create(request));
}

/** A promise's value, or a stream read to its end: for requests that must be refused. */
export async function drained(promise: PromiseLike<any>): Promise<unknown> {
  const value = await promise;
  if (value?.[Symbol.asyncIterator]) for await (const _ of value);
  return value;
}

/** The loop of Anthropic's SDK: it calls the function and goes on until there is no call. */
export async function runTools(client: Anthropic, model: string, more: object): Promise<void> {
  const asked: string[] = [];
  const tool = betaTool({
    name: "get_weather",
    description: "Tells the weather.",
    inputSchema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } as const,
    run: ({ city }) => {
      asked.push(city);
      return `21 degrees in ${city}`;
    },
  });
  const messages = [user("Call get_weather for Oslo")];
  const runner: any = client.beta.messages.toolRunner({ model, max_tokens: 2048, messages, tools: [tool], ...more });
  const turns: Anthropic.Message[] = [];
  for await (const turn of runner) turns.push("finalMessage" in turn ? await turn.finalMessage() : turn);
  expect(asked).toEqual(["example city"]);
  expect(turns.map((turn) => turn.stop_reason)).toEqual(["tool_use", "end_turn"]);
  expect(messageAnswer(turns[1]).text).toBe("The tool answered: 21 degrees in example city");
  // The second turn was answered with the first in sight.
  expect(turns[1].usage.input_tokens).toBeGreaterThan(turns[0].usage.input_tokens);
}
