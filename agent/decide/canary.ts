/**
 * One short question to an engine after each wake, and what is wrong with its answer: compared with what the same engine
 * said after its boot. An engine that woke with broken weights answers nonsense with 200 (vllm#53888, #16234).
 */

/** Tokens of an answer (docs/canary.md): what a wake takes longer for it. */
const tokens = 8;
/** Log probabilities told for each token beside the chosen one's: where a near-tie flipped, the other is among them. */
const alternatives = 5;
/** The most by which a token's log probability may differ, nat. */
export const logprobDriftMax = 0.1;
/** The least cosine of two embeddings. */
export const cosineMin = 0.999;
/** Longest embedding that is compared, numbers: more would not fit the agent's words to a sidecar. */
const vectorLengthMax = 32_768;
/** Digits of an embedding's numbers that are kept: the cosine needs no more. */
const vectorDigits = 6;

const words = 'The quick brown fox jumps over the lazy dog, and then it runs back over the hill to';

/**
 * Asked in this order until one is offered. No `model`: vLLM takes its own. Tokens are told by id, since two ids may read
 * alike.
 */
export const canaryQuestions = [
  {
    kind: 'tokens',
    path: '/v1/completions',
    body: {
      prompt: words,
      max_tokens: tokens,
      temperature: 0,
      ignore_eos: true,
      logprobs: alternatives,
      return_tokens_as_token_ids: true,
    },
  },
  { kind: 'vector', path: '/v1/embeddings', body: { input: words } },
] as const;
export type CanaryQuestion = (typeof canaryQuestions)[number];

/** One greedy token. */
export interface CanaryStep {
  token: string;
  /** Nat. */
  logprob: number;
  /** Of the likeliest tokens, the chosen one among them. */
  top: Record<string, number>;
}

export type CanaryAnswer = { kind: 'tokens'; steps: CanaryStep[] } | { kind: 'vector'; values: number[] };

export interface Verdict {
  /** It is not the model that booted. */
  alarm: boolean;
  /** The figures, a part of a sentence. */
  message: string;
  /** The largest difference of a log probability, nat; of embeddings 1 minus the cosine. */
  apart: number;
}

/** Whether an answer says that this engine has no such route or takes no such question: the next question may do. */
export const isNotOffered = (status: number): boolean => [400, 404, 405, 422, 501].includes(status);

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);

/** @returns null when it is not what vLLM answers to a completion with logprobs */
function readSteps(document: unknown): CanaryStep[] | null {
  const { choices } = (document ?? {}) as { choices?: { logprobs?: Record<string, unknown> }[] };
  const logprobs = Array.isArray(choices) ? choices[0]?.logprobs : undefined;
  if (!logprobs) return null;
  const { tokens: chosen, token_logprobs: values, top_logprobs: tops } = logprobs;
  if (!Array.isArray(chosen) || !Array.isArray(values) || !Array.isArray(tops)) return null;
  if (chosen.length === 0 || chosen.length > tokens) return null;
  const steps: CanaryStep[] = [];
  for (const [at, token] of chosen.entries()) {
    const [logprob, top] = [values[at], tops[at]];
    if (typeof token !== 'string' || !isNumber(logprob)) return null;
    if (typeof top !== 'object' || top === null || !Object.values(top).every(isNumber)) return null;
    steps.push({ token, logprob, top: { ...(top as Record<string, number>), [token]: logprob } });
  }
  return steps;
}

/** @returns null when it is not what vLLM answers for one text */
function readVector(document: unknown): number[] | null {
  const { data } = (document ?? {}) as { data?: { embedding?: unknown }[] };
  const values = Array.isArray(data) ? data[0]?.embedding : undefined;
  if (!Array.isArray(values) || values.length === 0 || values.length > vectorLengthMax) return null;
  return values.every(isNumber) ? values.map((value) => Number(value.toPrecision(vectorDigits))) : null;
}

