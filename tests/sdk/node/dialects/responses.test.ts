// The Responses API of the `openai` package, over a Claude model and over a provider that has only Chat Completions.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { collect, rejection } from "../support/client";
import {
  Answer,
  CHAT_ONLY,
  CHAT_ONLY_DIRECT,
  CLAUDE,
  PIXEL,
  argumentsOf,
  claudeSays,
  direct,
  drained,
  messagesTools,
  named,
  responsesTools,
  through,
  user,
} from "../support/dialects";

const responses = through.openai.responses;

function answer(response: any, body: any): Answer {
  const store = body.store !== false;
  expect(response).toMatchObject({ object: "response", status: "completed", error: null, store });
  expect(new Set(response.output.map((item: any) => item.id)).size).toBe(response.output.length);
  return {
    text: response.output_text,
    finish: response.status,
    calls: response.output
      .filter((item: any) => item.type === "function_call")
      .map((item: any) => ({ id: item.call_id, name: item.name, input: argumentsOf(item.arguments) })),
    usage: response.usage,
    reasoning: response.output
      .filter((item: any) => item.type === "reasoning")
      .flatMap((item: any) => item.summary.map((part: any) => part.text))
      .join(""),
    reply: response.output,
  };
}

const whole = async (body: any) => answer(await responses.create(body), body);

/** The response of the last event, after checking that the events before it tell the same. */
async function streamed(body: any): Promise<Answer> {
  const events: any[] = await collect((await responses.create({ ...body, stream: true })) as any);
  expect(events.map((e) => e.sequence_number)).toEqual(events.map((_, n) => n));
  expect(events.slice(0, 2).map((e) => e.type)).toEqual(["response.created", "response.in_progress"]);
  const last = events.at(-1);
  expect(last.type).toBe("response.completed");
  const of = (type: string, index: number) => events.filter((e) => e.type === type && e.output_index === index);
  last.response.output.forEach((item: any, index: number) => {
    expect(of("response.output_item.added", index)).toHaveLength(1);
    expect(of("response.output_item.done", index).map((e) => e.item)).toEqual([item]);
    const joined = (type: string) => of(type, index).map((e) => e.delta).join("");
    if (item.type === "message") {
      expect(joined("response.output_text.delta")).toBe(item.content[0].text);
      expect(of("response.output_text.done", index)[0]).toMatchObject({ text: item.content[0].text, item_id: item.id });
    } else if (item.type === "function_call") {
      expect(joined("response.function_call_arguments.delta")).toBe(item.arguments);
      expect(of("response.function_call_arguments.done", index)[0]).toMatchObject({ arguments: item.arguments });
    }
  });
  const text = events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
  return answer({ ...last.response, output_text: text }, body);
}

/** The SDK's own accumulator. */
async function helper(body: any): Promise<Answer> {
  const stream = responses.stream(body);
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const final = answer(await stream.finalResponse(), body);
  expect(text).toBe(final.text);
  return final;
}

/** What the model says in its own dialect: its text, and the tokens in and out. */
async function own(model: string, messages: any[]) {
  if (model === CLAUDE) {
    const { text, usage } = await claudeSays({ messages });
    return [text, usage.input_tokens, usage.output_tokens];
  }
  const { choices, usage } = await direct.openai.chat.completions.create({ model: CHAT_ONLY_DIRECT, messages });
  return [choices[0].message.content, usage.prompt_tokens, usage.completion_tokens];
}

