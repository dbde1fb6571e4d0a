// Chat completions and legacy completions beyond the playbook's five cases.
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { client, collect } from "../support/client";
import { compareOnly, note } from "../support/record";

const openai = client();
const say = (content: string) => [{ role: "user" as const, content }];

const weather = {
  type: "function" as const,
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const time = {
  type: "function" as const,
  function: {
    name: "get_time",
    parameters: { type: "object", properties: { zone: { type: "string" } }, required: ["zone"] },
  },
};

describe("chat completions", () => {
  test("a stream without include_usage has one choice per chunk and no usage key", async () => {
    const chunks = await collect(
      await openai.chat.completions.create({ model: "gpt-4o", messages: say("Count to 5."), stream: true }),
    );
    for (const chunk of chunks) {
      expect(chunk.choices).toHaveLength(1);
      expect("usage" in chunk).toBe(false);
    }
    expect(chunks.map((c) => c.choices[0].delta.content ?? "").join("")).toBe("1, 2, 3, 4, 5");
    expect(chunks.at(-1).choices[0].finish_reason).toBe("stop");
  });

  test("a stream with include_usage ends with a chunk of usage and no choice", async () => {
    const chunks = await collect(
      await openai.chat.completions.create({
        model: "gpt-4o",
        messages: say("Count to 5."),
        stream: true,
        stream_options: { include_usage: true },
      }),
    );
    const last = chunks.pop();
    expect(last.choices).toHaveLength(0);
    expect(last.usage.completion_tokens).toBe(5);
    expect(last.usage.total_tokens).toBe(last.usage.prompt_tokens + last.usage.completion_tokens);
    for (const chunk of chunks) expect(chunk.usage).toBeNull();
  });

  test("the stream helper assembles the message", async () => {
    const stream = openai.chat.completions.stream({ model: "gpt-4o", messages: say("Count to 3.") });
    const final = await stream.finalChatCompletion();
    expect(final.choices[0].message.content).toBe("1, 2, 3");
    note("final", final.choices[0]);
  });

  test("several choices, stop and max_tokens", async () => {
    const two = await openai.chat.completions.create({ model: "gpt-4o", messages: say("Tell me more"), n: 2 });
    expect(two.choices.map((c) => c.index)).toEqual([0, 1]);
    const cut = await openai.chat.completions.create({ model: "gpt-4o", messages: say("Count to 9."), max_tokens: 2 });
    expect(cut.choices[0].finish_reason).toBe("length");
    const stopped = await openai.chat.completions.create({ model: "gpt-4o", messages: say("Count to 9."), stop: "4" });
    expect(stopped.choices[0].message.content).not.toContain("4");
  });

  test("a tool call, its result and the final answer", async () => {
    const messages: any[] = say("Call get_weather for Oslo");
    const first = await openai.chat.completions.create({ model: "gpt-4o", messages, tools: [weather] });
    expect(first.choices[0].finish_reason).toBe("tool_calls");
    const [call] = first.choices[0].message.tool_calls;
    expect(call.type === "function" && call.function.name).toBe("get_weather");
    expect(JSON.parse(call.type === "function" && call.function.arguments)).toHaveProperty("city");

    messages.push(first.choices[0].message, { role: "tool", tool_call_id: call.id, content: "21 degrees" });
    const second = await openai.chat.completions.create({ model: "gpt-4o", messages, tools: [weather] });
    expect(second.choices[0].message.content).toContain("21 degrees");
  });

  test("parallel tool calls, whole", async () => {
    const reply = await openai.chat.completions.create({
      model: "gpt-4o",
      messages: say("Call get_weather and get_time"),
      tools: [weather, time],
    });
    const calls = reply.choices[0].message.tool_calls;
    expect(calls.map((c) => c.type === "function" && c.function.name)).toEqual(["get_weather", "get_time"]);
    expect(new Set(calls.map((c) => c.id)).size).toBe(2);
  });

  test("parallel tool calls, streamed", async () => {
    const stream = openai.chat.completions.stream({
      model: "gpt-4o",
      messages: say("Call get_weather and get_time"),
      tools: [weather, time],
    });
    const final = await stream.finalChatCompletion();
    const calls = final.choices[0].message.tool_calls as any[];
    expect(calls.map((c) => c.function.name)).toEqual(["get_weather", "get_time"]);
    for (const call of calls) expect(Object.keys(JSON.parse(call.function.arguments))).toHaveLength(1);
    note("calls", calls);
  });

  test("a forced tool and parallel_tool_calls: false", async () => {
    const forced = await openai.chat.completions.create({
      model: "gpt-4o",
      messages: say("anything"),
      tools: [weather, time],
      tool_choice: { type: "function", function: { name: "get_time" } },
    });
    expect((forced.choices[0].message.tool_calls[0] as any).function.name).toBe("get_time");
    const single = await openai.chat.completions.create({
      model: "gpt-4o",
      messages: say("Call get_weather and get_time"),
      tools: [weather, time],
      parallel_tool_calls: false,
    });
    expect(single.choices[0].message.tool_calls).toHaveLength(1);
  });

  test("a picture in the message", async () => {
    const pixel =
      "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    const reply = await openai.chat.completions.create({
      model: "gpt-4o",
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "What is this?" },
            { type: "image_url", image_url: { url: pixel, detail: "low" } },
          ],
        },
      ],
    });
    expect(reply.choices[0].message.content).toBeTruthy();
    expect(reply.usage.prompt_tokens).toBeGreaterThan(80);
  });

  test("structured output is parsed by the SDK", async () => {
    const Step = z.object({ explanation: z.string(), output: z.number() });
    const Answer = z.object({ steps: z.array(Step), final: z.enum(["yes", "no"]) });
    const reply = await openai.chat.completions.parse({
      model: "gpt-4o",
      messages: say("Solve it"),
      response_format: zodResponseFormat(Answer, "answer"),
    });
    const parsed = reply.choices[0].message.parsed;
    expect(["yes", "no"]).toContain(parsed.final);
    note("parsed", parsed);
  });

  test("json_object", async () => {
    const reply = await openai.chat.completions.create({
      model: "gpt-4o",
      messages: say("Answer in json"),
      response_format: { type: "json_object" },
    });
    expect(typeof JSON.parse(reply.choices[0].message.content)).toBe("object");
  });

  test("text outside ASCII and escapes arrive unchanged, whole and streamed", async () => {
    const text = 'Grüße, 世界 🌍 — "quoted" \\ back\tslash';
    const messages = say(`Return the string ${text}`);
    const whole = await openai.chat.completions.create({ model: "gpt-4o", messages });
    expect(whole.choices[0].message.content).toBe(text);
    const chunks = await collect(await openai.chat.completions.create({ model: "gpt-4o", messages, stream: true }));
    expect(chunks.map((c) => c.choices[0].delta.content ?? "").join("")).toBe(text);
  });

  test("a reasoning model reports reasoning tokens", async () => {
    const reply = await openai.chat.completions.create({
      model: "o3-mini",
      messages: say("Think."),
      max_completion_tokens: 400,
      reasoning_effort: "low",
    });
    expect(reply.usage.completion_tokens_details.reasoning_tokens).toBeGreaterThan(0);
  });

  test("a request of 1 MB", async () => {
    const reply = await openai.chat.completions.create({ model: "gpt-4o", messages: say("word ".repeat(200_000)) });
    expect(reply.usage.prompt_tokens).toBeGreaterThan(200_000);
  });

  test("the playbook's other models", async () => {
    for (const model of ["gpt-4o-mini", "claude-sonnet-4", "llama-3-70b"]) {
      const reply = await openai.chat.completions.create({ model, messages: say("Say hello") });
      expect(reply.choices[0].message.content).toMatch(/hello/i);
      note(model, reply.choices[0].message);
    }
    compareOnly("notes", "the gateway may serve a model of its table under the provider's own name");
  });
});

