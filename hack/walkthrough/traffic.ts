/** A client that keeps asking while something changes: what it lost is what users would have lost. */
import { randomBytes } from 'node:crypto';
import { request } from 'undici';

export interface Answer {
  status: number;
  text: string;
  nonce: string;
}

/** Longest a request may wait for its answer: a roll with its boot, ms. */
const answerMsMax = 120_000;

/** One chat request with a random nonce, which the answer must bring back. */
export async function ask(url: string, model: string | undefined, maxTokens = 16): Promise<Answer> {
  const nonce = `nonce-${randomBytes(6).toString('hex')}`;
  try {
    const response = await request(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model,
        messages: [{ role: 'user', content: `Hello! ${nonce}` }],
        max_tokens: maxTokens,
      }),
      headersTimeout: answerMsMax,
      bodyTimeout: answerMsMax,
    });
    return { status: response.statusCode, text: await response.body.text(), nonce };
  } catch (error) {
    return { status: 0, text: error instanceof Error ? error.message : String(error), nonce };
  }
}

export const answered = (answer: Answer): boolean =>
  answer.status === 200 && answer.text.includes(answer.nonce);

export interface Traffic {
  /** Ends the asking; answers how many were sent and which were lost. */
  stop(): Promise<{ sent: number; lost: Answer[] }>;
}

/** Asks one request after the other, with a short pause. */
export function keepAsking(url: string, model?: string): Traffic {
  let going = true;
  let sent = 0;
  const lost: Answer[] = [];
  const running = (async () => {
    while (going) {
      sent += 1;
      const answer = await ask(url, model, 4);
      if (!answered(answer)) lost.push(answer);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();
  return {
    stop: async () => {
      going = false;
      await running;
      return { sent, lost };
    },
  };
}
