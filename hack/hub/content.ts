/** Sends a file's bytes: Range, and the faults that spoil a body. */
import { createReadStream } from 'node:fs';
import type { ServerResponse } from 'node:http';
import type { Fault } from './faults.ts';

export interface Content {
  /** On disk. */
  file: string;
  size: number;
  headers: Record<string, string>;
  range: string | undefined;
  fault: Fault | null;
  /** Told of bytes as they are sent. */
  onSent: (bytes: number) => void;
}

/** First and last byte of a `Range` header of one range; null: not one we serve, the whole file is sent. */
function rangeOf(header: string | undefined, size: number): { first: number; last: number } | null {
  const match = /^bytes=(\d+)-(\d*)$/.exec(header ?? '');
  if (!match) return null;
  return { first: Number(match[1]), last: match[2] ? Math.min(Number(match[2]), size - 1) : size - 1 };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Flips the last bit of the body's last byte. */
function corrupt(chunk: Buffer, isLast: boolean): Buffer {
  if (!isLast) return chunk;
  const copy = Buffer.from(chunk);
  copy[copy.length - 1]! ^= 1;
  return copy;
}

/** Status and headers; the bytes to send, null when there are none. */
function begin(response: ServerResponse, content: Content): { first: number; last: number } | null {
  const { size, fault } = content;
  const range = fault?.kind === 'noRange' ? null : rangeOf(content.range, size);
  if (range && range.first >= size) {
    response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
    return null;
  }
  const { first, last } = range ?? { first: 0, last: size - 1 };
  response.writeHead(range ? 206 : 200, {
    ...content.headers,
    'accept-ranges': 'bytes',
    'content-length': last - first + 1,
    ...(range ? { 'content-range': `bytes ${first}-${last}/${size}` } : {}),
  });
  if (size > 0) return { first, last };
  response.end();
  return null;
}

export async function sendContent(response: ServerResponse, content: Content): Promise<void> {
  const { file, fault } = content;
  const range = begin(response, content);
  if (range === null) return;
  const { first, last } = range;
  const length = last - first + 1;
  const slow = fault?.kind === 'slow' ? fault.bytesPerSecond : null;
  const chunkBytes = slow === null ? 64 * 1024 : Math.max(1, Math.min(64 * 1024, Math.floor(slow / 20)));
  const closed = new Promise((resolve) => response.once('close', resolve));
  let sent = 0;
  for await (const piece of createReadStream(file, { start: first, end: last, highWaterMark: chunkBytes })) {
    let chunk = piece as Buffer;
    if (response.destroyed) return;
    if (fault?.kind === 'corrupt') chunk = corrupt(chunk, sent + chunk.length === length);
    if (fault?.kind === 'truncated' && sent + chunk.length >= fault.bytes) {
      content.onSent(fault.bytes - sent);
      response.write(chunk.subarray(0, fault.bytes - sent), () => response.destroy());
      return;
    }
    sent += chunk.length;
    content.onSent(chunk.length);
    if (!response.write(chunk)) await Promise.race([drained(response), closed]);
    if (slow !== null) await pause((chunk.length * 1000) / slow);
  }
  response.end();
}

const drained = (response: ServerResponse) => new Promise((resolve) => response.once('drain', resolve));
