/** What a sidecar is told and a launcher waits for: said when it changes, and again to one that has just attached. */

import type { ModelState } from '#proto/link.ts';
import { stateReasons } from '#proto/reasons.ts';
import { bootObstacle, type Obstacle } from './boot.ts';
import { hasClients, wantsAwake } from './demand.ts';
import { forHostMemory } from './host-memory.ts';
import { awakeClaimBytes, isNeedKnown } from './ledger.ts';
import { isDue, type Replica, type Step } from './state.ts';
import { wakeCostMs } from './victims.ts';

interface Word {
  state: ModelState;
  reason: string;
  message: string;
  /** FAILED: when it may be tried again; null: final. */
  retryAtMs: number | null;
  expectedMs: number;
}

const word = (state: ModelState, reason = '', message = '', expectedMs = 0): Word => ({
  state,
  reason,
  message,
  retryAtMs: null,
  expectedMs,
});

function failed(step: Step, replica: Replica): Word | null {
  const { failure } = replica;
  if (!failure) return null;
  // Its clients may try again, and did: they wait for the next boot.
  if (failure.reason === 'EngineFailed' && hasClients(replica) && isDue(step, failure.retryAtMs ?? 0))
    return null;
  return { ...word('FAILED', failure.reason, failure.message), retryAtMs: failure.retryAtMs };
}

/** Most say one of these. */
const serves = word('SERVING');
const sleeps = word('SLEEPING');
const waits = word('PENDING', 'WaitsForRoom', 'it waits for room on its GPUs');

const restarts = (replica: Replica): Word =>
  word('PENDING', stateReasons.restarts, 'its engine is restarted', replica.bootMs ?? 0);

/** The state that holds for clients; null: what was told last holds on (a barrier, or nothing is known yet). */
function outward(step: Step, replica: Replica): Word | null {
  switch (replica.phase) {
    case 'absent':
    case 'asking': {
      const room = { reason: 'WaitsToBoot', message: 'its engine waits for room to boot' };
      const { reason, message } = forHostMemory(step.state, replica) ?? room;
      return failed(step, replica) ?? word('PENDING', reason, message, replica.bootMs ?? 0);
    }
    case 'booting':
      return word('WAKING', 'Boots', 'its engine boots', replica.bootMs ?? 0);
    case 'serving':
      return serves;
    case 'asleep':
      return failed(step, replica) ?? (wantsAwake(replica) ? waits : sleeps);
    case 'waking':
      return word('WAKING', '', '', Math.round(wakeCostMs(replica)));
    case 'proving':
      if (replica.mustRestart) return restarts(replica);
      // Found serving by a new agent: clients go on meanwhile.
      return replica.told.state === 'SERVING' ? null : word('WAKING', 'Proves', 'its answer is compared');
    case 'freeing':
      return replica.found ? word(wantsAwake(replica) ? 'PENDING' : 'SLEEPING') : null;
    case 'restarting':
      return restarts(replica);
    case 'draining':
    case 'sleeping':
    case 'checking':
      return null;
    default:
      return replica.phase satisfies never;
  }
}

/** The next decision, ms. */
const soonMs = 1;

/** What it takes awake on each of its GPUs; 0 where nothing is known yet. */
const vramBytesOf = (step: Step, replica: Replica): number[] =>
  replica.uuids.map((uuid) => {
    const gpu = step.state.gpus.get(uuid);
    return gpu && isNeedKnown(replica) ? awakeClaimBytes(replica, gpu) : 0;
  });

/** Whoever waits for its end may count from now on, and looks once more. */
function beginTurn(step: Step, replica: Replica): void {
  if (replica.turnTold) return;
  replica.turnTold = true;
  replica.becameServingAtMs = step.now;
  step.nextMs = Math.min(step.nextMs, step.now + soonMs);
}

function tellSidecar(step: Step, replica: Replica): void {
  if (!replica.attached) return;
  const now = outward(step, replica);
  if (now === null) return;
  if (now.state === 'SERVING') beginTurn(step, replica);
  const { told } = replica;
  const same =
    told.state === now.state &&
    told.bootReady === replica.bootReady &&
    told.retryAtMs === now.retryAtMs &&
    told.reason === now.reason;
  if (same && !replica.mustTell) return;
  const { state, reason, message, retryAtMs, expectedMs } = now;
  const { bootReady, podUid } = replica;
  replica.epoch++;
  replica.told = { state, bootReady, reason, message, retryAtMs };
  replica.mustTell = false;
  const retryAfterMs = retryAtMs === null ? 0 : Math.max(1_000, Math.round(retryAtMs - step.now));
  const { epoch } = replica;
  step.effects.push({
    type: 'tell',
    podUid,
    state: {
      epoch,
      state,
      bootReady,
      reason,
      message,
      retryAfterMs,
      expectedMs: Math.round(expectedMs),
      vramBytes: vramBytesOf(step, replica),
      gaveWay: replica.gaveWay,
      tookRoom: state === 'WAKING' && replica.tookRoom,
    },
  });
}

const forRoom: Obstacle = { reason: 'WaitsForRoom', message: 'no room on its GPUs yet' };

function tellLauncher(step: Step, replica: Replica): void {
  if (replica.phase !== 'asking' || replica.launcher !== 'connected') return;
  const { reason, message } =
    replica.failure?.reason === 'NeverFits' ? replica.failure : (bootObstacle(step, replica) ?? forRoom);
  if (replica.waitTold === reason) return;
  replica.waitTold = reason;
  step.effects.push({ type: 'wait', podUid: replica.podUid, reason, message });
}

export function tellAll(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    tellSidecar(step, replica);
    tellLauncher(step, replica);
  }
}
