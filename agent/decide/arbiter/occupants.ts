/** What the node sees on each GPU, for GPU.status and metrics. */
import type { GpuOccupant, OccupantState } from '#api/gpu.ts';
import { hasClients } from './demand.ts';
import { forHostMemory } from './host-memory.ts';
import { type ArbiterState, hasEngine, type Phase, type Replica } from './state.ts';

/** As in GPU.status, with times on the agent's clock. */
export type Occupant = Omit<GpuOccupant, 'becameServingAt'> & { becameServingAtMs?: number };

/** Longest message that the resource takes, characters. */
const messageCharactersMax = 1024;

const shown: Record<Phase, OccupantState> = {
  absent: 'waiting',
  asking: 'waiting',
  booting: 'booting',
  serving: 'serving',
  draining: 'draining',
  sleeping: 'sleeping',
  freeing: 'sleeping',
  asleep: 'asleep',
  waking: 'waking',
  proving: 'waking',
  checking: 'waking',
  restarting: 'waiting',
};

function stateOf(replica: Replica): OccupantState {
  if (replica.failure) return 'failed';
  if (replica.phase === 'asleep' && hasClients(replica)) return 'waiting';
  if (replica.phase === 'checking' && replica.wakeFailures === 0) return 'asleep';
  return shown[replica.phase];
}

function occupantOf(state: ArbiterState, replica: Replica): Occupant {
  const { namespace, model, pod, podUid, awakeBytes, residueBytes, failure, mustRestart } = replica;
  const failed = failure?.words ? `${failure.message}: ${failure.words}` : failure?.message;
  const wait = hasEngine(replica) ? null : forHostMemory(state, replica);
  const message = failed ?? mustRestart?.message ?? wait?.message;
  const serves = replica.phase === 'serving' || replica.phase === 'draining';
  return {
    namespace,
    model,
    replica: replica.replica,
    pod,
    podUid,
    state: stateOf(replica),
    ...(awakeBytes !== null && { awakeBytes }),
    ...(residueBytes !== null && { residueBytes }),
    popular: replica.popular,
    ...(serves && { becameServingAtMs: replica.becameServingAtMs }),
    served: replica.served,
    ...(message && { message: message.slice(0, messageCharactersMax) }),
  };
}

/** By GPU UUID, each list in the order of pod UIDs; replicas whose name is not known yet are left out. */
export function occupants(state: ArbiterState): Map<string, Occupant[]> {
  const byGpu = new Map<string, Occupant[]>([...state.gpus.keys()].map((uuid) => [uuid, []]));
  const sorted = [...state.replicas.values()]
    .filter((replica) => replica.key !== '')
    .sort((a, b) => (a.podUid < b.podUid ? -1 : 1));
  for (const replica of sorted) {
    const occupant = occupantOf(state, replica);
    for (const uuid of replica.uuids) byGpu.get(uuid)?.push(occupant);
  }
  return byGpu;
}
