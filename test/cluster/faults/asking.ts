/** Clients of a front door: one request with a nonce that the answer must bring back, whole or as a stream. */
import { randomBytes } from 'node:crypto';
import { Agent, request } from 'undici';

/** Longest wait for headers or for the next piece, ms. */
const answerMsMax = 100_000;

/** Connections of their own: a pod that is gone must not leave a dead one for the next request. */
const dispatcher = new Agent({ headersTimeout: answerMsMax, bodyTimeout: answerMsMax, pipelining: 0 });

export interface Question {
  /** Of the front door: at the edge with the Model's name, or a pod's own. */
  url: string;
  /** Upstream id. */
  model: string;
  tokens?: number;
  stream?: boolean;
  nonce?: string;
  route?: '/v1/chat/completions' | '/v1/messages';
}

export interface Answer {
  /** 0: no HTTP answer. */
  status: number;
  headers: Record<string, string | string[] | undefined>;
  nonce: string;
  /** The body; of a stream its pieces of text joined. */
  text: string;
  /** A stream's end was said ([DONE]); a body came whole. */
  complete: boolean;
  error: string;
}

export interface Asked {
  answer: Promise<Answer>;
  /** Pieces of a stream until now. */
  pieces(): number;
}

export const newNonce = (): string => `nonce-${randomBytes(8).toString('hex')}`;

function pieceOf(line: string): string | null {
  if (!line.startsWith('data: ') || line === 'data: [DONE]') return null;
  const { choices } = JSON.parse(line.slice('data: '.length)) as {
    choices?: { delta?: { content?: string } }[];
  };
  return choices?.[0]?.delta?.content ?? null;
}

const bodyOf = ({ model, tokens = 8, stream = false }: Question, nonce: string) =>
  JSON.stringify({
    model,
    messages: [{ role: 'user', content: `Say it again: ${nonce}` }],
    max_tokens: tokens,
    min_tokens: tokens,
    ignore_eos: true,
    stream,
  });

/** Feeds an answer from its stream's chunks; `onPiece` hears of each piece of text. */
function streamReader(answer: Answer, onPiece: () => void): (chunk: string) => void {
  let rest = '';
  return (chunk) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      if (line === 'data: [DONE]') answer.complete = true;
      const piece = pieceOf(line);
      if (!piece) continue;
      answer.text += piece;
      onPiece();
    }
  };
}

/** Sends one request now. The answer never rejects: what went wrong is in it. */
export function send(question: Question): Asked {
  const nonce = question.nonce ?? newNonce();
  let pieces = 0;
  const answer: Answer = { status: 0, headers: {}, nonce, text: '', complete: false, error: '' };

  const read = async (): Promise<void> => {
    const { statusCode, headers, body } = await request(
      `${question.url}${question.route ?? '/v1/chat/completions'}`,
      {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'anthropic-version': '2023-06-01' },
        body: bodyOf(question, nonce),
        dispatcher,
      },
    );
    answer.status = statusCode;
    answer.headers = headers;
    const streams = question.stream === true && statusCode === 200;
    const take = streams
      ? streamReader(answer, () => void pieces++)
      : (chunk: string) => {
          answer.text += chunk;
        };
    body.setEncoding('utf8');
    for await (const chunk of body) take(chunk as string);
    if (!streams) answer.complete = true;
  };
  const done = read().catch((error: unknown) => {
    answer.error = error instanceof Error ? error.message : String(error);
  });
  return { answer: done.then(() => answer), pieces: () => pieces };
}

export const ask = (question: Question): Promise<Answer> => send(question).answer;

/** What is wrong with an answer that should have been whole; null: nothing. */
export function lost({ status, text, nonce, complete, error }: Answer): string | null {
  if (status === 200 && complete && text.includes(nonce)) return null;
  return `${status} ${complete ? 'whole' : 'cut'} ${error} ${text.slice(0, 300)}`;
}

/** The answer's text without its envelope. */
export const contentOf = (answer: Answer): string =>
  (JSON.parse(answer.text) as { choices: { message: { content: string } }[] }).choices[0]!.message.content;
