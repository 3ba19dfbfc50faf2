/** The canary's question to one engine, over its socket. */
import type { ProbeOutcome } from '../decide/arbiter/words.ts';
import {
  type CanaryAnswer,
  type CanaryQuestion,
  canaryQuestions,
  isNotOffered,
  readCanaryAnswer,
} from '../decide/canary.ts';
import type { EngineAnswer, EngineSocket } from './engine-socket.ts';

/**
 * An answer takes some tokens' time, but what a wake thawed comes first: prompts and all that was said are computed anew,
 * some 10,000 tokens a second on one GPU. Beyond this it serves unproven, ms.
 */
export const canaryTimeoutMs = 30_000;
/** Longest piece of an engine's own words in a message, characters. */
const excerptCharactersMax = 200;

/** An engine whose numbers have become none cannot write them as JSON: vLLM answers 500. */
const isBroken = (status: number): boolean => status === 500;

const said = ({ status, text }: EngineAnswer): string =>
  `${status} ${text.slice(0, excerptCharactersMax).replaceAll(/\s+/g, ' ')}`.trim();

function judge(question: CanaryQuestion, answer: EngineAnswer): ProbeOutcome {
  const { path } = question;
  if (answer.status !== 200) {
    const message = `POST ${path} answered ${said(answer)}`;
    return { type: isBroken(answer.status) ? 'broken' : 'silent', message };
  }
  const read = readCanaryAnswer(question, answer.text);
  if (read) return { type: 'answered', answer: read };
  return { type: 'broken', message: `POST ${path} answered what has no numbers: ${said(answer)}` };
}

/** Asks once; of several questions the first that is offered. */
export async function askCanary(
  socket: EngineSocket,
  kind: CanaryAnswer['kind'] | null,
): Promise<ProbeOutcome> {
  for (const question of canaryQuestions) {
    if (kind !== null && question.kind !== kind) continue;
    const { path, body } = question;
    try {
      const answer = await socket.request('POST', path, { timeoutMs: canaryTimeoutMs, body });
      if (!isNotOffered(answer.status)) return judge(question, answer);
    } catch (error) {
      return { type: 'silent', message: error instanceof Error ? error.message : String(error) };
    }
  }
  return { type: 'not-offered' };
}
