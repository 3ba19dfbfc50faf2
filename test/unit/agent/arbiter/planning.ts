/** Replicas for tests of one planning, and the planning itself. */
import { plan } from '../../../../agent/decide/arbiter/plan.ts';
import type { Gpu, Replica } from '../../../../agent/decide/arbiter/state.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

export const now = 100_000;
export const busy = { inFlight: 1, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 1 };

/** Sleeps, and a client has waited for so long; needs so many GiB, keeps half a GiB. */
export const waits = (name: string, gib: number, waitedMs = 1_000, rest: Partial<Replica> = {}): Replica =>
  replica(name, {
    phase: 'asleep',
    reservedBytes: (rest.uuids ?? ['GPU-0']).map(() => gib * GiB),
    residueBytes: 0.5 * GiB,
    demand: { ...busy, inFlight: 0, queued: 1, oldestWaitMs: waitedMs },
    demandAtMs: now,
    stoppedAtMs: 0,
    ...rest,
  });

/** Serves, idle for long, and gives back so many GiB. */
export const idle = (name: string, gib: number, rest: Partial<Replica> = {}): Replica =>
  replica(name, {
    reservedBytes: (rest.uuids ?? ['GPU-0']).map(() => (gib + 0.5) * GiB),
    residueBytes: 0.5 * GiB,
    ...rest,
  });
export const inTurn = { demand: busy, becameServingAtMs: now - 1 };

/** Its launcher asks, bound, with so many GiB. */
export const asks = (name: string, gib: number, rest: Partial<Replica> = {}): Replica =>
  replica(name, {
    phase: 'asking',
    askedUuids: ['GPU-0'],
    reservedBytes: [gib * GiB],
    askedAtMs: now - 1_000,
    ...rest,
  });

/** @returns each replica's phase after one planning, and what was said */
export function run(replicas: Replica[], on: Partial<Gpu>[] = [{}]) {
  const gpus = on.map((rest, index) => gpu({ uuid: `GPU-${index}`, index, measuredAtMs: now, ...rest }));
  const state = stateOf(gpus, replicas, now);
  state.settledAtMs = -60_000;
  for (const [at, one] of replicas.entries()) one.order = at;
  const step = stepOf(state);
  plan(step);
  const said = step.effects.flatMap((effect) => (effect.type === 'explain' ? [effect.message] : []));
  const phases = Object.fromEntries(replicas.map(({ podUid, phase }) => [podUid, phase]));
  return { step, phases, said };
}
