/** One request on its way through: what observe/ read of it, and what act/ answers it with. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Shape } from './decide/refusals.ts';

export interface Exchange {
  readonly id: number;
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly requestId: string;
  /** Headers of every answer to it, flat: X-Request-Id and CORS. */
  readonly baseHeaders: readonly string[];
  shape: Shape;
  /** It asks for an inference route. */
  inference: boolean;
  /** The engine's path of the route, and the query as the client wrote it. */
  path: string;
  query: string;
  /** The whole body; null once nobody may need it any more. */
  body: Buffer | null;
  /** The client asked for server-sent events. */
  stream: boolean;
  /** It may be sent once more after an engine died (x-greenthread-retry: 1); at most once. */
  mayRetry: boolean;
  /** A sibling handed it on to us. */
  readonly hopped: boolean;
  /** An answer from elsewhere has begun: nothing of ours may be mixed into it. */
  answered: boolean;
  /** What the wait cost, milliseconds, for Server-Timing. */
  queueMs: number;
  wakeMs: number;
}
