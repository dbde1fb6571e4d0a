import OpenAI from "openai";

/** The client of the playbook, without the SDK's own retries: a test sees every reply itself. */
export function client(more: ConstructorParameters<typeof OpenAI>[0] = {}): OpenAI {
  return new OpenAI({ apiKey: process.env.OPENAI_API_KEY, baseURL: process.env.OPENAI_BASE, maxRetries: 0, ...more });
}

/** Waits for a rejection and returns it; a success is the failure. */
export async function rejection(promise: PromiseLike<unknown>): Promise<any> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`expected a rejection, got ${JSON.stringify(value)}`);
}

/** All items of a stream. */
export async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}
