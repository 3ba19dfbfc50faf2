/** How requests may end: served, or left by their clients; any other end needs an injected trouble that explains it. */
import type { Client, Outcome } from './frontdoor.ts';
import type { SimPod } from './pod.ts';
import type { World } from './world.ts';

/** What sleepers keep is known within this, and models of one GPU grow within it. */
const spareBytes = 2 ** 30;
/** A sleeper's claim until it was measured. */
const residueUnmeasuredBytes = 1.5 * 2 ** 30;

/** Bytes on this GPU that no sleep of others gives back. */
function heldFastBytes(world: World, pod: SimPod, gpu: number): number {
  let bytes = world.gpus[gpu]!.strangerBytes;
  for (const other of world.pods) {
    if (other === pod || !other.model.gpus.includes(gpu)) continue;
    const held = other.engine?.bytes ?? 0;
    const asleep = other.engine?.condition === 'asleep' ? held : 0;
    const pinned = other.model.popular && other.model !== pod.model;
    bytes += pinned ? Math.max(held, other.model.reservedBytes) : Math.max(asleep, residueUnmeasuredBytes);
  }
  return bytes;
}

const canNeverFit = (world: World, pod: SimPod): boolean =>
  pod.model.gpus.some(
    (gpu) =>
      pod.model.reservedBytes + spareBytes > world.gpus[gpu]!.totalBytes - heldFastBytes(world, pod, gpu),
  );

const isOn = (gpus: Set<number>, pod: SimPod): boolean => pod.model.gpus.some((gpu) => gpus.has(gpu));

/** Whether something injected explains that clients are told FAILED for now. */
function mayFail(world: World, pod: SimPod): boolean {
  switch (pod.door?.gate.told.reason) {
    case 'EngineFailed':
      return pod.everStruck;
    case 'GpuUnusable':
      return isOn(world.gpusLost, pod);
    case 'StrangerHoldsMemory':
      return isOn(world.gpusStranged, pod);
    default:
      return false;
  }
}

/** Whether clients of this pod may be refused so. */
function mayRefuse(world: World, pod: SimPod, { refusal }: Client): boolean {
  switch (refusal) {
    case 'pod_ending':
      return pod.deleting;
    case 'model_unservable':
      return canNeverFit(world, pod);
    case 'model_failed':
      return mayFail(world, pod);
    case 'wait_timeout':
      return !world.plan.faultless;
    default:
      return false;
  }
}

/** A violation's text; null: it may end so. */
function wrongEnd(world: World, pod: SimPod, client: Client, outcome: Outcome): string | null {
  const which = `request ${client.id} to ${pod.uid} ended ${outcome}`;
  if (outcome === 'served' || outcome === 'left') return null;
  if (world.plan.faultless) return `${which} ${client.refusal} in a seed without faults`;
  if (outcome === 'engine-died' && !pod.isStruck && !pod.deleting)
    return `${which}, and nothing had befallen its engine`;
  if (outcome === 'refused' && !mayRefuse(world, pod, client))
    return `${which}: ${client.refusal} (${pod.door?.gate.told.reason}), and nothing explains it`;
  if (outcome === 'handed-on' && !pod.deleting) return `${which}, and its pod does not end`;
  return null;
}

/** A request has ended: once, and as it may. */
export function judgeEnd(world: World, pod: SimPod, client: Client, outcome: Outcome): void {
  if (client.outcome !== null)
    world.refuse('request', `request ${client.id} ended twice: ${client.outcome}, ${outcome}`);
  const wrong = wrongEnd(world, pod, client, outcome);
  if (wrong !== null) world.refuse('outcome', wrong);
}
