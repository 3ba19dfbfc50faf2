/** A vLLM at a Unix socket, real or simulated, as a test speaks to it. */
import { Agent, type Dispatcher, request } from 'undici';

const deadline = (msMax: number | undefined) =>
  msMax === undefined ? {} : { signal: AbortSignal.timeout(msMax) };

export class EngineClient {
  readonly socket: string;
  readonly #agent: Agent;

  constructor(socket: string) {
    this.socket = socket;
    this.#agent = new Agent({ connect: { socketPath: socket }, headersTimeout: 0, bodyTimeout: 0 });
  }

  async send(
    path: string,
    options: Partial<Dispatcher.RequestOptions> = {},
  ): Promise<Dispatcher.ResponseData> {
    return request(`http://engine${path}`, { dispatcher: this.#agent, method: 'POST', ...options } as never);
  }

  async get(path: string, msMax?: number): Promise<{ status: number; text: string }> {
    const response = await this.send(path, { method: 'GET', ...deadline(msMax) });
    return { status: response.statusCode, text: await response.body.text() };
  }

  /** A POST with a JSON body, and its JSON answer. */
  // biome-ignore lint/suspicious/noExplicitAny: bodies of many shapes, read by tests
  async post(path: string, body?: unknown, msMax?: number): Promise<{ status: number; json: any }> {
    const json =
      body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
    const response = await this.send(path, { ...json, ...deadline(msMax) });
    const text = await response.body.text();
    return { status: response.statusCode, json: text === '' ? null : JSON.parse(text) };
  }

  /** A chat stream: its tokens as they come. */
  async stream(content: string, more: Record<string, unknown> = {}): Promise<ChatStream> {
    const body = JSON.stringify({
      model: 'org/model',
      stream: true,
      messages: [{ role: 'user', content }],
      ...more,
    });
    const response = await this.send('/v1/chat/completions', {
      body,
      headers: { 'content-type': 'application/json' },
    });
    return new ChatStream(response);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }
}

/** Reads a server-sent stream in the background. */
export class ChatStream {
  /** Every event but the last, as it came. */
  // biome-ignore lint/suspicious/noExplicitAny: read by tests
  readonly chunks: any[] = [];
  /** Texts of the tokens; those without one are not in it. */
  readonly tokens: string[] = [];
  /** With `return_token_ids`: all tokens. */
  readonly ids: number[] = [];
  finishReason: string | null = null;
  readonly done: Promise<void>;
  readonly #body: Dispatcher.ResponseData['body'];

  constructor(response: Dispatcher.ResponseData) {
    this.#body = response.body;
    this.done = this.#read();
    this.done.catch(() => {}); // told to whoever awaits it
  }

  async #read(): Promise<void> {
    let rest = '';
    let ended = false;
    for await (const chunk of this.#body.setEncoding('utf8')) {
      const events = (rest + chunk).split('\n\n');
      rest = events.pop()!;
      for (const event of events) ended = this.#take(event.replace(/^data: /, '')) || ended;
    }
    if (!ended) throw new Error('the stream ended without [DONE]');
  }

  #take(data: string): boolean {
    if (data === '[DONE]') return true;
    const chunk = JSON.parse(data);
    this.chunks.push(chunk);
    const [choice] = chunk.choices;
    this.ids.push(...(choice?.token_ids ?? []));
    if (choice?.delta?.content) this.tokens.push(choice.delta.content);
    this.finishReason = choice?.finish_reason ?? this.finishReason;
    return false;
  }

  leave(): void {
    this.#body.destroy();
  }
}
