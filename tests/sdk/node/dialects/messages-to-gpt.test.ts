// The Messages API of `@anthropic-ai/sdk`, answered by an OpenAI model.
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { collect, rejection } from "../support/client";
import {
  Answer,
  GPT,
  PIXEL,
  anthropic,
  argumentsOf,
  chatTools,
  direct,
  messageAnswer,
  messagesTools,
  named,
  runTools,
  through,
  user,
} from "../support/dialects";

const messages = through.anthropic.messages;
const full = (body: object): any => ({ model: GPT, max_tokens: 2048, ...body });

const whole = async (body: any) => messages.create(body);

/** Assembles the events by hand, and checks their order on the way. */
async function streamed(body: any): Promise<Anthropic.Message> {
  const all: any[] = await collect((await messages.create({ ...body, stream: true })) as any);
  const events = all.filter((event) => event.type !== "ping");
  const message = events[0].message;
  expect(events[0].type).toBe("message_start");
  expect(events.slice(-2).map((e) => e.type)).toEqual(["message_delta", "message_stop"]);
  expect(message).toMatchObject({ content: [], stop_reason: null });
  let block: any = null;
  let input = "";
  for (const event of events.slice(1, -2)) {
    expect(event.index).toBe(message.content.length);
    if (event.type === "content_block_start") {
      expect(block).toBeNull();
      block = { ...event.content_block };
      input = "";
    } else if (event.type === "content_block_delta") {
      if (event.delta.type === "text_delta") block.text += event.delta.text;
      else input += event.delta.partial_json;
    } else {
      expect(event.type).toBe("content_block_stop");
      if (block.type === "tool_use") block.input = argumentsOf(input || "{}");
      message.content.push(block);
      block = null;
    }
  }
  expect(block).toBeNull();
  const { delta, usage } = events.at(-2);
  return { ...message, ...delta, usage: { ...message.usage, ...usage } };
}

/** The SDK's own accumulator. */
async function helper(body: any): Promise<Anthropic.Message> {
  const stream = messages.stream(body);
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const final = await stream.finalMessage();
  expect(text).toBe(messageAnswer(final).text);
  return final;
}

/** The answer is what the model itself says to a request of its own dialect. */
async function same(asked: Answer, request: any) {
  const { choices, usage } = await direct.openai.chat.completions.create({ model: GPT, ...request });
  const message: any = choices[0].message;
  expect(asked.text).toBe(message.content ?? "");
  const calls = (message.tool_calls ?? []).map((c: any) => [c.function.name, argumentsOf(c.function.arguments)]);
  expect(named(asked)).toEqual(calls);
  expect([asked.usage.input_tokens, asked.usage.output_tokens]).toEqual([usage.prompt_tokens, usage.completion_tokens]);
}

describe.each([["whole", whole], ["streamed", streamed], ["with the SDK's stream helper", helper]])("%s", (_, way) => {
  async function ask(body: object): Promise<Answer> {
    const message: any = await way(full(body));
    expect(message).toMatchObject({ type: "message", role: "assistant" });
    expect(message.id).toMatch(/^msg_/);
    expect(message.model).toContain(GPT);
    return messageAnswer(message);
  }

  test.each(["Count to 12.", "What is the capital of Norway?", 'Return the string Grüße 世界 🌍 "q" \\ x'])(
    "text: %s",
    async (prompt) => {
      const asked = await ask({ messages: [user(prompt)] });
      await same(asked, { messages: [user(prompt)] });
      expect(asked.text).not.toBe("");
      expect(asked.finish).toBe("end_turn");
    },
  );

  test("system, history, limit and stop", async () => {
    const turns = [user("Say hello"), { role: "assistant", content: "Hello." }, user("What did I say first?")];
    const asked = await ask({ system: "You are brief.", messages: turns });
    await same(asked, { messages: [{ role: "system", content: "You are brief." }, ...turns] });
    const cut = await ask({ messages: [user("Count to 9.")], max_tokens: 2 });
    expect([cut.text, cut.finish]).toEqual(["1, 2,", "max_tokens"]);
    expect((await ask({ messages: [user("Count to 9.")], stop_sequences: ["4"] })).text).toBe("1, 2, 3, ");
  });

  test("a tool call, its result and the answer", async () => {
    const turns: any[] = [user("Call get_weather for Oslo")];
    const first = await ask({ messages: turns, tools: messagesTools("get_weather") });
    await same(first, { messages: turns, tools: chatTools("get_weather") });
    expect(named(first)).toEqual([["get_weather", { city: "example city" }]]);
    expect(first.finish).toBe("tool_use");
    const result = { type: "tool_result", tool_use_id: first.calls[0].id, content: "21 degrees" };
    turns.push({ role: "assistant", content: first.reply.content }, user([result]));
    const second = await ask({ messages: turns, tools: messagesTools("get_weather") });
    expect([second.text, second.finish]).toEqual(["The tool answered: 21 degrees", "end_turn"]);
  });

  test("parallel tool calls", async () => {
    const turns: any[] = [user("Call get_weather and get_time")];
    const tools = messagesTools("get_weather", "get_time");
    const first = await ask({ messages: turns, tools });
    expect(named(first)).toEqual([["get_weather", { city: "example city" }], ["get_time", { zone: "example zone" }]]);
    const [weather, time] = first.calls;
    expect(weather.id).not.toBe(time.id);
    const one = await ask({ messages: turns, tools, tool_choice: { type: "auto", disable_parallel_tool_use: true } });
    expect(named(one)).toHaveLength(1);
    turns.push(
      { role: "assistant", content: first.reply.content },
      user([
        { type: "tool_result", tool_use_id: time.id, content: [{ type: "text", text: "noon" }] },
        { type: "tool_result", tool_use_id: weather.id, content: "no such city", is_error: true },
      ]),
    );
    const second = await ask({ messages: turns, tools });
    expect(second.text).toMatch(/^The tool answered: /);
    expect(second.finish).toBe("end_turn");
  });

  test("a picture", async () => {
    const image = { type: "image", source: { type: "base64", media_type: "image/png", data: PIXEL } };
    const url = { type: "image_url", image_url: { url: `data:image/png;base64,${PIXEL}` } };
    const text = { type: "text", text: "What is in the picture?" };
    const asked = await ask({ messages: [user([image, text])] });
    await same(asked, { messages: [user([url, text])] });
    expect(asked.usage.input_tokens).toBeGreaterThan(85);
  });
});

