/**
 * Room on each GPU. What is awake, waking or booting counts its reservation or what was measured, if that is more; a
 * sleeper what it leaves behind; everything else that the driver counts as used is a stranger's.
 */
import { headRoomBytes, residueUnmeasuredBytes, unheardMsMax } from './limits.ts';
import { type ArbiterState, type Gpu, isUnheard, type Replica } from './state.ts';

/** One GPU while a step plans. Bytes that are promised to an earlier waiter are not there for a later one. */
export interface Room {
  gpu: Gpu;
  capacityBytes: number;
  /** Claims of all replicas here and what strangers hold. */
  claimedBytes: number;
  promisedBytes: number;
  /** What draining and sleeping replicas will give back. */
  leavingBytes: number;
  /** What those that serve and are not popular could give back. */
  evictableBytes: number;
  /** Bytes of popular ones by replica key, whether they are up or only bound. */
  popular: Map<string, number>;
  /** Known residues of all that have an engine here. */
  residueBytes: number;
  serving: Replica[];
  booting: number;
  /** /sleep sent, bytes not at rest yet. */
  sleeping: number;
  waking: number;
  draining: number;
  /** Drained, and only waits for the others' transitions: nothing new starts here. */
  sleepDue: number;
  /** Awake, and asked the canary's question. */
  proving: number;
  /** Engines whose state is being asked. */
  checking: number;
  /** Engines that end, or that ended unmeasured: memory becomes free. */
  ending: number;
  /** An earlier waiter needs this GPU to become quiet: later ones start nothing. */
  closed: boolean;
  /** An earlier waiter waits for victims here: later ones take room that is left, nobody's place. */
  spoken: boolean;
}

/** What the GPU can hold: driver-reserved memory is in neither figure. */
export function capacityBytes(gpu: Gpu): number {
  if (gpu.freeBytes === null || gpu.usedBytes === null) return gpu.totalBytes;
  return Math.min(gpu.totalBytes, gpu.freeBytes + gpu.usedBytes);
}

/** Its need on all its GPUs is known, or was measured. One that has said no more than hello may need anything. */
export const isNeedKnown = (replica: Replica): boolean =>
  replica.awakeBytes !== null || replica.reservedBytes.every((bytes) => bytes !== null);

/** Bytes on the GPU at this place of its `uuids` while awake, as far as anybody has said: reserved or measured, whichever is more. */
const knownBytes = (replica: Replica, at: number): number =>
  Math.max(replica.reservedBytes[at] ?? 0, replica.awakeBytes ?? 0, replica.bytes[at] ?? 0);

/** The same; all of the GPU where nobody has said. */
export function awakeClaimBytes(replica: Replica, gpu: Gpu): number {
  const at = replica.uuids.indexOf(gpu.uuid);
  const known = knownBytes(replica, at);
  const said = replica.awakeBytes ?? replica.reservedBytes[at] ?? null;
  return said === null ? Math.max(known, capacityBytes(gpu)) : known;
}

/** Awake on the GPU that has most, by whoever says more: how long its calls may take depends on it (`agent/decide/engine-times.ts`). */
export const callBytes = (replica: Replica): number =>
  Math.max(
    replica.awakeBytes ?? 0,
    replica.vramBytes ?? 0,
    replica.askedBytes,
    ...replica.reservedBytes.map((bytes) => bytes ?? 0),
  );

/** The same with head room over what was measured. */
export function awakeNeedBytes(replica: Replica, gpu: Gpu): number {
  const claim = awakeClaimBytes(replica, gpu);
  return replica.awakeBytes === null ? claim : Math.max(claim, replica.awakeBytes + headRoomBytes);
}

/** What must be free for a boot: the engine takes what it was told to, whatever was measured before. */
export function bootNeedBytes(replica: Replica, gpu: Gpu): number {
  return Math.max(replica.askedBytes, awakeClaimBytes(replica, gpu));
}

export const sleeperBytes = (replica: Replica): number => replica.residueBytes ?? residueUnmeasuredBytes;

/** What this replica counts on this GPU now. */
export function claimBytes(replica: Replica, gpu: Gpu): number {
  const measured = replica.bytes[replica.uuids.indexOf(gpu.uuid)] ?? 0;
  switch (replica.phase) {
    case 'absent':
    case 'asking': {
      // What holds memory without a word may be an engine that is still growing.
      const known = replica.proven && (replica.launcher !== 'never' || measured === 0);
      return known ? measured : Math.max(measured, awakeClaimBytes(replica, gpu));
    }
    case 'asleep':
      return Math.max(sleeperBytes(replica), measured);
    case 'booting':
      return bootNeedBytes(replica, gpu);
    default:
      return awakeNeedBytes(replica, gpu);
  }
}

/** What its sleep would give back here. */
export function givenBackBytes(replica: Replica, gpu: Gpu): number {
  return Math.max(0, awakeNeedBytes(replica, gpu) - sleeperBytes(replica));
}

function emptyRoom(gpu: Gpu): Room {
  return {
    gpu,
    capacityBytes: capacityBytes(gpu),
    claimedBytes: gpu.foreignBytes,
    promisedBytes: 0,
    leavingBytes: 0,
    evictableBytes: 0,
    popular: new Map(),
    residueBytes: 0,
    serving: [],
    booting: 0,
    sleeping: 0,
    waking: 0,
    draining: 0,
    sleepDue: 0,
    proving: 0,
    checking: 0,
    ending: 0,
    closed: false,
    spoken: false,
  };
}

