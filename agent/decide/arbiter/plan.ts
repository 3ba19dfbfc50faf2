/** Goes through the waiters in order and starts what has room; where there is none, decides who makes it. */
import { formatGiB } from '#platform/quantity.ts';
import { bootObstacle, isMeasuredFree, startBoot } from './boot.ts';
import { explain, onGpus, seconds } from './explain.ts';
import { barelyBytes, isFoundHopeless, isHopeless } from './hopeless.ts';
import { hasHostMemory } from './host-memory.ts';
import {
  awakeNeedBytes,
  bootNeedBytes,
  claimBytes,
  givenBackBytes,
  isNeedKnown,
  openBooks,
  type Room,
} from './ledger.ts';
import type { Replica, Step } from './state.ts';
import { beginDrain, sendWake } from './transitions.ts';
import { type Candidate, type Choice, chooseVictims, isFailing, isLastTry, mayEnd } from './victims.ts';
import { type Waiter, waitersInOrder } from './waiting.ts';

type Books = Map<string, Room>;

const needBytes = (replica: Replica, room: Room): number =>
  replica.phase === 'asking' ? bootNeedBytes(replica, room.gpu) : awakeNeedBytes(replica, room.gpu);

/** Bytes that lack on each GPU; negative: so much is left over. */
function missingBytes(replica: Replica, rooms: Room[]): number[] {
  return rooms.map((room) => {
    const others =
      room.claimedBytes - claimBytes(replica, room.gpu) + room.promisedBytes - room.capacityBytes;
    const missing = others + needBytes(replica, room);
    const alone = room.serving.length + room.waking + room.proving + room.draining + room.booting === 0;
    return alone ? others + barelyBytes(replica, room) : missing;
  });
}

/** What comes free when as many occupants sleep as it takes for so many bytes: nobody leaves by half. */
function wholeOccupantsBytes(room: Room, bytes: number): number {
  let given = 0;
  for (const occupant of room.serving) {
    if (given >= bytes) break;
    if (!occupant.popular) given += givenBackBytes(occupant, room.gpu);
  }
  return given;
}

/** Holds for this waiter what it needs: what will be given back first, else what is free. */
function promise(replica: Replica, rooms: Room[], missing: number[]): void {
  for (const [at, room] of rooms.entries()) {
    const lacks = Math.max(0, missing[at]!);
    const leaving = Math.min(room.leavingBytes, lacks);
    const evictable = Math.min(room.evictableBytes, wholeOccupantsBytes(room, lacks - leaving));
    room.leavingBytes -= leaving;
    room.evictableBytes -= evictable;
    const more = needBytes(replica, room) - claimBytes(replica, room.gpu);
    room.promisedBytes += Math.max(0, more - leaving - evictable);
  }
}

function close(rooms: Room[]): void {
  for (const room of rooms) room.closed = true;
}

/** What its start changes in the books. */
function enterBooks(replica: Replica, rooms: Room[], before: number[]): void {
  for (const [at, room] of rooms.entries()) {
    room.claimedBytes += claimBytes(replica, room.gpu) - before[at]!;
    if (replica.phase === 'waking') room.waking++;
    else room.booting++;
  }
}

/** No engine's memory moves on this GPU, nor is about to. */
const isQuiet = (room: Room): boolean =>
  room.sleeping + room.waking + room.draining + room.booting + room.checking + room.ending === 0;

/** There is room: starts as soon as the GPUs' other transitions allow. */
function startWhenQuiet(step: Step, waiter: Waiter, rooms: Room[]): boolean {
  const { replica } = waiter;
  const wakes = replica.phase === 'asleep';
  if (wakes && rooms.some((room) => room.sleeping + room.sleepDue + room.checking > 0)) return false;
  const before = rooms.map((room) => claimBytes(replica, room.gpu));
  const gpus = rooms.map((room) => room.gpu);
  if (wakes) {
    const why = waiter.clients ? `waited ${seconds(step.now - waiter.sinceMs)}` : 'it is pinned';
    sendWake(step, replica);
    explain(step, replica, 'Wake', `${replica.model} wakes on ${onGpus(gpus)}: ${why}`);
  } else {
    if (!rooms.every(isQuiet) || !hasHostMemory(step.state, replica)) return false;
    if (!isMeasuredFree(step, replica, gpus)) return false;
    startBoot(step, replica, gpus);
  }
  enterBooks(replica, rooms, before);
  return true;
}

function sayVictim(
  step: Step,
  waiter: Waiter,
  victim: Candidate,
  from: { rooms: Room[]; candidates: number },
): void {
  const { rooms, candidates } = from;
  const need = Math.max(...rooms.map((room) => needBytes(waiter.replica, room)));
  const why = victim.busy
    ? `busy, awake for ${seconds(step.now - victim.replica.becameServingAtMs)}`
    : `idle ${seconds(victim.idleMs)}`;
  const act = waiter.replica.phase === 'asking' ? 'waited to boot for' : 'waited';
  const choice = candidates === 1 ? 'the only one that may go' : `cheapest of ${candidates}`;
  const where = onGpus(rooms.map((room) => room.gpu));
  const message = `${victim.replica.model} sleeps: ${waiter.replica.model} ${act} ${seconds(step.now - waiter.sinceMs)} for ${formatGiB(need)} on ${where}; ${why}, ${choice}`;
  explain(step, victim.replica, 'Preempted', message);
}

