/**
 * A client that knows what its stream must say: the prompt is a row of numbered nonces, which the simulated engine says again
 * word by word, so that a lost, doubled or misplaced token shows.
 */
import { randomBytes } from 'node:crypto';
import { Agent, request } from 'undici';

/** Longest wait for headers or for the next piece unless told otherwise, ms. */
const silenceMsMax = 120_000;
/** What of an answer that is no stream is kept, characters. */
const excerptCharactersMax = 300;

export interface Question {
  /** Of the front door, without the route. */
  url: string;
  /** As the body names it. */
  model: string;
  /** Length of the answer, tokens. */
  tokens: number;
  /** Longest silence that is waited for, ms. */
  silenceMs?: number;
}

export interface Streamed {
  /** 0: no HTTP answer. */
  status: number;
  /** performance.now() when it was sent. */
  askedAtMs: number;
  /** From asking to the first token; null: there was none. */
  firstMs: number | null;
  /** From asking to the end of the answer. */
  endMs: number;
  /** Tokens that came. */
  pieces: number;
  /** Longest time between two of them, ms. */
  silenceMs: number;
  /** Every token came, once and in order, and the end was said. */
  whole: boolean;
  /** What went wrong; empty when whole. */
  fault: string;
}

export interface Asked {
  answer: Promise<Streamed>;
  /** Settles with the first token, or with the end when there is none. */
  first: Promise<void>;
}

/** As many words as the answer has tokens, each of them the only one. */
function words(tokens: number): string[] {
  const id = randomBytes(4).toString('hex');
  return Array.from({ length: tokens }, (_, at) => `nonce-${id}${at.toString(16).padStart(4, '0')}`);
}

interface Chunk {
  choices?: { delta?: { content?: string }; finish_reason?: string | null }[];
}

/** Takes a stream apart; `onPiece` hears of each token. */
class Reader {
  readonly pieces: string[] = [];
  finished = false;
  done = false;
  #rest = '';
  readonly #onPiece: () => void;

  constructor(onPiece: () => void) {
    this.#onPiece = onPiece;
  }

  take(chunk: string): void {
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) this.#line(line);
  }

  #line(line: string): void {
    if (!line.startsWith('data: ')) return;
    const data = line.slice('data: '.length);
    if (data === '[DONE]') {
      this.done = true;
      return;
    }
    const [choice] = (JSON.parse(data) as Chunk).choices ?? [];
    if (choice?.finish_reason) this.finished = true;
    const piece = choice?.delta?.content;
    if (!piece) return;
    this.pieces.push(piece);
    this.#onPiece();
  }

  /** Why this is not the answer; empty: it is. */
  fault(expected: string): string {
    const text = this.pieces.join('');
    if (text === expected && this.finished && this.done) return '';
    const wanted = expected.split(' ');
    const got = text.split(' ');
    const at = got.findIndex((word, index) => word !== wanted[index]);
    const where =
      at < 0 ? `${got.length} of ${wanted.length} tokens` : `token ${at} is ${got[at]}, not ${wanted[at]}`;
    return `${where}; finish_reason ${this.finished ? 'said' : 'missing'}, [DONE] ${this.done ? 'said' : 'missing'}`;
  }
}

/** Clients on connections of their own; `close` ends them. */
export class StreamClients {
  // Connections are kept: `Connection: close`, which undici sends without pipelining, is passed on to engines by some proxies.
  readonly #agent = new Agent();

  /** Sends one request now. The answer never rejects: what went wrong is in it. */
  send(question: Question): Asked {
    const first = Promise.withResolvers<void>();
    const answer = this.#read(question, first.resolve).finally(first.resolve);
    return { answer, first: first.promise };
  }

  async #read(question: Question, onFirst: () => void): Promise<Streamed> {
    const { url, model, tokens, silenceMs = silenceMsMax } = question;
    const expected = words(tokens).join(' ');
    const askedAtMs = performance.now();
    const answer = { status: 0, askedAtMs, firstMs: null as number | null, silenceMs: 0, fault: '' };
    let lastMs: number | null = null;
    const reader = new Reader(() => {
      const now = performance.now();
      answer.firstMs ??= now - askedAtMs;
      answer.silenceMs = Math.max(answer.silenceMs, now - (lastMs ?? now));
      lastMs = now;
      onFirst();
    });
    try {
      const { statusCode, body } = await request(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          model,
          messages: [{ role: 'user', content: expected }],
          max_tokens: tokens,
          stream: true,
        }),
        dispatcher: this.#agent,
        headersTimeout: silenceMs,
        bodyTimeout: silenceMs,
      });
      answer.status = statusCode;
      if (statusCode !== 200) answer.fault = (await body.text()).slice(0, excerptCharactersMax);
      else {
        for await (const chunk of body.setEncoding('utf8')) reader.take(chunk as string);
        answer.fault = reader.fault(expected);
      }
    } catch (error) {
      const { message, cause } = error as Error;
      answer.fault = `${message}${cause ? ` (${String(cause)})` : ''}; ${reader.fault(expected)}`;
    }
    const whole = answer.status === 200 && answer.fault === '';
    return { ...answer, endMs: performance.now() - askedAtMs, pieces: reader.pieces.length, whole };
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }
}
