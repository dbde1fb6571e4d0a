// The Messages API of `@anthropic-ai/sdk` over a Claude model: nothing is translated, nothing may differ.
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { collect, rejection } from "../support/client";
import {
  CLAUDE,
  PIXEL,
  anthropic,
  direct,
  messageAnswer,
  messagesTools,
  runTools,
  through,
  user,
} from "../support/dialects";

const image = { type: "image", source: { type: "base64", media_type: "image/png", data: PIXEL } };
const full = (body: object): any => ({ model: CLAUDE, max_tokens: 2048, ...body });

const requests: [string, any][] = [
  ["text", { messages: [user("Count to 12.")] }],
  ["characters", { messages: [user('Return the string Grüße 世界 🌍 "q" \\ x')] }],
  [
    "system and blocks",
    { system: [{ type: "text", text: "Be brief." }], messages: [user([{ type: "text", text: "Hm?" }])] },
  ],
  ["a stop sequence", { messages: [user("Count to 9.")], stop_sequences: ["4"] }],
  ["a limit", { messages: [user("Count to 9.")], max_tokens: 2 }],
  ["parallel tools", { messages: [user("Call get_weather and get_time")], tools: messagesTools("get_weather", "get_time") }],
  [
    "one tool",
    {
      messages: [user("Call get_weather and get_time")],
      tools: messagesTools("get_weather", "get_time"),
      tool_choice: { type: "any", disable_parallel_tool_use: true },
    },
  ],
  ["a picture", { messages: [user([image, { type: "text", text: "What is it?" }])] }],
  ["thinking", { messages: [user("Count to 3.")], thinking: { type: "enabled", budget_tokens: 1024 } }],
];

describe.each(requests)("%s", (_, body) => {
  test("whole", async () => {
    const got = await through.anthropic.messages.create(full(body));
    expect(got).toEqual(await direct.anthropic.messages.create(full(body)));
    expect(got._request_id).toBeTruthy();
  });

  test("streamed", async () => {
    const events = async (client: Anthropic) =>
      collect((await client.messages.create({ ...full(body), stream: true })) as any);
    const got: any[] = await events(through.anthropic);
    expect(got).toEqual(await events(direct.anthropic));
    expect([got[0].type, got.at(-1).type]).toEqual(["message_start", "message_stop"]);
  });

  test("with the SDK's stream helper", async () => {
    const stream = through.anthropic.messages.stream(full(body));
    let text = "";
    stream.on("text", (delta) => (text += delta));
    const final = await stream.finalMessage();
    const own = await direct.anthropic.messages.create(full(body));
    expect(text).toBe(messageAnswer(own).text);
    // The ids of calls follow from the request, which says `stream` here.
    const bare = (message: any) => message.content.map((block: any) => ({ ...block, id: undefined }));
    expect(bare(final)).toEqual(bare(own));
    expect([final.stop_reason, final.usage.output_tokens]).toEqual([own.stop_reason, own.usage.output_tokens]);
  });

  test("count_tokens", async () => {
    const known = ["messages", "system", "tools", "tool_choice", "thinking"];
    const asked: any = { model: CLAUDE, ...Object.fromEntries(Object.entries(body).filter(([key]) => known.includes(key))) };
    const got = await through.anthropic.messages.countTokens(asked);
    expect(got.input_tokens).toBeGreaterThan(0);
    expect(got).toEqual(await direct.anthropic.messages.countTokens(asked));
  });
});

describe.each([false, true])("the tool loop (stream: %s)", (stream) => {
  test.each([["with threads", {}], ["without threads", { thread: false }]])("%s", async (_, more) => {
    await runTools(through.anthropic, CLAUDE, { stream, ...more });
  });
});

test("thinking in a tool loop, from a stream", async () => {
  const request = full({ tools: messagesTools("get_weather"), thinking: { type: "enabled", budget_tokens: 1024 } });
  const turns: any[] = [user("Call get_weather for Oslo")];
  const { content } = await through.anthropic.messages.stream({ ...request, messages: turns }).finalMessage();
  expect(content.map((block) => block.type)).toEqual(["thinking", "tool_use"]);
  const result = { type: "tool_result", tool_use_id: (content[1] as any).id, content: "21 degrees" };
  turns.push({ role: "assistant", content }, user([result]));
  const second = messageAnswer(await through.anthropic.messages.create({ ...request, messages: turns }));
  expect(second.text).toBe("The tool answered: 21 degrees");
  expect(second.reasoning).toContain("The tool has answered");
});

