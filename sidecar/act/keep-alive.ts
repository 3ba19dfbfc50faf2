/** Server-sent-event comments for a stream that waits, so that balancers keep its connection open. */
import type { Exchange } from '../exchange.ts';
import { commonHeaders } from './respond.ts';

/** Pause between comments, milliseconds: no shorter than this, and well below balancers' 60 s. */
const everyMsMin = 500;
const everyMsMax = 10_000;

const comment = ': waiting for the model\n\n';

/**
 * @param afterMs of waiting, the answer begins: 200, an event stream, then comments. What goes wrong later is an event
 * @returns stops it
 */
export function keepAlive(exchange: Exchange, afterMs: number): () => void {
  const { res } = exchange;
  let timer = setTimeout(() => {
    if (res.headersSent || res.destroyed) return;
    res.writeHead(200, [
      ...commonHeaders(exchange),
      'content-type',
      'text/event-stream; charset=utf-8',
      'cache-control',
      'no-cache',
    ]);
    res.write(comment);
    timer = setInterval(
      () => {
        // A client that does not read must not make us keep what it does not read.
        if (!res.writableNeedDrain) res.write(comment);
      },
      Math.min(everyMsMax, Math.max(everyMsMin, afterMs)),
    );
  }, afterMs);
  return () => clearTimeout(timer);
}