describe("leaving early", () => {
  test("breaking out of a stream leaves the client usable", async () => {
    compareOnly("none", "how much arrived before the break is a matter of time");
    const stream = await openai.chat.completions.create({
      model: "gpt-4o",
      messages: say("Count to 5000."),
      stream: true,
    });
    let seen = 0;
    for await (const _ of stream) if (++seen === 3) break;
    expect(stream.controller.signal.aborted).toBe(true);
    const after = await openai.chat.completions.create({ model: "gpt-4o", messages: say("Say hello") });
    expect(after.choices[0].finish_reason).toBe("stop");
  });

  test("a request is aborted before its reply", async () => {
    compareOnly("none", "nothing arrives");
    const controller = new AbortController();
    const pending = openai.chat.completions.create(
      { model: "gpt-4o", messages: say("Say hello") },
      { signal: controller.signal, headers: { "x-simulate": "latency=20s" } },
    );
    setTimeout(() => controller.abort(), 50);
    await expect(pending).rejects.toThrow(/aborted/i);
  });
});

describe("legacy completions", () => {
  const request = { model: "gpt-3.5-turbo-instruct", prompt: "Count to 4.", max_tokens: 50 };

  test("whole", async () => {
    const reply = await openai.completions.create(request);
    expect(reply.object).toBe("text_completion");
    expect(reply.choices[0].text).toContain("1, 2, 3, 4");
  });

  test("streamed", async () => {
    const chunks = await collect(await openai.completions.create({ ...request, stream: true }));
    expect(chunks.map((c) => c.choices[0].text).join("")).toContain("1, 2, 3, 4");
  });

  test("streamed with usage", async () => {
    const options = { stream: true as const, stream_options: { include_usage: true } };
    const chunks = await collect(await openai.completions.create({ ...request, ...options }));
    expect(chunks.at(-1).choices).toHaveLength(0);
    expect(chunks.at(-1).usage.total_tokens).toBeGreaterThan(0);
  });
});
