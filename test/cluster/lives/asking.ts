/** Clients of a Model at the cluster's edge. */
import { randomBytes } from 'node:crypto';
import { edgeAddress } from '../../../hack/nodes/places.ts';

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  nonce: string;
}

export const newNonce = (): string => `nonce-${randomBytes(6).toString('hex')}`;

/** One request at the edge, read to its end. `path` starts with the Model's own. */
export async function send(path: string, init: RequestInit = {}): Promise<Omit<Answer, 'nonce'>> {
  const response = await fetch(`http://${edgeAddress}${path}`, init);
  return { status: response.status, headers: response.headers, text: await response.text() };
}

export const post = (body: object, headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body: JSON.stringify(body),
});

export interface Question {
  /** `model` in the body; left out when not given, which every engine takes. */
  model?: string;
  headers?: Record<string, string>;
  maxTokens?: number;
}

/** A chat request with a nonce of its own, which only the engine's own answer can bring back. */
export async function ask(prefix: string, question: Question = {}): Promise<Answer> {
  const nonce = newNonce();
  const body = {
    ...(question.model !== undefined && { model: question.model }),
    messages: [{ role: 'user', content: `Say ${nonce}` }],
    max_tokens: question.maxTokens ?? 4,
  };
  try {
    return { ...(await send(`${prefix}/v1/chat/completions`, post(body, question.headers))), nonce };
  } catch (error) {
    const text = error instanceof Error ? `${error.message} ${String(error.cause ?? '')}` : String(error);
    return { status: 0, headers: new Headers(), text, nonce };
  }
}

export const answered = ({ status, text, nonce }: Answer): boolean => status === 200 && text.includes(nonce);

/** What a client that got no answer would show. */
export const lostText = ({ status, text }: Answer): string => `${status} ${text.slice(0, 300)}`;

const pauseMs = 100;

/** A client that asks one request after the other until it is told to end. */
export function keepAsking(prefix: string, question: Question = {}) {
  let going = true;
  let sent = 0;
  const lost: string[] = [];
  const running = (async () => {
    while (going) {
      const answer = await ask(prefix, question);
      sent += 1;
      if (!answered(answer)) lost.push(lostText(answer));
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  })();
  return {
    /** Requests answered or lost until now. */
    sent: () => sent,
    end: async (): Promise<{ sent: number; lost: string[] }> => {
      going = false;
      await running;
      return { sent, lost };
    },
  };
}

export interface FrontDoorStatus {
  model: string;
  state: string;
  bootReady: boolean;
  queue: { inFlight: number; barriered: boolean };
}

export async function statusOf(prefix: string): Promise<FrontDoorStatus> {
  return JSON.parse((await send(`${prefix}/status`)).text) as FrontDoorStatus;
}

/** One number of a front door's /metrics; 0 when it is not there. */
export async function metric(prefix: string, name: string): Promise<number> {
  const { text } = await send(`${prefix}/metrics`);
  const line = text.split('\n').find((each) => each.startsWith(`${name} `));
  return Number(line?.split(' ')[1] ?? 0);
}
