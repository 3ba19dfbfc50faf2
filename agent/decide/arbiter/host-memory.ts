/** Boots that wait for host memory: staging keeps those books (`decide/staging/boots.ts`), the arbiter keeps to them. */
import type { Obstacle } from './boot.ts';
import { type ArbiterState, hasEngine, type Replica, type Step } from './state.ts';
import type { ArbiterEvent } from './words.ts';

export function onHostMemory(step: Step, event: ArbiterEvent & { type: 'host-memory' }): void {
  step.state.hostMemory = new Map(event.boots.map((boot) => [boot.podUid, boot]));
  step.changed = true;
}

/** It waits until staging says otherwise; null: it does not. */
export function forHostMemory({ hostMemory }: ArbiterState, { podUid }: Replica): Obstacle | null {
  return hostMemory.get(podUid)?.held ?? null;
}

/** There is host memory for this boot as well as for those granted since staging last spoke: it judges each as the next one. */
export function hasHostMemory({ hostMemory, replicas }: ArbiterState, { podUid }: Replica): boolean {
  const own = hostMemory.get(podUid);
  if (!own) return true;
  let takenBytes = 0;
  for (const boot of hostMemory.values()) {
    const other = replicas.get(boot.podUid);
    if (other && hasEngine(other)) takenBytes += boot.needBytes;
  }
  return own.needBytes + takenBytes <= own.freeBytes;
}
