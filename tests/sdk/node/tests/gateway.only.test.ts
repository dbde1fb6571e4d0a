// What only the gateway adds. run.py leaves this file out of the run against the provider itself.
import { client, collect, rejection } from "../support/client";
import { compareOnly } from "../support/record";

const openai = client();
const messages = [{ role: "user" as const, content: "Return the string OK." }];

beforeEach(() => compareOnly("none", "there is nothing to compare it with"));

/** Micro-dollars per token of gpt-4o, input and output, as in conf/prices.yaml: $2.50 and $10 per million. */
const PRICE = { input: 2.5e-6, output: 10e-6 };

describe("X-ChittyCan headers", () => {
  test("a JSON reply names model, provider, cache and its true cost", async () => {
    const { data, response } = await openai.chat.completions.create({ model: "gpt-4o", messages }).withResponse();
    expect(response.headers.get("x-chittycan-model")).toBe("gpt-4o");
    expect(response.headers.get("x-chittycan-provider")).toBe("openai");
    expect(response.headers.get("x-chittycan-cache")).toMatch(/^(HIT|MISS|BYPASS)$/);
    const cost = response.headers.get("x-chittycan-cost");
    expect(cost).toMatch(/^\d+(\.\d+)?$/);
    const { prompt_tokens, completion_tokens } = data.usage;
    expect(Number(cost)).toBeCloseTo(prompt_tokens * PRICE.input + completion_tokens * PRICE.output, 9);
  });

  test("a stream names model and provider before its first event", async () => {
    const { data, response } = await openai.chat.completions
      .create({ model: "gpt-4o", messages, stream: true })
      .withResponse();
    expect(response.headers.get("x-chittycan-model")).toBe("gpt-4o");
    expect(response.headers.get("x-chittycan-provider")).toBe("openai");
    expect((await collect(data)).length).toBeGreaterThan(2);
  });

  test("embeddings have a cost", async () => {
    const { response } = await openai.embeddings
      .create({ model: "text-embedding-3-small", input: "hello world ".repeat(100) })
      .withResponse();
    expect(Number(response.headers.get("x-chittycan-cost"))).toBeGreaterThan(0);
  });

  test("a model of another provider is served by that provider", async () => {
    for (const [model, provider] of [["claude-sonnet-4", "anthropic"], ["llama-3-70b", "groq"]]) {
      const { response } = await openai.chat.completions.create({ model, messages }).withResponse();
      expect(response.headers.get("x-chittycan-provider")).toBe(provider);
    }
  });
});

describe("tokens and budgets", () => {
  test("a token works like a key", async () => {
    const reply = await client({ apiKey: process.env.SDK_TEAM_TOKEN }).chat.completions.create({ model: "gpt-4o", messages });
    expect(reply.usage.total_tokens).toBeGreaterThan(0);
  });

  test.each([false, true])("over budget is a 402 that the SDK does not retry (stream: %s)", async (stream) => {
    let sent = 0;
    const counting: typeof fetch = (input, init) => {
      sent += 1;
      return fetch(input, init);
    };
    const broke = client({ apiKey: process.env.SDK_BROKE_TOKEN, maxRetries: 3, fetch: counting });
    const error = await rejection(broke.chat.completions.create({ model: "gpt-4o", messages, stream }));
    expect([error.status, error.type, error.code]).toEqual([402, "insufficient_quota", "budget_exceeded"]);
    expect(error.error.budget.tenant).toBe("broke");
    expect(error.headers.get("x-should-retry")).toBe("false");
    expect(sent).toBe(1);
  });

  test("an unknown token is an authentication error", async () => {
    const error = await rejection(client({ apiKey: "chitty_nobody", maxRetries: 3 }).models.list());
    expect(error.status).toBe(401);
  });
});
