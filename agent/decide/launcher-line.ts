/** One line from a launcher to the event it is. Unknown types and fields are ignored (proto/grant.ts). */
import { grantProtocol, type ToLauncher } from '#proto/grant.ts';
import type { ArbiterEvent } from './arbiter/words.ts';

/** An event without its time. */
export type Untimed<E> = E extends unknown ? Omit<E, 'atMs'> : never;
/** A line to the launcher without its version. */
export type LauncherMessage = ToLauncher extends infer M
  ? M extends { v: number }
    ? Omit<M, 'v'>
    : never
  : never;

export type LauncherEvent = Extract<
  Untimed<ArbiterEvent>,
  { type: 'asked' | 'holding' | 'started' | 'ready' | 'exited' | 'launcher-ending' }
>;

/** GPUs of one pod, at most: what one node can hold. */
const uuidsMax = 64;
/** Longest end of an engine's output that is kept, characters. */
const tailCharactersMax = 8 * 1024;

type Fields = Record<string, unknown>;
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isText = (value: unknown): value is string => typeof value === 'string';

/** What ask and holding share; a sentence when a field is wrong. */
function wish(fields: Fields, podUid: string) {
  const { uuids, bytes, restarts } = fields;
  if (fields.podUid !== podUid)
    return 'podUid is not the UID of this directory: it must be the pod that dials';
  if (!Array.isArray(uuids) || uuids.length > uuidsMax || !uuids.every(isText))
    return `uuids must be a list of at most ${uuidsMax} GPU UUIDs`;
  if (!isCount(bytes)) return 'bytes must be a whole number of bytes';
  if (!isCount(restarts)) return 'restarts must be a whole number';
  return { podUid, uuids: uuids as string[], bytes, restarts };
}

/**
 * @param podUid of the directory that the line came through
 * @returns the event; null for a type of a later release; a sentence naming the field for a line that makes no sense
 */
export function readLauncherLine(line: string, podUid: string): LauncherEvent | null | string {
  let fields: Fields;
  try {
    fields = JSON.parse(line) as Fields;
  } catch {
    return 'the line is not JSON';
  }
  if (typeof fields !== 'object' || fields === null) return 'the line is not a JSON object';
  if (!isCount(fields.v) || fields.v < grantProtocol)
    return `v must be a protocol version from ${grantProtocol} on`;
  switch (fields.type) {
    case 'ask': {
      const asked = wish(fields, podUid);
      return isText(asked) ? asked : { type: 'asked', ...asked };
    }
    case 'holding': {
      const held = wish(fields, podUid);
      if (isText(held)) return held;
      if (!isText(fields.id)) return 'id must be the id of the grant';
      return { type: 'holding', ...held, grant: fields.id, ready: fields.ready === true };
    }
    case 'started':
      return { type: 'started', podUid };
    case 'ready':
      return { type: 'ready', podUid };
    case 'exited':
      return {
        type: 'exited',
        podUid,
        code: Number.isInteger(fields.code) ? (fields.code as number) : null,
        signal: isText(fields.signal) ? fields.signal : null,
        tail: isText(fields.tail) ? fields.tail.slice(-tailCharactersMax) : '',
      };
    case 'ending':
      return { type: 'launcher-ending', podUid };
    default:
      return null;
  }
}