describe.each([CLAUDE, CHAT_ONLY])("%s", (model) => {
  describe.each([["whole", whole], ["streamed", streamed], ["with the SDK's stream helper", helper]])("%s", (_, way) => {
    const ask = (body: object) => way({ model, ...body });

    test.each(["Count to 12.", "What is the capital of Norway?", 'Return the string Grüße 世界 🌍 "q" \\ x'])(
      "text: %s",
      async (prompt) => {
        const asked = await ask({ input: prompt });
        const expected = await own(model, [user(prompt)]);
        expect([asked.text, asked.usage.input_tokens, asked.usage.output_tokens]).toEqual(expected);
        expect(asked.text).not.toBe("");
        expect(asked.usage.total_tokens).toBe(asked.usage.input_tokens + asked.usage.output_tokens);
      },
    );

    test("a tool call, its result and the answer", async () => {
      const tools = responsesTools("get_weather");
      const said = [user("Call get_weather for Oslo")];
      const first = await ask({ input: said, tools });
      expect(named(first)).toEqual([["get_weather", { city: "example city" }]]);
      expect(first.text).toBe("");
      const result = { type: "function_call_output", call_id: first.calls[0].id, output: "21 degrees" };
      const second = await ask({ input: [...said, ...first.reply, result], tools });
      expect([second.text, second.calls]).toEqual(["The tool answered: 21 degrees", []]);
    });

    test("parallel tool calls", async () => {
      const tools = responsesTools("get_weather", "get_time");
      const said = [user("Call get_weather and get_time")];
      const first = await ask({ input: said, tools });
      expect(named(first)).toEqual([["get_weather", { city: "example city" }], ["get_time", { zone: "example zone" }]]);
      const outputs = ["21 degrees", "noon"].map((output, n) => ({
        type: "function_call_output",
        call_id: first.calls[n].id,
        output,
      }));
      const second = await ask({ input: [...said, ...first.reply, ...outputs], tools });
      expect(second.text).toMatch(/^The tool answered: /);
      expect(second.calls).toEqual([]);
    });

    test("a picture by data URL", async () => {
      const text = { type: "input_text", text: "What is in the picture?" };
      const image = { type: "input_image", image_url: `data:image/png;base64,${PIXEL}`, detail: "auto" };
      const seen = await ask({ input: [user([text, image])] });
      const unseen = await ask({ input: [user([text])] });
      expect(seen.text).toBe(unseen.text);
      expect(seen.usage.input_tokens).toBe(unseen.usage.input_tokens + 85);
    });
  });

  const Solution = z.object({ word: z.string(), list: z.array(z.number()), final: z.enum(["yes", "no"]) });
  const solution = { word: "example word", list: [1.5], final: "yes" };
  const request = { model, input: "Solve it", text: { format: zodTextFormat(Solution, "solution") } };

  test("structured output with parse", async () => {
    expect((await responses.parse(request)).output_parsed).toEqual(solution);
  });

  test("structured output with stream", async () => {
    const stream = responses.stream(request);
    let deltas = 0;
    stream.on("response.output_text.delta", () => (deltas += 1));
    expect((await stream.finalResponse()).output_parsed).toEqual(solution);
    expect(deltas).toBeGreaterThan(1);
  });

  describe.each([false, true])("refusals (stream: %s)", (stream) => {
    async function refused(body: object, simulate?: string): Promise<any> {
      const headers = simulate ? { "x-simulate": simulate } : {};
      const request: any = { model, input: "Say hello", stream, ...body };
      const error = await rejection(drained(responses.create(request, { headers })));
      expect(error.requestID).toBeTruthy();
      return error;
    }

    test("an earlier response that is not kept", async () => {
      const error = await refused({ previous_response_id: "resp_1" });
      expect(error).toBeInstanceOf(OpenAI.BadRequestError);
      expect(error).toMatchObject({ param: "previous_response_id", code: "previous_response_not_found" });
    });

    test.each([["conversation", "conv_1"], ["background", true]])(
      "what needs a memory: %s",
      async (param, value) => {
        const error = await refused({ [param]: value });
        expect(error).toBeInstanceOf(OpenAI.BadRequestError);
        expect(error).toMatchObject({ status: 400, param, code: "unsupported_parameter" });
      },
    );

    test.each([
      ["400", OpenAI.BadRequestError, 400],
      ["429", OpenAI.RateLimitError, 429],
      ["529", OpenAI.InternalServerError, 503],
    ])("the provider's %s", async (simulate, kind, status) => {
      const error = await refused({}, simulate);
      expect(error).toBeInstanceOf(kind);
      expect(error.status).toBe(status);
    });
  });
});

test.each([["with its reasoning", true], ["without", false]])("Claude reasons in a tool loop: %s", async (_, echo) => {
  const said = [user("Call get_weather for Oslo")];
  const more = {
    model: CLAUDE,
    tools: responsesTools("get_weather"),
    reasoning: { effort: "medium", summary: "auto" },
    include: ["reasoning.encrypted_content"],
    store: false,
  };
  for (const way of [whole, streamed, helper]) {
    const first = await way({ ...more, input: said });
    const thinking = { type: "enabled", budget_tokens: 2048 };
    const own = await claudeSays({ messages: said, tools: messagesTools("get_weather"), thinking });
    expect(first.reply.map((item: any) => item.type)).toEqual(["reasoning", "function_call"]);
    expect(first.reasoning).toBe(own.reasoning);
    expect(first.reasoning).not.toBe("");
    const kept = first.reply.filter((item: any) => echo || item.type !== "reasoning");
    const result = { type: "function_call_output", call_id: first.calls[0].id, output: "21 degrees" };
    const second = await way({ ...more, input: [...said, ...kept, result] });
    expect(second.text).toBe("The tool answered: 21 degrees");
    expect(second.reply.map((item: any) => item.type)).toEqual(echo ? ["reasoning", "message"] : ["message"]);
  }
});
