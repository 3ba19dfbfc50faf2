/** Reads a request's body whole, within limits, and counts what all of them hold. */
import type { IncomingMessage } from 'node:http';
import type { BodyRoom } from '../decide/body-room.ts';

/** Bytes of the bodies that are being read now, of all connections together. */
export interface Account {
  heldBytes: number;
}

export type BodyResult = { body: Buffer } | { refused: 'body_too_large' | 'queue_bytes_full' };

const empty = Buffer.alloc(0);

/** What Content-Length announces, bytes; null when it does not. */
export function announcedBytes(req: IncomingMessage): number | null {
  const length = req.headers['content-length'];
  return length === undefined ? null : Number(length);
}

/**
 * Reads to the end and calls `done` once: with the body, or why it is refused. A client that leaves midway is never
 * reported here; its connection's end is.
 * @param bodyBytesMax for this body
 * @param room for all bodies together, as it is now; one body alone always fits
 */
export function readBody(
  req: IncomingMessage,
  { bodyBytesMax, account, room }: { bodyBytesMax: number; account: Account; room: () => BodyRoom },
  done: (result: BodyResult) => void,
): void {
  let chunks: Buffer[] = [];
  let bytes = 0;
  let open = true;
  const finish = (result: BodyResult | null) => {
    if (!open) return;
    open = false;
    account.heldBytes -= bytes;
    req.off('data', onData);
    const body = chunks;
    chunks = [];
    if (result) done(result);
    else
      done({ body: body.length === 1 ? body[0]! : body.length === 0 ? empty : Buffer.concat(body, bytes) });
  };
  const onData = (chunk: Buffer) => {
    bytes += chunk.length;
    account.heldBytes += chunk.length;
    if (bytes > bodyBytesMax) return finish({ refused: 'body_too_large' });
    const { bytesMax, waitingBytes } = room();
    const others = account.heldBytes - bytes + waitingBytes;
    if (others > 0 && others + bytes > bytesMax) return finish({ refused: 'queue_bytes_full' });
    chunks.push(chunk);
  };
  req.on('data', onData);
  req.once('end', () => finish(null));
  req.once('close', () => {
    // After `end` this does nothing; before it the client left.
    if (!open) return;
    open = false;
    account.heldBytes -= bytes;
    chunks = [];
  });
}