describe.each([false, true])("the tool loop (stream: %s)", (stream) => {
  test.each([["with threads", {}], ["without threads", { thread: false }]])("%s", async (_, more) => {
    await runTools(through.anthropic, GPT, { stream, ...more });
  });
});

test("structured output with parse and with stream", async () => {
  const Report = z.object({ word: z.string(), count: z.number() });
  const request = full({ messages: [user("Solve it")], output_config: { format: zodOutputFormat(Report) } });
  const expected = { word: "example word", count: 1.5 };
  expect((await messages.parse(request)).parsed_output).toEqual(expected);
  expect(((await messages.stream(request).finalMessage()) as any).parsed_output).toEqual(expected);
});

test("count_tokens", async () => {
  const count = async (body: any) => (await messages.countTokens({ model: GPT, ...body })).input_tokens;
  const short = await count({ messages: [user("Hello")] });
  expect(short).toBeGreaterThan(0);
  expect(short).toBeLessThan(20);
  // " hello" is one token of every OpenAI model.
  expect(await count({ messages: [user("Hello" + " hello".repeat(100))] })).toBe(short + 100);
  expect(await count({ messages: [user("Hello")], tools: messagesTools("get_weather") })).toBeGreaterThan(short + 10);
});

test("an unknown beta passes, what is left out is named, and the request has an id", async () => {
  const request = { ...full({ messages: [user("Count to 3.")] }), top_k: 5, betas: ["made-up-2099-01-01"] };
  const { data, response, request_id } = await through.anthropic.beta.messages.create(request).withResponse();
  expect(messageAnswer(data as any).text).toBe("1, 2, 3");
  expect(response.headers.get("x-chittycan-dropped")).toBe("top_k");
  expect(request_id).toBeTruthy();
  expect((data as any)._request_id).toBe(request_id);
});

describe.each([false, true])("refusals (stream: %s)", (stream) => {
  async function refused(body: object, simulate?: string, by = through.anthropic): Promise<any> {
    const headers = simulate ? { "x-simulate": simulate } : {};
    const request: any = { ...full({ messages: [user("Say hello")], stream }), ...body };
    const error = await rejection(by.beta.messages.create(request, { headers }));
    expect(error.error.type).toBe("error");
    expect(error.requestID).toBeTruthy();
    expect(error.requestID).toBe(error.error.request_id);
    return error;
  }

  test.each([
    ["400", Anthropic.BadRequestError, 400, "invalid_request_error"],
    ["403", Anthropic.PermissionDeniedError, 403, "permission_error"],
    ["404", Anthropic.NotFoundError, 404, "not_found_error"],
    ["429", Anthropic.RateLimitError, 429, "rate_limit_error"],
    ["500", Anthropic.InternalServerError, 500, "api_error"],
    ["503", Anthropic.InternalServerError, 503, "overloaded_error"],
  ])("the provider's %s", async (simulate, kind, status, type) => {
    const error = await refused({}, simulate);
    expect(error).toBeInstanceOf(kind);
    expect([error.status, error.type]).toEqual([status, type]);
  });

  test("the client's key", async () => {
    const error = await refused({}, "401", anthropic({ apiKey: "sk-own" }));
    expect(error).toBeInstanceOf(Anthropic.AuthenticationError);
  });

  test("a model that nobody has", async () => {
    expect(await refused({ model: "no-such-model" })).toBeInstanceOf(Anthropic.NotFoundError);
  });

  test("what only Anthropic has", async () => {
    for (const [name, value] of [
      ["tools", [{ type: "web_search_20250305", name: "web_search" }]],
      ["mcp_servers", [{ type: "url", url: "https://example.com", name: "x" }]],
    ]) {
      const error = await refused({ [name as string]: value });
      expect(error).toBeInstanceOf(Anthropic.BadRequestError);
      expect(error.message).toContain(name);
    }
  });

  // A conversation that nobody keeps must not be continued. This error makes the SDK send all of it, without threads.
  test.each([[{ type: "create" }], [{ type: "continue", previous_message_id: "msg_1" }]])("threads: %j", async (thread) => {
    const error = await refused({ thread, betas: ["message-threads-2026-08-12"] });
    expect(error).toBeInstanceOf(Anthropic.BadRequestError);
    expect(error.errorCode).toBe("thread_unsupported_request");
  });
});

test("an error inside a stream", async () => {
  const request = { ...full({ messages: [user("Count to 9.")] }), stream: true };
  const stream: any = await messages.create(request, { headers: { "x-simulate": "error=5" } });
  let text = "";
  const error = await rejection(
    (async () => {
      for await (const event of stream) text += event.delta?.text ?? "";
    })(),
  );
  expect(error).toBeInstanceOf(Anthropic.APIError);
  expect(["api_error", "overloaded_error"]).toContain(error.type);
  expect(text).not.toBe("");
  expect("1, 2, 3, 4, 5, 6, 7, 8, 9".startsWith(text)).toBe(true);
});
