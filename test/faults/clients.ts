/** Requests to the two Models' front doors, and what each was answered. */
import { greedy } from '../contract/engine/conformance-subject.ts';
import type { Kind, ModelName } from './plan.ts';

/** One request's end. `cut`: the connection ended before the answer was whole. */
export interface Outcome {
  model: ModelName;
  status: number;
  text: string;
  /** Of the real engine: its tokens. */
  ids: number[];
  cut: boolean;
  /** ms of the timeline. */
  sentMs: number;
  endedMs: number;
  /** `x-greenthread-refused`; null: not of the front door. */
  refused: string | null;
  question: string;
}

export const questions = ['one two three', 'the quick brown fox', 'hello'] as const;
/** Tokens of one answer. */
const tokensOf: Record<Kind, number> = { sim: 60, vllm: 24 };

export interface AskOptions {
  kind: Kind;
  url: string;
  model: ModelName;
  question: string;
  stream: boolean;
  /** Longest wait for its end, ms: beyond it the Model is stuck. */
  msMax: number;
  nowMs(): number;
  /** With the first byte of an answer of 200. */
  onFirst(): void;
}

function bodyOf({ kind, model, question, stream }: AskOptions): { path: string; body: object } {
  const common = { model: `org/${model}`, max_tokens: tokensOf[kind], stream };
  return kind === 'sim'
    ? {
        path: '/v1/chat/completions',
        body: { ...common, messages: [{ role: 'user', content: question }] },
      }
    : { path: '/v1/completions', body: { ...common, prompt: question, ...greedy } };
}

interface Choice {
  text?: string;
  token_ids?: number[];
  delta?: { content?: string };
  message?: { content?: string };
}

/** @returns false when it did not end as it should */
function take(outcome: Outcome, text: string, stream: boolean): boolean {
  const events = stream ? text.split('\n\n').map((event) => event.replace(/^data: /, '')) : [text];
  let ended = !stream;
  for (const data of events) {
    if (data === '[DONE]') ended = true;
    if (!data.startsWith('{')) continue;
    const parsed = JSON.parse(data) as { choices?: Choice[]; error?: unknown };
    if (parsed.error) return false;
    for (const choice of parsed.choices ?? []) {
      outcome.text += choice.text ?? choice.delta?.content ?? choice.message?.content ?? '';
      outcome.ids.push(...(choice.token_ids ?? []));
    }
  }
  return ended;
}

async function read(response: Response, onFirst: () => void): Promise<string> {
  let text = '';
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    if (text === '') onFirst();
    text += piece;
  }
  return text;
}

/** Sends one and waits for its end. @throws Error when it has none in time */
export async function ask(options: AskOptions): Promise<Outcome> {
  const { model, url, question, stream, nowMs, msMax } = options;
  const { path, body } = bodyOf(options);
  const none = { text: '', ids: [], cut: false, refused: null, status: 0, endedMs: 0 };
  const outcome: Outcome = { ...none, model, question, sentMs: nowMs() };
  const signal = AbortSignal.timeout(msMax);
  try {
    const response = await fetch(`${url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal,
    });
    outcome.status = response.status;
    outcome.refused = response.headers.get('x-greenthread-refused');
    const text = await read(response, response.status === 200 ? options.onFirst : () => {});
    if (response.status === 200) outcome.cut = !take(outcome, text, stream);
    else outcome.text = text;
  } catch (error) {
    if (signal.aborted) throw new Error(`a request to ${model} had no end in ${msMax} ms`);
    outcome.cut = true;
    outcome.text += String((error as Error).cause ?? error);
  }
  outcome.endedMs = nowMs();
  return outcome;
}

/** Whether a client got all it asked for. @param reference the real engine's tokens by model and question; null: none known yet */
export function isRight(outcome: Outcome, kind: Kind, reference: Record<string, number[]> | null): boolean {
  const { status, cut, text, ids, question, model } = outcome;
  if (status !== 200 || cut) return false;
  if (kind === 'sim') return text.includes(question);
  const wanted = reference?.[`${model} ${question}`];
  return ids.length === tokensOf.vllm && (!wanted || wanted.join() === ids.join());
}
