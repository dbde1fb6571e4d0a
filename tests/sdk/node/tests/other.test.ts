// The endpoints beside chat: models, embeddings, moderations, responses, files and audio.
import { toFile } from "openai";
import { client, collect } from "../support/client";
import { compareOnly, note } from "../support/record";

const openai = client();

describe("models", () => {
  test("the list has the playbook's models", async () => {
    compareOnly("notes", "a gateway lists its own routes");
    const models = await collect(openai.models.list());
    const ids = models.map((m) => m.id);
    const playbook = ["gpt-4o", "gpt-4o-mini", "o3-mini", "text-embedding-3-small", "claude-sonnet-4", "llama-3-70b"];
    expect(ids).toEqual(expect.arrayContaining(playbook));
    for (const model of models) expect(typeof model.created).toBe("number");
    note("objects", [...new Set(models.map((m) => m.object))]);
    note("keys", [...new Set(models.flatMap((m) => Object.keys(m)))].sort());
  });

  test("one model", async () => {
    compareOnly("notes", "a gateway answers from its own routes");
    const model = await openai.models.retrieve("gpt-4o");
    note("model", model);
    expect(model).toMatchObject({ id: "gpt-4o", object: "model", owned_by: "openai" });
  });
});

describe("embeddings", () => {
  test("as the SDK asks for them (base64) and as floats: the same vector", async () => {
    const request = { model: "text-embedding-3-small", input: "hello world" };
    const packed = (await openai.embeddings.create(request)).data[0].embedding;
    const floats = (await openai.embeddings.create({ ...request, encoding_format: "float" })).data[0].embedding;
    expect(packed).toHaveLength(1536);
    expect(floats).toHaveLength(1536);
    packed.forEach((value, i) => expect(value).toBeCloseTo(floats[i], 5));
  });

  test("several inputs, fewer dimensions", async () => {
    const reply = await openai.embeddings.create({
      model: "text-embedding-3-small",
      input: ["one", "two", "three"],
      dimensions: 256,
    });
    expect(reply.data.map((d) => d.index)).toEqual([0, 1, 2]);
    expect(reply.data[0].embedding).toHaveLength(256);
    expect(reply.usage.prompt_tokens).toBeGreaterThan(0);
  });
});

describe("moderations", () => {
  test("one harmless and one violent input", async () => {
    const reply = await openai.moderations.create({
      model: "omni-moderation-latest",
      input: ["I love you", "I will attack you"],
    });
    expect(reply.results.map((r) => r.flagged)).toEqual([false, true]);
    expect(reply.results[1].categories.violence).toBe(true);
  });
});

describe("responses", () => {
  const tools = [
    {
      type: "function" as const,
      name: "get_time",
      strict: false,
      parameters: { type: "object", properties: { zone: { type: "string" } }, required: ["zone"] },
    },
  ];

  test("whole", async () => {
    const reply = await openai.responses.create({ model: "gpt-4o", instructions: "Be brief", input: "Count to 3." });
    expect(reply.output_text).toBe("1, 2, 3");
    expect(reply.status).toBe("completed");
    expect(reply.usage.total_tokens).toBe(reply.usage.input_tokens + reply.usage.output_tokens);
  });

  test("streamed", async () => {
    const events = await collect(
      await openai.responses.create({ model: "gpt-4o", input: "Count to 3.", stream: true }),
    );
    expect(events[0].type).toBe("response.created");
    expect(events.map((e) => e.sequence_number)).toEqual(events.map((_, i) => i));
    const text = events.map((e) => (e.type === "response.output_text.delta" ? e.delta : "")).join("");
    expect(text).toBe("1, 2, 3");
    const last = events.at(-1);
    expect(last.type === "response.completed" && last.response.usage.output_tokens).toBe(3);
  });

  test("cut by max_output_tokens", async () => {
    const reply = await openai.responses.create({ model: "gpt-4o", input: "Count to 9.", max_output_tokens: 2 });
    expect(reply.status).toBe("incomplete");
    expect(reply.incomplete_details.reason).toBe("max_output_tokens");
  });

  test("a function call and its output", async () => {
    const first = await openai.responses.create({ model: "gpt-4o", input: "Call get_time", tools });
    const [call] = first.output;
    expect(call.type).toBe("function_call");
    if (call.type !== "function_call") return;
    const second = await openai.responses.create({
      model: "gpt-4o",
      tools,
      input: [
        { role: "user", content: "Call get_time" },
        call,
        { type: "function_call_output", call_id: call.call_id, output: "noon" },
      ],
    });
    expect(second.output_text).toContain("noon");
  });
});

describe("forwarded without being understood", () => {
  test("a file is uploaded, read and deleted", async () => {
    const content = "line\n".repeat(50_000);
    const uploaded = await openai.files.create({ file: await toFile(Buffer.from(content), "a.jsonl"), purpose: "batch" });
    expect(uploaded.filename).toBe("a.jsonl");
    expect(uploaded.bytes).toBeGreaterThan(content.length);
    expect((await openai.files.retrieve(uploaded.id)).id).toBe(uploaded.id);
    expect(await collect(openai.files.list())).toEqual([]);
    expect((await openai.files.delete(uploaded.id)).deleted).toBe(true);
  });

  test("binary content comes back byte for byte", async () => {
    const bytes = Buffer.from(await (await openai.files.content("file-100000-0123456789ab")).arrayBuffer());
    expect(bytes).toHaveLength(100_000);
    for (let i = 0; i < bytes.length; i++) if (bytes[i] !== i % 251) throw new Error(`byte ${i} is ${bytes[i]}`);
  });

  test("audio is transcribed", async () => {
    const file = await toFile(Buffer.alloc(100_000, 1), "speech.wav");
    const reply = await openai.audio.transcriptions.create({ model: "whisper-1", file });
    expect(reply.text).toContain("bytes");
  });
});
