/** The agent's end of grant.ts for one pod: one launcher, one JSON object a line. */
import type { Socket } from 'node:net';
import type { Log } from '#platform/log.ts';
import { grantLineBytesMax, grantProtocol } from '#proto/grant.ts';
import type { ArbiterEvent } from '../decide/arbiter/words.ts';
import { type CheckpointWord, readCheckpointWord } from '../decide/checkpoint-word.ts';
import {
  type LauncherEvent,
  type LauncherMessage,
  readLauncherLine,
  type Untimed,
} from '../decide/launcher-line.ts';
import { messageRate } from './message-rate.ts';

/** A connection that does not begin with ask or holding within this is closed, ms. */
const firstLineTimeoutMs = 5_000;
/** Lines in one second from one launcher; it says a handful in an engine's life. */
const linesPerSecondMax = 100;
/** A launcher that does not read is cut off with this much unsent, bytes; it dials anew and hears what holds then. */
const unsentBytesMax = 64 * 1024;

export type LauncherLinkEvent = LauncherEvent | Extract<Untimed<ArbiterEvent>, { type: 'launcher-gone' }>;

export interface LauncherLink {
  /** A connection of the pod's grant.sock. */
  accept(socket: Socket): void;
  /** @returns false when no launcher is there */
  send(message: LauncherMessage): boolean;
  connected(): boolean;
  close(): void;
}

/** Cuts a byte stream into lines; `line` is called for each, `tooLong` once when one is beyond the limit. */
function splitLines(socket: Socket, line: (text: string) => void, tooLong: () => void): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let end = rest.indexOf(10);
    while (end >= 0 && end <= grantLineBytesMax && !socket.destroyed) {
      line(rest.toString('utf8', 0, end));
      rest = rest.subarray(end + 1);
      end = rest.indexOf(10);
    }
    if (end > grantLineBytesMax || rest.length > grantLineBytesMax) tooLong();
  });
}

/**
 * Serves one pod. The newest connection that said ask or holding is the launcher; an older one is closed.
 * @param ofCheckpoints hears what its lines say of suspend and resume, before `emit` hears the line
 */
export function createLauncherLink(
  podUid: string,
  emit: (event: LauncherLinkEvent) => void,
  log: Log,
  ofCheckpoints: (word: CheckpointWord) => void,
): LauncherLink {
  let current: Socket | null = null;
  const sockets = new Set<Socket>();

  const hangUp = (socket: Socket, reason: string): void => {
    log.warn('a launcher was cut off', { podUid, reason });
    socket.destroy();
  };

  const take = (socket: Socket, event: LauncherEvent): void => {
    if (event.type === 'asked' || event.type === 'holding') {
      const before = current;
      current = socket;
      if (before && before !== socket) before.destroy();
    }
    if (current === socket) emit(event);
  };

  const hear = (socket: Socket, text: string): void => {
    const word = readCheckpointWord(text);
    if (word && (word.type === 'came' || current === socket)) ofCheckpoints(word);
  };

  return {
    accept(socket) {
      sockets.add(socket);
      let spoke = false;
      const withinRate = messageRate(linesPerSecondMax);
      const timer = setTimeout(() => hangUp(socket, 'neither ask nor holding came'), firstLineTimeoutMs);
      const onLine = (text: string): void => {
        if (!withinRate()) return void hangUp(socket, `more than ${linesPerSecondMax} lines in a second`);
        const event = readLauncherLine(text, podUid);
        if (event === null) return void hear(socket, text);
        if (typeof event === 'string') return void hangUp(socket, event);
        if (!spoke && event.type !== 'asked' && event.type !== 'holding')
          return void hangUp(socket, `the first line must be ask or holding, not ${event.type}`);
        spoke = true;
        clearTimeout(timer);
        hear(socket, text);
        take(socket, event);
      };
      splitLines(socket, onLine, () => hangUp(socket, `a line of more than ${grantLineBytesMax} bytes`));
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        clearTimeout(timer);
        sockets.delete(socket);
        if (current !== socket) return;
        current = null;
        ofCheckpoints({ type: 'gone' });
        emit({ type: 'launcher-gone', podUid });
      });
    },
    send(message) {
      const socket = current;
      if (!socket || socket.destroyed) return false;
      if (socket.writableLength > unsentBytesMax) {
        hangUp(socket, 'what was sent is not read');
        return false;
      }
      socket.write(`${JSON.stringify({ v: grantProtocol, ...message })}\n`);
      return true;
    },
    connected: () => current !== null,
    close() {
      current = null;
      for (const socket of sockets) socket.destroy();
    },
  };
}
