/**
 * What a conversion notes beside its unfinished file, so that the next one goes on from there: 32 bytes that say which
 * conversion it was, then the hash of each chunk that was written. A chunk counts only if its bytes still have that hash.
 */
import { createHash } from 'node:crypto';
import { chunkHashBytes } from '#proto/weights.ts';
import type { Layout } from './layout.ts';

export const fingerprintBytes = 32;

/** Of source files (by their hash) and layout: a later release that lays out otherwise starts anew. */
export function fingerprintOf(layout: Layout, sources: readonly { path: string; sha256: string }[]): Buffer {
  const hash = createHash('sha256');
  for (const { path, sha256 } of sources) hash.update(`${sha256} ${path}\n`);
  for (const { tensor, offset } of layout.tensors) {
    const { name, bytes, path, position } = tensor;
    hash.update(`${offset} ${bytes} ${position} ${path} ${name}\n`);
  }
  return hash.update(String(layout.bytes)).digest();
}

/** The hashes that a journal of this very conversion holds, at most `chunks`; none for another's. */
export function journalled(journal: Uint8Array, fingerprint: Uint8Array, chunks: number): Uint8Array {
  const own = Buffer.compare(journal.subarray(0, fingerprintBytes), fingerprint) === 0;
  const hashes = journal.subarray(fingerprintBytes);
  const whole = Math.min(Math.floor(hashes.length / chunkHashBytes), chunks);
  return own ? hashes.subarray(0, whole * chunkHashBytes) : new Uint8Array();
}
