/** What one pod's directory carries: both sockets that the agent serves, and the engine's that it drives. */
import { join } from 'node:path';
import type { Log } from '#platform/log.ts';
import { sockets } from '#proto/names.ts';
import { createCheckpoints } from './act/checkpoints.ts';
import { createEngine } from './act/engine.ts';
import { engineSocket } from './act/engine-socket.ts';
import { type SuspendableEngine, suspendable } from './act/suspend.ts';
import { createLauncherLink, type LauncherLink, type LauncherLinkEvent } from './observe/launcher-link.ts';
import { listenInPod, type PodSocket } from './observe/pod-socket.ts';
import {
  createSidecarLink,
  type LinkEvent,
  type LinkOptions,
  type SidecarLink,
} from './observe/sidecar-link.ts';

export interface PodChannel {
  sidecar: SidecarLink;
  launcher: LauncherLink;
  engine: SuspendableEngine;
  /** Puts back sockets that somebody removed. */
  ensure(): void;
  /** Nothing in the pod is ended by it. */
  close(): void;
}

/** @throws Error when a socket cannot be bound */
export function openPodChannel(
  podUid: string,
  directory: string,
  parts: LinkOptions & { emit(event: LinkEvent | LauncherLinkEvent): void; log: Log },
): PodChannel {
  const { emit, log } = parts;
  const sidecar = createSidecarLink(podUid, parts, emit, log);
  const checkpoints = createCheckpoints((message) => launcher.send(message));
  const launcher = createLauncherLink(podUid, emit, log, checkpoints.heard);
  const engine = suspendable(createEngine(engineSocket(join(directory, sockets.engine))), checkpoints);
  const listening: PodSocket[] = [];
  const close = (): void => {
    for (const socket of listening) socket.close();
    sidecar.close();
    launcher.close();
    engine.close();
  };
  try {
    listening.push(listenInPod(directory, sockets.agent, (socket) => sidecar.accept(socket), log));
    listening.push(listenInPod(directory, sockets.grant, (socket) => launcher.accept(socket), log));
  } catch (error) {
    close();
    throw error;
  }
  const ensure = (): void => {
    for (const socket of listening) socket.ensure();
  };
  return { sidecar, launcher, engine, ensure, close };
}