test("structured output with parse and with stream", async () => {
  const Report = z.object({ word: z.string(), count: z.number() });
  const request = full({ messages: [user("Solve it")], output_config: { format: zodOutputFormat(Report) } });
  const expected = { word: "example word", count: 1.5 };
  expect((await through.anthropic.messages.parse(request)).parsed_output).toEqual(expected);
  expect((await through.anthropic.messages.stream(request).finalMessage() as any).parsed_output).toEqual(expected);
});

test("betas reach the provider, also unknown ones", async () => {
  const request = full({ messages: [user("Count to 3.")] });
  const beta = through.anthropic.beta.messages;
  const unknown: any = await beta.create({ ...request, betas: ["made-up-2099-01-01"] });
  expect(messageAnswer(unknown).text).toBe("1, 2, 3");
  // A field that the provider takes with its beta only.
  const edits = { ...request, context_management: { edits: [] as any[] } };
  const known: any = await beta.create({ ...edits, betas: ["made-up-2099-01-01", "context-management-2025-06-27"] });
  expect(messageAnswer(known).text).toBe("1, 2, 3");
  const error = await rejection(through.anthropic.messages.create(edits));
  expect(error).toBeInstanceOf(Anthropic.BadRequestError);
  expect(error.message).toContain("context_management");
});

describe.each([false, true])("refusals (stream: %s)", (stream) => {
  test.each([
    ["400", Anthropic.BadRequestError],
    ["401", Anthropic.AuthenticationError],
    ["403", Anthropic.PermissionDeniedError],
    ["404", Anthropic.NotFoundError],
    ["429", Anthropic.RateLimitError],
    ["500", Anthropic.InternalServerError],
    ["529", Anthropic.InternalServerError],
  ])("the provider's %s", async (simulate, kind) => {
    const request = full({ messages: [user("Say hello")], stream });
    const refused = (client: Anthropic): Promise<any> =>
      rejection(client.messages.create(request, { headers: { "x-simulate": simulate } }));
    const [got, own] = [await refused(through.anthropic), await refused(direct.anthropic)];
    expect(got).toBeInstanceOf(kind);
    expect(got.constructor).toBe(own.constructor);
    expect([got.status, got.type, got.error.error]).toEqual([own.status, own.type, own.error.error]);
    expect(got.requestID).toBeTruthy();
    expect(got.requestID).toBe(got.error.request_id);
  });
});

test("an error inside a stream", async () => {
  const request = { ...full({ messages: [user("Count to 9.")] }), stream: true };
  const stream: any = await through.anthropic.messages.create(request, { headers: { "x-simulate": "error=7" } });
  let text = "";
  const error = await rejection(
    (async () => {
      for await (const event of stream) text += event.delta?.text ?? "";
    })(),
  );
  expect(error).toBeInstanceOf(Anthropic.APIError);
  expect(error.type).toBe("overloaded_error");
  expect(text).not.toBe("");
  expect("1, 2, 3, 4, 5, 6, 7, 8, 9".startsWith(text)).toBe(true);
});

// As a bearer today, in `x-api-key` before 1.0 of the SDK.
test.each([
  ["apiKey", (token: string) => ({ apiKey: token })],
  ["authToken", (token: string) => ({ authToken: token })],
  ["x-api-key", (token: string) => ({ defaultHeaders: { "x-api-key": token, authorization: null as any } })],
])("a token of the gateway in %s", async (_, credential) => {
  const request = full({ messages: [user("Count to 3.")] });
  const known = await anthropic(credential(process.env.SDK_TEAM_TOKEN)).messages.create(request);
  expect(messageAnswer(known).text).toBe("1, 2, 3");
  const error = await rejection(anthropic(credential("chitty_nobody")).messages.create(request));
  expect(error).toBeInstanceOf(Anthropic.AuthenticationError);
  expect(error.type).toBe("authentication_error");
});
