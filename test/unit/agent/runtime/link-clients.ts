/** A sidecar and a launcher as the agent meets them: a real gRPC client and a real socket. */

import { connect, type Socket } from 'node:net';
import { type ClientDuplexStream, credentials, makeGenericClientConstructor } from '@grpc/grpc-js';
import { grantProtocol } from '#proto/grant.ts';
import { type FromAgent, type FromSidecar, type Hello, linkProtocol, linkService } from '#proto/link.ts';
import { afterwards } from './until.ts';

const LinkClient = makeGenericClientConstructor(linkService, 'Link');

export const noDemand = { inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 0 };

export const helloOf = (uid: string, given: Partial<Hello> = {}): Hello => ({
  protocol: linkProtocol,
  release: 'test',
  podUid: uid,
  pod: 'm-0-abc',
  namespace: 'default',
  model: 'm',
  replica: 0,
  gpuUuids: ['GPU-1'],
  settings: '{}',
  state: 'STATE_UNKNOWN',
  epoch: 0,
  bootReady: false,
  demand: noDemand,
  ...given,
});

export interface TestSidecar {
  heard: FromAgent[];
  /** The status it was ended with; null while it is open. */
  ended: () => { code: number; details: string } | null;
  say(message: FromSidecar): void;
  stream: ClientDuplexStream<FromSidecar, FromAgent>;
  close(): void;
}

export function dialAgent(socketPath: string): TestSidecar {
  const client = new LinkClient(`unix:${socketPath}`, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.default_authority': 'localhost',
  });
  const stream = (client as unknown as { attach(): ClientDuplexStream<FromSidecar, FromAgent> }).attach();
  const heard: FromAgent[] = [];
  let ended: { code: number; details: string } | null = null;
  stream.on('data', (message: FromAgent) => heard.push(message));
  stream.on('error', () => undefined);
  stream.on('status', ({ code, details }: { code: number; details: string }) => {
    ended = { code, details };
  });
  const close = () => {
    stream.cancel();
    client.close();
  };
  afterwards(close);
  return { heard, ended: () => ended, say: (message) => void stream.write(message), stream, close };
}

export interface TestLauncher {
  lines: Record<string, unknown>[];
  closed: () => boolean;
  say(line: Record<string, unknown>): void;
  raw(text: string): void;
  socket: Socket;
}

export function dialGrant(socketPath: string): TestLauncher {
  const socket = connect(socketPath);
  const lines: Record<string, unknown>[] = [];
  let rest = '';
  let closed = false;
  socket.on('data', (chunk) => {
    const parts = (rest + String(chunk)).split('\n');
    rest = parts.pop()!;
    lines.push(...parts.map((line) => JSON.parse(line) as Record<string, unknown>));
  });
  socket.on('error', () => undefined);
  socket.on('close', () => {
    closed = true;
  });
  afterwards(() => void socket.destroy());
  const raw = (text: string) => void socket.write(text);
  return {
    lines,
    closed: () => closed,
    say: (line) => raw(`${JSON.stringify({ v: grantProtocol, ...line })}\n`),
    raw,
    socket,
  };
}

export const ask = (uid: string, given: object = {}) => ({
  type: 'ask',
  podUid: uid,
  uuids: ['GPU-1'],
  bytes: 1_000,
  restarts: 0,
  ...given,
});
