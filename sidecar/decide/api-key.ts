/** API keys: compared as hashes, all of them each time, so that the time taken tells nothing. */
import { createHash, timingSafeEqual } from 'node:crypto';

export type KeyHash = Buffer;

export const keyHash = (key: string): KeyHash => createHash('sha256').update(key, 'utf8').digest();

/** The key a request brings, as Bearer or x-api-key; null when it brings none. */
export function givenKey(headers: {
  authorization?: string | undefined;
  'x-api-key'?: string | string[] | undefined;
}): string | null {
  const bearer = /^bearer +(\S+) *$/i.exec(headers.authorization ?? '');
  if (bearer) return bearer[1]!;
  const key = headers['x-api-key'];
  return typeof key === 'string' && key !== '' ? key : null;
}

/** @param keys null: none are asked for */
export function isAdmitted(given: string | null, keys: readonly KeyHash[] | null): boolean {
  if (keys === null) return true;
  if (given === null) return false;
  const hash = keyHash(given);
  let admitted = false;
  for (const key of keys) admitted = timingSafeEqual(hash, key) || admitted;
  return admitted;
}