/** Reads an engine's answer of 200. @returns null when it has another shape than vLLM's */
export function readCanaryAnswer(question: CanaryQuestion, text: string): CanaryAnswer | null {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return null;
  }
  if (question.kind === 'vector') {
    const values = readVector(document);
    return values && { kind: 'vector', values };
  }
  const steps = readSteps(document);
  return steps && { kind: 'tokens', steps };
}

/** Reads what `JSON.stringify` made of an answer. @returns null when it is none */
export function parseCanaryAnswer(text: string): CanaryAnswer | null {
  try {
    const answer = JSON.parse(text) as CanaryAnswer;
    if (answer?.kind === 'vector') {
      const { values } = answer;
      return Array.isArray(values) && values.length > 0 && values.every(isNumber) ? answer : null;
    }
    if (answer?.kind !== 'tokens' || !Array.isArray(answer.steps) || answer.steps.length === 0) return null;
    const isStep = ({ token, logprob, top }: CanaryStep): boolean =>
      typeof token === 'string' && isNumber(logprob) && typeof top === 'object' && top !== null;
    return answer.steps.every(isStep) ? answer : null;
  } catch {
    return null;
  }
}

/**
 * By how much a token's log probability has moved at the least, nat. One that is not among the likeliest any more is known
 * to be no likelier than the last of them.
 */
function drift(token: string, logprob: number, top: Record<string, number>): number {
  const now = top[token];
  if (now !== undefined) return Math.abs(logprob - now);
  return Math.max(0, logprob - Math.min(...Object.values(top)));
}

/**
 * Token by token, up to the first that differs: behind it the contexts do. Another token alone is no alarm, since other
 * clients' streams change the shape of a batch and with it the last digits: then both must be about as likely as before.
 */
function compareTokens(before: CanaryStep[], after: CanaryStep[]): Verdict {
  let worst = 0;
  for (const [at, was] of before.entries()) {
    const is = after[at];
    if (!is)
      return { alarm: true, message: `${after.length} tokens instead of ${before.length}`, apart: worst };
    const moved = Math.max(
      drift(was.token, was.logprob, is.top),
      is.token === was.token ? 0 : drift(is.token, is.logprob, was.top),
    );
    worst = Math.max(worst, moved);
    if (moved > logprobDriftMax) {
      const what = is.token === was.token ? '' : `${is.token} instead of ${was.token}, `;
      return {
        alarm: true,
        message: `token ${at + 1}: ${what}log probabilities ${moved.toFixed(3)} nat apart, ${logprobDriftMax} are allowed`,
        apart: worst,
      };
    }
    if (is.token !== was.token) {
      const message = `a near-tie at token ${at + 1}, log probabilities up to ${worst.toFixed(3)} nat apart`;
      return { alarm: false, message, apart: worst };
    }
  }
  return {
    alarm: false,
    message: `${before.length} tokens, log probabilities up to ${worst.toFixed(3)} nat apart`,
    apart: worst,
  };
}

function compareVectors(before: number[], after: number[]): Verdict {
  if (before.length !== after.length)
    return {
      alarm: true,
      message: `an embedding of ${after.length} numbers instead of ${before.length}`,
      apart: 1,
    };
  const product = (a: number[], b: number[]): number => a.reduce((sum, value, at) => sum + value * b[at]!, 0);
  const norms = Math.sqrt(product(before, before) * product(after, after));
  const cosine = norms === 0 ? 0 : product(before, after) / norms;
  const message = `a cosine of ${cosine.toFixed(5)}, at least ${cosineMin} is wanted`;
  return { alarm: cosine < cosineMin, message, apart: 1 - cosine };
}

/** Judges what an engine says now against what it said after its boot. */
export function compareCanary(before: CanaryAnswer, after: CanaryAnswer): Verdict {
  if (before.kind === 'tokens' && after.kind === 'tokens') return compareTokens(before.steps, after.steps);
  if (before.kind === 'vector' && after.kind === 'vector') return compareVectors(before.values, after.values);
  return { alarm: true, message: `${after.kind} instead of ${before.kind}`, apart: Number.POSITIVE_INFINITY };
}
