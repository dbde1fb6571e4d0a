// Every refusal arrives as the class that code written against OpenAI catches, with the same fields.
import OpenAI from "openai";
import { client, collect, rejection } from "../support/client";
import { compareOnly, fault, note } from "../support/record";

const openai = client();
const messages = [{ role: "user" as const, content: "Say hello" }];

/** Runs a chat request that must fail, notes the error and returns it. */
async function refused(body: object, headers: Record<string, string> = {}, by: OpenAI = openai): Promise<any> {
  const error = await rejection(by.chat.completions.create({ model: "gpt-4o", messages, ...body } as any, { headers }));
  note("error", fault(error));
  expect(error).toBeInstanceOf(OpenAI.APIError);
  return error;
}

describe("error classes", () => {
  test("unknown model: NotFoundError", async () => {
    compareOnly("notes", "a gateway without a route for the model answers itself");
    const error = await refused({ model: "invalid-model-name" });
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error).toMatchObject({ status: 404, code: "model_not_found", type: "invalid_request_error" });
    expect(error.message).toContain("invalid-model-name");
    note("error", { ...fault(error), message: "its wording is free" });
  });

  test("unknown model in GET /models/{id}: NotFoundError", async () => {
    compareOnly("notes", "a gateway answers from its own routes");
    const error = await rejection(openai.models.retrieve("invalid-model-name"));
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    note("error", { ...fault(error), message: "its wording is free" });
  });

  test("a parameter out of range: BadRequestError", async () => {
    const error = await refused({ temperature: 3 });
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, type: "invalid_request_error", param: "temperature" });
  });

  test("messages missing, empty and of a wrong type: BadRequestError", async () => {
    for (const wrong of [undefined, [], "hello", [{ content: "no role" }], [{ role: "nobody", content: "x" }]]) {
      const error = await refused({ messages: wrong });
      expect(error).toBeInstanceOf(OpenAI.BadRequestError);
      note(`messages ${JSON.stringify(wrong)}`, fault(error));
    }
  });

  test("a parameter that the model refuses: BadRequestError", async () => {
    const error = await refused({ model: "o3-mini", max_tokens: 5 });
    expect(error).toMatchObject({ status: 400, code: "unsupported_parameter", param: "max_tokens" });
  });

  test("the error of a request that asked for a stream is an ordinary one", async () => {
    const error = await refused({ temperature: 3, stream: true });
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
  });

  test("a wrong key: AuthenticationError", async () => {
    const error = await refused({}, {}, client({ apiKey: "sk-invalid" }));
    expect(error).toBeInstanceOf(OpenAI.AuthenticationError);
    expect(error).toMatchObject({ status: 401, code: "invalid_api_key" });
  });

  test("a rate limit: RateLimitError with the provider's retry-after", async () => {
    const error = await refused({}, { "x-simulate": "429,retry-after=7" });
    expect(error).toBeInstanceOf(OpenAI.RateLimitError);
    expect(error.headers.get("retry-after")).toBe("7");
    expect(error.headers.get("x-ratelimit-remaining-requests")).toBe("0");
  });

  test("no quota left: RateLimitError insufficient_quota", async () => {
    const error = await refused({}, { "x-simulate": "quota" });
    expect(error).toMatchObject({ status: 429, code: "insufficient_quota" });
  });

  test("the provider's own failure: InternalServerError", async () => {
    const error = await refused({}, { "x-simulate": "500" });
    expect(error).toBeInstanceOf(OpenAI.InternalServerError);
    expect(error.status).toBe(500);
  });

  test("an unknown path: NotFoundError", async () => {
    const error = await rejection(openai.get("/no/such/path"));
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    note("error", fault(error));
  });

  test("an error inside a stream: APIError after the chunks before it", async () => {
    const stream = await openai.chat.completions.create(
      { model: "gpt-4o", messages: [{ role: "user", content: "Count to 9." }], stream: true },
      { headers: { "x-simulate": "error=4" } },
    );
    const seen: unknown[] = [];
    const error = await rejection(
      (async () => {
        for await (const chunk of stream) seen.push(chunk.choices[0].delta);
      })(),
    );
    expect(error).toBeInstanceOf(OpenAI.APIError);
    expect(seen).toHaveLength(4);
    note("seen", seen);
    note("error", fault(error));
  });

  test("a slow reply: APIConnectionError", async () => {
    compareOnly("none", "nothing arrives");
    const error = await rejection(
      openai.chat.completions.create(
        { model: "gpt-4o", messages },
        { timeout: 200, headers: { "x-simulate": "latency=20s" } },
      ),
    );
    // Outside Jest it is the subclass APIConnectionTimeoutError; the realm of a Jest test hides the AbortError in it.
    expect(error).toBeInstanceOf(OpenAI.APIConnectionError);
  });

  test("the SDK's own retry succeeds after a 503", async () => {
    compareOnly("none", "who retries, the SDK or the gateway, is free");
    const key = `node-${process.pid}-${Date.now()}`;
    const reply = await client({ maxRetries: 2 }).chat.completions.create(
      { model: "gpt-4o", messages },
      { headers: { "x-simulate": `fail-first=1,key=${key}` } },
    );
    expect(reply.choices[0].finish_reason).toBe("stop");
  });
});

describe("headers", () => {
  test("withResponse shows the provider's headers and a request id", async () => {
    const { data, response, request_id } = await openai.chat.completions
      .create({ model: "gpt-4o", messages })
      .withResponse();
    expect(data.choices).toHaveLength(1);
    expect(request_id).toBeTruthy();
    expect(response.headers.get("x-request-id")).toBe(request_id);
    expect(response.headers.get("content-type")).toMatch(/^application\/json/);
    expect(response.headers.get("x-ratelimit-limit-requests")).toBeTruthy();
    expect(response.headers.get("openai-version")).toBe("2020-10-01");
  });

  test("of a stream", async () => {
    const { data, response } = await openai.chat.completions
      .create({ model: "gpt-4o", messages, stream: true })
      .withResponse();
    expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
    expect((await collect(data)).length).toBeGreaterThan(2);
  });
});
