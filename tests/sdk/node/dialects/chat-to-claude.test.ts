// Chat Completions of the `openai` package, answered by a Claude model.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { collect, rejection } from "../support/client";
import {
  Answer,
  CLAUDE,
  PIXEL,
  argumentsOf,
  chatTools,
  claudeSays,
  drained,
  messagesTools,
  named,
  openai,
  through,
  user,
} from "../support/dialects";

const chat = through.openai.chat.completions;

function answer(completion: any): Answer {
  expect(completion.object).toBe("chat.completion");
  expect(completion.choices).toHaveLength(1);
  const [{ message, finish_reason }] = completion.choices;
  expect(message.role).toBe("assistant");
  return {
    text: message.content ?? "",
    finish: finish_reason,
    calls: (message.tool_calls ?? []).map((call: any) => ({
      id: call.id,
      name: call.function.name,
      input: argumentsOf(call.function.arguments),
    })),
    usage: completion.usage,
    reasoning: message.reasoning_content ?? "",
    reply: message,
  };
}

/** Assembles the chunks by hand, and checks their order on the way. */
async function streamed(body: any): Promise<Answer> {
  const chunks: any[] = await collect(
    (await chat.create({ ...body, stream: true, stream_options: { include_usage: true } })) as any,
  );
  expect(new Set(chunks.map((c) => c.id)).size).toBe(1);
  const last = chunks.pop();
  expect(last.choices).toEqual([]);
  for (const chunk of chunks) {
    expect(chunk.object).toBe("chat.completion.chunk");
    expect(chunk.choices).toHaveLength(1);
    expect(chunk.usage).toBeNull();
  }
  const choices = chunks.map((c) => c.choices[0]);
  expect(choices[0].delta.role).toBe("assistant");
  expect(choices.findIndex((c) => c.finish_reason)).toBe(choices.length - 1);
  const calls: any[] = [];
  for (const part of choices.flatMap((c) => c.delta.tool_calls ?? [])) {
    if (!calls[part.index]) {
      expect(part).toMatchObject({ index: calls.length, id: expect.any(String), type: "function" });
      calls.push({ id: part.id, type: "function", function: { name: part.function.name, arguments: "" } });
    }
    calls[part.index].function.arguments += part.function.arguments ?? "";
  }
  const joined = (key: string) => choices.map((c) => c.delta[key] ?? "").join("");
  const blocks = choices.flatMap((c) => c.delta.thinking_blocks ?? []);
  return {
    text: joined("content"),
    finish: choices.at(-1).finish_reason,
    calls: calls.map((c) => ({ id: c.id, name: c.function.name, input: argumentsOf(c.function.arguments) })),
    usage: last.usage,
    reasoning: joined("reasoning_content"),
    reply: {
      role: "assistant",
      content: joined("content"),
      ...(calls.length && { tool_calls: calls }),
      ...(blocks.length && { thinking_blocks: blocks }),
    },
  };
}

/** The SDK's own accumulator. Of a field that OpenAI does not have, such as the reasoning, it keeps the last piece only. */
async function helper(body: any): Promise<Answer> {
  const stream = chat.stream({ ...body, stream_options: { include_usage: true } });
  let text = "";
  let reasoning = "";
  stream.on("content", (delta) => (text += delta));
  stream.on("chunk", (chunk: any) => (reasoning += chunk.choices[0]?.delta.reasoning_content ?? ""));
  const final = answer(await stream.finalChatCompletion());
  expect(text).toBe(final.text);
  return { ...final, reasoning };
}

const whole = async (body: any) => {
  const reply = await chat.create(body);
  expect(reply.model).toBe(body.model);
  return answer(reply);
};

function sameUsage(asked: Answer, own: Answer) {
  expect(own.usage.input_tokens).toBeGreaterThan(0);
  expect(asked.usage.prompt_tokens).toBe(own.usage.input_tokens);
  expect(asked.usage.completion_tokens).toBe(own.usage.output_tokens);
  expect(asked.usage.total_tokens).toBe(own.usage.input_tokens + own.usage.output_tokens);
}

