/** HTTP with the hub: redirects without leaking the token, limits on every wait, bounded retries. */
import type { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { type Dispatcher, EnvHttpProxyAgent, request } from 'undici';
import { type Asked, FetchFailure, judgeError, judgeStatus, retryDelayMs } from './decide/failures.ts';

const connectMsMax = 10_000;
/** Until the first header, and between two pieces of a body. */
const silenceMsMax = 60_000;
const redirectsMax = 5;
/** Tries of one call that must follow each other without a success. */
export const triesMax = 6;
export const backoffBaseMs = 500;

export interface HttpOptions {
  asked: Asked;
  token: string | null;
  /** Aborted on SIGTERM. */
  signal: AbortSignal;
  /** First pause after a failure, ms. */
  backoffMs?: number;
  tries?: number;
}

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Readable & { dump(): Promise<void> };
}

/** The one value of a header, null when there is none. */
export function headerOf(answer: Pick<Answer, 'headers'>, name: string): string | null {
  const value = answer.headers[name];
  return (Array.isArray(value) ? value[0] : value) ?? null;
}

export class Http {
  readonly asked: Asked;
  readonly signal: AbortSignal;
  readonly tries: number;
  private readonly token: string | null;
  private readonly backoffMs: number;
  /** Honours HTTP_PROXY, HTTPS_PROXY and NO_PROXY. */
  private readonly dispatcher: Dispatcher = new EnvHttpProxyAgent({
    connect: { timeout: connectMsMax },
    headersTimeout: silenceMsMax,
    bodyTimeout: silenceMsMax,
  });

  constructor(options: HttpOptions) {
    this.asked = options.asked;
    this.signal = options.signal;
    this.token = options.token;
    this.backoffMs = options.backoffMs ?? backoffBaseMs;
    this.tries = options.tries ?? triesMax;
  }

  /** Ends its connections. */
  async close(): Promise<void> {
    await this.dispatcher.destroy();
  }

  /**
   * GET, redirects followed. The token goes to the hub's own origin alone: its CDN's addresses are signed already.
   * @throws FetchFailure for a status that is no success (`accept` lists further ones to hand back), or a network error
   */
  async get(url: string, headers: Record<string, string>, accept: number[] = []): Promise<Answer> {
    let target = new URL(url);
    for (let hop = 0; hop <= redirectsMax; hop++) {
      const answer = await this.once(target, headers);
      const location = headerOf(answer, 'location');
      if (answer.status >= 300 && answer.status < 400 && location !== null) {
        await answer.body.dump();
        target = new URL(location, target);
        if (!/^https?:$/.test(target.protocol)) break;
        continue;
      }
      if ((answer.status >= 200 && answer.status < 300) || accept.includes(answer.status)) return answer;
      await answer.body.dump();
      const refusal = {
        status: answer.status,
        errorCode: headerOf(answer, 'x-error-code'),
        retryAfter: headerOf(answer, 'retry-after'),
        nowMs: Date.now(),
      };
      throw judgeStatus(refusal, this.asked);
    }
    throw new FetchFailure(
      'HubRefused',
      `${this.asked.endpoint} redirects ${redirectsMax} times or to no http address`,
    );
  }

  private async once(target: URL, headers: Record<string, string>): Promise<Answer> {
    const own = target.origin === new URL(this.asked.endpoint).origin;
    try {
      const {
        statusCode,
        headers: got,
        body,
      } = await request(target, {
        dispatcher: this.dispatcher,
        signal: this.signal,
        headers: {
          'user-agent': 'greenthread',
          ...headers,
          ...(own && this.token !== null ? { authorization: `Bearer ${this.token}` } : {}),
        },
      });
      return { status: statusCode, headers: got, body };
    } catch (error) {
      throw this.failureOf(error);
    }
  }

  /** What any thrown thing means here. */
  failureOf(error: unknown): FetchFailure {
    if (error instanceof FetchFailure) return error;
    if (this.signal.aborted) return interruption(this.signal);
    const { code, message } = error as NodeJS.ErrnoException;
    return judgeError({ code: typeof code === 'string' ? code : null, text: String(message) }, this.asked);
  }

  /** Waits before the next try. @param failures in a row, from 1 */
  async backOff(failures: number, failure: FetchFailure): Promise<void> {
    const delayMs = retryDelayMs(failures, this.backoffMs, Math.random(), failure.afterMs);
    await pause(delayMs, undefined, { signal: this.signal }).catch(() => {
      throw interruption(this.signal);
    });
  }

  /** Carries `call` out until it works, at most `tries` times. @throws FetchFailure the last one, or the first final one */
  async retried<T>(call: () => Promise<T>): Promise<T> {
    for (let failures = 1; ; failures++) {
      try {
        return await call();
      } catch (error) {
        const failure = this.failureOf(error);
        if (!failure.retry || failures >= this.tries) throw failure;
        await this.backOff(failures, failure);
      }
    }
  }
}

/** Why a signal was aborted: its own failure, or the Job's end. */
export function interruption(signal: AbortSignal): FetchFailure {
  return signal.reason instanceof FetchFailure
    ? signal.reason
    : new FetchFailure(
        'Interrupted',
        'the Job was ended before the fetch was complete; the next one goes on from here',
      );
}
