/** The end of connections whose answers cannot come any more. */
import type { Exchange } from '../exchange.ts';
import { refuse } from './respond.ts';

/** So long may the last words of a process take to reach their clients, milliseconds. */
const lastWordsMs = 500;

/** Never a clean end: the client must see that something is missing. HTTP/1.0 has no sign for it but a reset. */
export function cut({ req, res }: Exchange): void {
  if (req.httpVersionMinor === 0) req.socket.resetAndDestroy();
  else res.destroy();
}

/** Its request is in and its answer out, or its client gone. */
function isOver({ req, res }: Exchange): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (res.closed && (req.complete || req.destroyed)) resolve();
    };
    res.once('close', look);
    req.once('close', look);
    req.once('end', look);
    look();
  });
}

/**
 * Before the process ends: an answer that has begun is cut; everyone else is told `pod_ending` in their shape.
 * @returns once all of it is out, or after 500 ms: then the sockets may be closed
 */
export async function part(exchanges: readonly Exchange[]): Promise<void> {
  const told = exchanges.filter(({ answered, res }) => !answered && !res.destroyed && !res.writableEnded);
  for (const exchange of exchanges) if (exchange.answered && !exchange.res.writableEnded) cut(exchange);
  for (const exchange of told) {
    // While a body still comes in, a socket that closes would be reset, and the refusal with it: that one closes last.
    if (exchange.req.complete) exchange.res.shouldKeepAlive = false;
    refuse(exchange, { code: 'pod_ending' });
  }
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, lastWordsMs);
  });
  await Promise.race([late, Promise.all(exchanges.map(isOver))]);
  clearTimeout(timer);
}