describe.each([["whole", whole], ["streamed", streamed], ["with the SDK's stream helper", helper]])("%s", (_, way) => {
  const ask = (body: object) => way({ model: CLAUDE, ...body });

  test.each(["Count to 12.", "What is the capital of Norway?", 'Return the string Grüße 世界 🌍 "q" \\ x'])(
    "text: %s",
    async (prompt) => {
      const asked = await ask({ messages: [user(prompt)] });
      const own = await claudeSays({ messages: [user(prompt)] });
      expect(own.text).not.toBe("");
      expect([asked.text, asked.finish, asked.calls]).toEqual([own.text, "stop", []]);
      sameUsage(asked, own);
    },
  );

  test("system and history", async () => {
    const turns = [user("Say hello"), { role: "assistant", content: "Hello." }, user("What did I say first?")];
    const asked = await ask({ messages: [{ role: "system", content: "You are brief." }, ...turns] });
    const own = await claudeSays({ system: "You are brief.", messages: turns });
    expect(asked.text).toBe(own.text);
    sameUsage(asked, own);
  });

  test("stop", async () => {
    const stopped = await ask({ messages: [user("Count to 9.")], stop: ["4"] });
    expect([stopped.text, stopped.finish]).toEqual(["1, 2, 3, ", "stop"]);
  });

  test("a tool call, its result and the answer", async () => {
    const messages: any[] = [user("Call get_weather for Oslo")];
    const first = await ask({ messages, tools: chatTools("get_weather") });
    const own = await claudeSays({ messages, tools: messagesTools("get_weather") });
    expect(named(first)).toEqual([["get_weather", { city: "example city" }]]);
    expect(named(first)).toEqual(named(own));
    expect([first.finish, first.text]).toEqual(["tool_calls", ""]);
    sameUsage(first, own);

    messages.push(first.reply, { role: "tool", tool_call_id: first.calls[0].id, content: "21 degrees" });
    const second = await ask({ messages, tools: chatTools("get_weather") });
    expect([second.text, second.finish]).toEqual(["The tool answered: 21 degrees", "stop"]);
  });

  test("parallel tool calls", async () => {
    const messages: any[] = [user("Call get_weather and get_time")];
    const tools = chatTools("get_weather", "get_time");
    const first = await ask({ messages, tools });
    expect(named(first)).toEqual([["get_weather", { city: "example city" }], ["get_time", { zone: "example zone" }]]);
    const [weather, time] = first.calls;
    expect(weather.id).not.toBe(time.id);
    // The results in the other order.
    messages.push(
      first.reply,
      { role: "tool", tool_call_id: time.id, content: "noon" },
      { role: "tool", tool_call_id: weather.id, content: "21 degrees" },
    );
    const second = await ask({ messages, tools });
    expect(second.text).toContain("noon");
    expect(second.text).toContain("21 degrees");
    const one = await ask({ messages: messages.slice(0, 1), tools, parallel_tool_calls: false });
    expect(named(one)).toEqual([["get_weather", { city: "example city" }]]);
  });

  test("a picture by data URL", async () => {
    const text = { type: "text", text: "What is in the picture?" };
    const url = { type: "image_url", image_url: { url: `data:image/png;base64,${PIXEL}` } };
    const image = { type: "image", source: { type: "base64", media_type: "image/png", data: PIXEL } };
    const asked = await ask({ messages: [user([text, url])] });
    const own = await claudeSays({ messages: [user([text, image])] });
    expect(asked.text).toBe(own.text);
    expect(asked.usage.prompt_tokens).toBeGreaterThan(85);
    sameUsage(asked, own);
  });

  test.each([["all", true], ["OpenAI's own fields", false]])("reasoning in a tool loop, giving back %s", async (_, all) => {
    const messages: any[] = [user("Call get_weather for Oslo")];
    const more = { tools: chatTools("get_weather"), reasoning_effort: "medium", max_completion_tokens: 8192 };
    const first = await ask({ messages, ...more });
    const thinking = { type: "enabled", budget_tokens: 2048 };
    const own = await claudeSays({ messages, tools: messagesTools("get_weather"), thinking });
    expect(own.reasoning).not.toBe("");
    expect(first.reasoning).toBe(own.reasoning);
    expect(named(first)).toEqual([["get_weather", { city: "example city" }]]);
    sameUsage(first, own);
    expect(first.usage.completion_tokens_details.reasoning_tokens).toBe(own.usage.output_tokens_details.thinking_tokens);

    const { role, content, tool_calls } = first.reply;
    messages.push(all ? first.reply : { role, content, tool_calls });
    messages.push({ role: "tool", tool_call_id: first.calls[0].id, content: "21 degrees" });
    const second = await ask({ messages, ...more });
    expect(second.text).toBe("The tool answered: 21 degrees");
    // Without its thinking the turn that is open cannot go on thinking.
    expect(second.reasoning.includes("The tool has answered")).toBe(all);

    messages.push({ role: "assistant", content: second.text }, user("Count to 3."));
    const third = await ask({ messages, ...more });
    expect([third.text, third.reasoning]).toEqual(["1, 2, 3", 'The user says "Count to 3.". I will answer.']);
  });
});

