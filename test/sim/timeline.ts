/** Events and effects as lines that a person reads. */
import type { ArbiterEffect } from '../../agent/decide/arbiter/arbiter.ts';
import type { PodEvent } from './pod.ts';

/** One line of the timeline. */
export function describe(thing: PodEvent | ArbiterEffect): string {
  const { type, ...rest } = thing as { type: string; [key: string]: unknown };
  if (type === 'measured') {
    const gpus = (
      rest.gpus as { uuid: string; usedBytes: number; foreignBytes: number; byPod: Record<string, number> }[]
    ).map(
      ({ uuid, usedBytes, foreignBytes, byPod }) =>
        `${uuid} used ${gib(usedBytes)}${foreignBytes > 0 ? ` strangers ${gib(foreignBytes)}` : ''} ${Object.entries(
          byPod,
        )
          .map(([pod, bytes]) => `${pod} ${gib(bytes)}`)
          .join(' ')}`,
    );
    return `measured since ${Math.round(rest.startedAtMs as number)}: ${gpus.join('; ')}`;
  }
  if (type === 'pods')
    return `pods ${(rest.pods as { podUid: string; deleting: boolean }[]).map(({ podUid, deleting }) => podUid + (deleting ? '†' : '')).join(' ')}`;
  if (type === 'gpu-resources')
    return `gpu-resources ${(rest.resources as { uuid: string; bindings: unknown[] }[]).map(({ uuid, bindings }) => `${uuid}:${bindings.length}`).join(' ')}`;
  if (type === 'attached') {
    const { podUid, state, epoch, demand } = rest.hello as {
      podUid: string;
      state: string;
      epoch: number;
      demand: object;
    };
    return `attached ${podUid} ${state} epoch ${epoch} ${JSON.stringify(demand)}`;
  }
  const { podUid = '', ...more } = rest;
  return `${type} ${podUid} ${JSON.stringify(more)}`.slice(0, 260);
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)}G`;