/** Where one waiter waits, among all books; and what it lacks on each of its GPUs. */
interface Place {
  rooms: Room[];
  books: Books;
  missing: number[];
}

function drainVictims(step: Step, waiter: Waiter, choice: Choice, { rooms, books }: Place): void {
  waiter.replica.roomMade = true;
  for (const victim of choice.victims) {
    sayVictim(step, waiter, victim, { rooms, candidates: choice.candidates });
    for (const uuid of victim.replica.uuids) {
      const room = books.get(uuid);
      if (!room) continue;
      const bytes = givenBackBytes(victim.replica, room.gpu);
      room.serving = room.serving.filter((other) => other !== victim.replica);
      room.evictableBytes = Math.max(0, room.evictableBytes - bytes);
      room.leavingBytes += bytes;
      room.draining++;
    }
    const last = isLastTry(victim.replica, waiter);
    const leaving = { for: waiter.replica.podUid, forced: victim.busy };
    beginDrain(step, victim.replica, last ? { ...leaving, last } : leaving);
  }
}

/** Where it waits. Null: a GPU of its own is not there, not usable or not measured, or its need is not known yet. */
function roomsOf(replica: Replica, books: Books): Room[] | null {
  const rooms: Room[] = [];
  for (const uuid of replica.uuids) {
    const room = books.get(uuid);
    if (!room?.gpu.listed || !room.gpu.usable || room.gpu.freeBytes === null) return null;
    rooms.push(room);
  }
  return rooms.length > 0 && isNeedKnown(replica) ? rooms : null;
}

/** What leaves already may do; else victims are chosen, unless an earlier waiter waits for its own on one of the GPUs. */
function makeRoom(step: Step, waiter: Waiter, place: Place): void {
  const { rooms, missing } = place;
  if (rooms.every((room, at) => missing[at]! <= room.leavingBytes)) return;
  const spoken = rooms.some((room) => room.spoken);
  const lacks = (): number[] => rooms.map((room, at) => missing[at]! - room.leavingBytes);
  const choice = spoken ? null : chooseVictims(step, waiter, rooms, lacks());
  if (choice) drainVictims(step, waiter, choice, place);
  else for (const room of rooms) room.spoken = true;
}

/** It boots for nobody, and there would be room only with that of an engine that serves and cannot sleep. */
function isKeptOut(waiter: Waiter, rooms: Room[], missing: number[]): boolean {
  if (mayEnd(waiter)) return false;
  return rooms.some((room, at) => {
    const failing = room.serving.filter((other) => !other.popular && isFailing(other));
    const theirs = failing.reduce((sum, other) => sum + givenBackBytes(other, room.gpu), 0);
    return theirs > 0 && missing[at]! > room.leavingBytes + room.evictableBytes - theirs;
  });
}

/**
 * One waiter:
 * 1. its GPUs are out of use → waits, holding nothing;
 * 2. it can never fit → failed, holding nothing;
 * 3. only an engine that cannot sleep could make its room, and nobody waits for it → waits, holding nothing;
 * 4. an engine boots there, or an earlier waiter needs quiet → waits; it holds room only once it has aged;
 * 5. there is room → starts, or waits for the transitions under way with its room promised;
 * 6. what leaves already will do → waits with that promised;
 * 7. a sufficient set of victims may go → they drain, and it comes first from now on;
 * 8. else it waits, with what others could give back counted for it; nobody behind it chooses victims on its GPUs.
 * A waiter that has aged lets nobody behind it start on its GPUs.
 */
function consider(step: Step, waiter: Waiter, books: Books): void {
  const { replica } = waiter;
  const rooms = roomsOf(replica, books);
  if (!rooms || isHopeless(step, replica, rooms)) return;
  const missing = missingBytes(replica, rooms);
  if (isKeptOut(waiter, rooms, missing)) return;
  if (!rooms.some((room) => room.booting > 0 || room.closed)) {
    const fits = missing.every((bytes) => bytes <= 0);
    if (fits && startWhenQuiet(step, waiter, rooms)) return;
    if (!fits) makeRoom(step, waiter, { rooms, books, missing });
    promise(replica, rooms, missing);
    // A boot needs quiet: nothing new begins there before it.
    if (fits && replica.phase === 'asking') close(rooms);
  }
  if (waiter.aged) close(rooms);
}

/** Clients that were refused are not heard again: one that nobody waits for is judged anew all the same. */
function judgeAgain(step: Step, waiters: Waiter[], books: Books): void {
  const waiting = new Set(waiters.map(({ replica }) => replica));
  for (const replica of step.state.replicas.values()) {
    if (!isFoundHopeless(replica) || waiting.has(replica)) continue;
    const rooms = roomsOf(replica, books);
    if (rooms) isHopeless(step, replica, rooms);
  }
}

export function plan(step: Step): void {
  const waiters = waitersInOrder(step, (replica) => bootObstacle(step, replica) === null);
  let failed = false;
  for (const replica of step.state.replicas.values()) failed ||= isFoundHopeless(replica);
  if (waiters.length === 0 && !failed) return;
  const books = openBooks(step.state);
  if (failed) judgeAgain(step, waiters, books);
  for (const waiter of waiters) consider(step, waiter, books);
}