describe("helpers of the SDK", () => {
  const Step = z.object({ explanation: z.string(), output: z.number() });
  const Solution = z.object({ steps: z.array(Step), final: z.enum(["yes", "no"]), certain: z.boolean() });
  const solution = { steps: [{ explanation: "example explanation", output: 1.5 }], final: "yes", certain: true };
  const request = {
    model: CLAUDE,
    messages: [user("Solve it")],
    response_format: zodResponseFormat(Solution, "solution"),
  };

  test("structured output with parse", async () => {
    const reply = await chat.parse(request);
    expect(reply.choices[0].message.parsed).toEqual(solution);
    expect(reply.choices[0].finish_reason).toBe("stop");
  });

  test("structured output with stream", async () => {
    const stream = chat.stream(request);
    let deltas = 0;
    stream.on("content", () => (deltas += 1));
    expect((await stream.finalChatCompletion()).choices[0].message.parsed).toEqual(solution);
    expect(deltas).toBeGreaterThan(1);
  });

  test("arguments of a tool with parse", async () => {
    const tool = zodFunction({ name: "get_weather", parameters: z.object({ city: z.string() }) });
    const reply = await chat.parse({ model: CLAUDE, messages: [user("Call get_weather")], tools: [tool] });
    const [call]: any[] = reply.choices[0].message.tool_calls;
    expect(call.function.parsed_arguments).toEqual({ city: "example city" });
  });

  test.each([false, true])("the tool loop of runTools (stream: %s)", async (stream) => {
    const asked: unknown[] = [];
    const tool: any = {
      type: "function",
      function: {
        ...chatTools("get_weather")[0].function,
        parse: JSON.parse,
        function: (input: { city: string }) => {
          asked.push(input);
          return `21 degrees in ${input.city}`;
        },
      },
    };
    const body: any = { model: CLAUDE, messages: [user("Call get_weather for Oslo")], tools: [tool], stream };
    const runner: any = chat.runTools(body);
    expect(await runner.finalContent()).toBe("The tool answered: 21 degrees in example city");
    expect(asked).toEqual([{ city: "example city" }]);
  });
});

describe.each([false, true])("refusals (stream: %s)", (stream) => {
  async function refused(body: object, simulate?: string, by = through.openai): Promise<any> {
    const request: any = { model: CLAUDE, messages: [user("Say hello")], stream, ...body };
    const headers = simulate ? { "x-simulate": simulate } : {};
    const error = await rejection(drained(by.chat.completions.create(request, { headers })));
    expect(error.requestID).toBeTruthy();
    expect(error.message).toBeTruthy();
    expect(Object.keys(error.error)).toEqual(expect.arrayContaining(["message", "type", "param", "code"]));
    return error;
  }

  test.each([["n", 2], ["logprobs", true]])("the parameter %s", async (param, value) => {
    const error = await refused({ [param]: value });
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, param, code: "unsupported_parameter", type: "invalid_request_error" });
  });

  test.each([
    ["400", OpenAI.BadRequestError, 400, null],
    ["403", OpenAI.PermissionDeniedError, 403, "permission_denied"],
    ["404", OpenAI.NotFoundError, 404, "model_not_found"],
    ["429", OpenAI.RateLimitError, 429, "rate_limit_exceeded"],
    ["500", OpenAI.InternalServerError, 500, null],
    ["529", OpenAI.InternalServerError, 503, "overloaded"],
  ])("the provider's %s", async (simulate, kind, status, code) => {
    const error = await refused({}, simulate);
    expect(error).toBeInstanceOf(kind);
    expect([error.status, error.code]).toEqual([status, code]);
  });

  test("the client's key", async () => {
    const error = await refused({}, "401", openai(undefined, { apiKey: "sk-ant-own" }));
    expect(error).toBeInstanceOf(OpenAI.AuthenticationError);
    expect(error.code).toBe("invalid_api_key");
  });
});

test("an error inside a stream: APIError after the text before it", async () => {
  const stream = await chat.create(
    { model: CLAUDE, messages: [user("Count to 9.")], stream: true },
    { headers: { "x-simulate": "error=7" } },
  );
  let text = "";
  const error = await rejection(
    (async () => {
      for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
    })(),
  );
  expect(error).toBeInstanceOf(OpenAI.APIError);
  expect(error.code).toBe("overloaded");
  expect(text).not.toBe("");
  expect("1, 2, 3, 4, 5, 6, 7, 8, 9".startsWith(text)).toBe(true);
});
