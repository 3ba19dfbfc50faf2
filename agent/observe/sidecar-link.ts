/** The agent's end of link.proto for one pod: what its sidecar says becomes events, what it must hear is sent. */

import type { Socket } from 'node:net';
import { Server, ServerCredentials, type ServerDuplexStream, status } from '@grpc/grpc-js';
import type { Log } from '#platform/log.ts';
import {
  type FromAgent,
  type FromSidecar,
  type Hello,
  linkMessageBytesMax,
  linkProtocol,
  linkService,
} from '#proto/link.ts';
import type { ArbiterEvent } from '../decide/arbiter/words.ts';
import type { Untimed } from '../decide/launcher-line.ts';
import { messageRate } from './message-rate.ts';

/** A stream that does not begin with a hello within this is ended, ms. */
const helloTimeoutMs = 5_000;
/** A sidecar that does not read is cut off with this many messages unsent; it dials anew and hears what holds then. */
const unsentMessagesMax = 256;
/** Messages in one second from one sidecar; its own limit is a few. */
const messagesPerSecondMax = 500;
/** A stopped or hung sidecar is noticed after both, ms. */
const keepaliveMs = { time: 10_000, timeout: 10_000 };

export type LinkEvent = Extract<
  Untimed<ArbiterEvent>,
  { type: 'attached' | 'detached' | 'demand' | 'barrier-up' | 'sidecar-ending' }
>;

export interface SidecarLink {
  /** A connection of the pod's agent.sock. */
  accept(socket: Socket): void;
  /** @returns false when no sidecar is attached */
  send(message: FromAgent): boolean;
  attached(): boolean;
  close(): void;
}

export interface LinkOptions {
  release: string;
  /** The sidecar is to hold back what its engine answers after a wake, until it is told that it serves. */
  holdsBack: boolean;
}

type Call = ServerDuplexStream<FromSidecar, FromAgent>;

const serverOptions = {
  'grpc.max_receive_message_length': linkMessageBytesMax,
  'grpc.max_send_message_length': linkMessageBytesMax,
  'grpc.max_concurrent_streams': 2,
  'grpc.keepalive_time_ms': keepaliveMs.time,
  'grpc.keepalive_timeout_ms': keepaliveMs.timeout,
};

/** Why a hello is not taken; null when it is. */
function helloFault(hello: Hello, podUid: string): { code: status; details: string } | null {
  // Neighbouring releases differ by one at most.
  if (Math.abs(hello.protocol - linkProtocol) > 1 || hello.protocol < 1) {
    const details = `protocol ${hello.protocol} is not understood, this agent speaks ${linkProtocol}: upgrade the older of the two`;
    return { code: status.FAILED_PRECONDITION, details };
  }
  if (hello.podUid !== podUid) {
    const details = 'pod_uid is not the UID of this directory: set POD_UID by fieldRef metadata.uid';
    return { code: status.PERMISSION_DENIED, details };
  }
  return null;
}

/** The event a message after the hello stands for; null for one of a later release. */
function linkEvent(message: FromSidecar, podUid: string): LinkEvent | null {
  if (message.demand) return { type: 'demand', podUid, demand: message.demand };
  if (message.barrierUp) return { type: 'barrier-up', podUid, barrier: message.barrierUp };
  if (message.ending) return { type: 'sidecar-ending', podUid, drained: message.ending.drained };
  return null;
}

/** Serves one pod. Of several streams the newest holds: a sidecar that restarts is not kept out by its own past. */
export function createSidecarLink(
  podUid: string,
  { release, holdsBack }: LinkOptions,
  emit: (event: LinkEvent) => void,
  log: Log,
): SidecarLink {
  let current: Call | null = null;
  const sockets = new Set<Socket>();

  const refuse = (call: Call, code: status, details: string): void => {
    log.warn('a sidecar was refused', { podUid, reason: details });
    call.emit('error', { code, details });
  };

  const ended = (call: Call): void => {
    if (current !== call) return;
    current = null;
    emit({ type: 'detached', podUid });
  };

  const welcome = (call: Call, hello: Hello): void => {
    const before = current;
    current = call;
    before?.end();
    call.write({ welcome: { protocol: linkProtocol, release, holdsBack } });
    emit({ type: 'attached', hello });
  };

  /** Whether the stream may go on after its first message. */
  const greet = (call: Call, { hello }: FromSidecar): boolean => {
    const missing = { code: status.FAILED_PRECONDITION, details: 'the first message must be a hello' };
    const fault = hello ? helloFault(hello, podUid) : missing;
    if (fault || !hello) refuse(call, fault!.code, fault!.details);
    else welcome(call, hello);
    return !fault;
  };

  const attach = (call: Call): void => {
    let greeted = false;
    const withinRate = messageRate(messagesPerSecondMax);
    const timer = setTimeout(() => refuse(call, status.DEADLINE_EXCEEDED, 'no hello came'), helloTimeoutMs);
    call.on('data', (message: FromSidecar) => {
      if (!withinRate()) {
        ended(call);
        refuse(call, status.RESOURCE_EXHAUSTED, `more than ${messagesPerSecondMax} messages in a second`);
      } else if (greeted) {
        const event = current === call ? linkEvent(message, podUid) : null;
        if (event) emit(event);
      } else {
        clearTimeout(timer);
        greeted = greet(call, message);
      }
    });
    const over = (): void => {
      clearTimeout(timer);
      ended(call);
    };
    call.on('end', () => {
      over();
      call.end();
    });
    call.on('error', over);
    call.on('cancelled', over);
    call.on('close', over);
  };

  const server = new Server(serverOptions);
  server.addService(linkService, { attach });
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());

  return {
    accept(socket) {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      socket.on('error', () => socket.destroy());
      injector.injectConnection(socket);
    },
    send(message) {
      const call = current;
      if (!call) return false;
      if (call.writableLength > unsentMessagesMax) {
        ended(call);
        refuse(call, status.RESOURCE_EXHAUSTED, 'what was sent is not read');
        return false;
      }
      call.write(message);
      return true;
    },
    attached: () => current !== null,
    close() {
      current = null;
      injector.destroy();
      server.forceShutdown();
      for (const socket of sockets) socket.destroy();
    },
  };
}