/**
 * From when on /sleep may be sent to one that drains: at once when it is drained, else when its time to drain is over, what runs
 * then being frozen. A last try waits for all that runs, if it is heard of at all.
 */
export function sleepDueMs(replica: Replica): number {
  const { inFlight, deadlineMs, last } = replica.leaving!;
  if (inFlight === 0) return 0;
  if (!last) return deadlineMs;
  return inFlight === null ? deadlineMs + unheardMsMax : Number.POSITIVE_INFINITY;
}

/** It is drained or its time to drain is over: what is left is to send /sleep. */
export const isSleepDue = (replica: Replica, now: number): boolean =>
  replica.phase === 'draining' && replica.leaving !== null && now >= sleepDueMs(replica);

function count(room: Room, replica: Replica, unheard: boolean, now: number): void {
  room.claimedBytes += claimBytes(replica, room.gpu);
  switch (replica.phase) {
    case 'serving':
      room.serving.push(replica);
      if (!replica.popular) room.evictableBytes += givenBackBytes(replica, room.gpu);
      return;
    case 'draining':
      room.draining++;
      if (isSleepDue(replica, now)) room.sleepDue++;
      room.leavingBytes += givenBackBytes(replica, room.gpu);
      return;
    case 'sleeping':
    case 'freeing':
      room.sleeping++;
      room.leavingBytes += givenBackBytes(replica, room.gpu);
      return;
    case 'booting':
      room.booting++;
      return;
    case 'waking':
      room.waking++;
      return;
    case 'proving':
      room.proving++;
      return;
    case 'checking':
      room.checking++;
      return;
    case 'restarting':
      room.ending++;
      room.leavingBytes += awakeNeedBytes(replica, room.gpu);
      return;
    case 'absent':
    case 'asking':
      if (unheard) room.booting++;
      if (replica.proven || unheard) return;
      room.ending++;
      room.leavingBytes += claimBytes(replica, room.gpu);
      return;
    case 'asleep':
      return;
    default:
      replica.phase satisfies never;
  }
}

/** The books of all GPUs at this moment. */
export function openBooks(state: ArbiterState): Map<string, Room> {
  const rooms = new Map<string, Room>();
  for (const gpu of state.gpus.values()) {
    const room = emptyRoom(gpu);
    rooms.set(gpu.uuid, room);
    for (const { namespace, model, replica, popular, reservedBytes } of gpu.bindings) {
      if (popular) room.popular.set(`${namespace}/${model}/${replica}`, reservedBytes);
    }
  }
  for (const replica of state.replicas.values()) {
    const unheard = isUnheard(state, replica);
    for (const uuid of replica.uuids) {
      const room = rooms.get(uuid);
      if (!room) continue;
      count(room, replica, unheard, state.nowMs);
      countLasting(room, replica);
    }
  }
  return rooms;
}

/**
 * What stays taken on this GPU whatever sleeps: pinned models, known residues. Strangers are not in it, nor what nobody has said
 * yet: a need that cannot be met beside this never can.
 */
function countLasting(room: Room, replica: Replica): void {
  if (replica.popular) {
    const bytes = knownBytes(replica, replica.uuids.indexOf(room.gpu.uuid));
    room.popular.set(replica.key, Math.max(bytes, room.popular.get(replica.key) ?? 0));
  } else if (replica.phase !== 'absent' && replica.phase !== 'asking') {
    room.residueBytes += replica.residueBytes ?? 0;
  }
}

/**
 * The most that can ever be free for this replica on this GPU, as things are: without popular ones and what sleepers are known
 * to leave behind. What strangers hold may go at any time.
 */
export function attainableBytes(replica: Replica, room: Room): number {
  let taken = room.residueBytes;
  for (const [key, bytes] of room.popular) if (key !== replica.key) taken += bytes;
  if (!replica.popular && replica.phase === 'asleep') taken -= replica.residueBytes ?? 0;
  return room.capacityBytes - taken;
}

/** One GPU's books for metrics and status; bytes. */
export interface LedgerView {
  uuid: string;
  capacityBytes: number;
  /** Held by awake, waking and booting replicas. */
  reservedBytes: number;
  residueBytes: number;
  foreignBytes: number;
  roomBytes: number;
}

/** The ledger of every GPU, as the next decision would see it. */
export function ledgerView(state: ArbiterState): LedgerView[] {
  return [...state.gpus.values()].map((gpu) => {
    let reserved = 0;
    let residue = 0;
    for (const replica of state.replicas.values()) {
      if (!replica.uuids.includes(gpu.uuid)) continue;
      if (replica.phase === 'asleep') residue += claimBytes(replica, gpu);
      else reserved += claimBytes(replica, gpu);
    }
    const capacity = capacityBytes(gpu);
    const roomBytes = capacity - reserved - residue - gpu.foreignBytes;
    return {
      uuid: gpu.uuid,
      capacityBytes: capacity,
      reservedBytes: reserved,
      residueBytes: residue,
      foreignBytes: gpu.foreignBytes,
      roomBytes,
    };
  });
}
