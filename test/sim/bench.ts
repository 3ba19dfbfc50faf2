/** How long one decision takes: 8 GPUs, 64 replicas, the events of a busy node. */

import type { Demand } from '#proto/link.ts';
import { linkProtocol } from '#proto/link.ts';
import { defaultSettings, formatSettings } from '#proto/settings.ts';
import { type ArbiterEvent, decide, initialState } from '../../agent/decide/arbiter/arbiter.ts';
import { randomFor } from './random.ts';
import { GiB } from './schedule.ts';

const gpuCount = 8;
const rounds = 30_000;
const warmUpRounds = 5_000;

interface Times {
  all: number[];
  byType: Map<string, number[]>;
}

const percentile = (sorted: number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!;

/** A node where every pod is up: those that fit are awake, the rest asleep. */
function readyNode(replicas: number) {
  const state = initialState({ startedAtMs: 0 });
  let now = 0;
  const send = (event: object): void => {
    for (const effect of decide(state, { atMs: now, ...event } as ArbiterEvent).effects) void effect;
  };
  const uuids = Array.from({ length: gpuCount }, (_, index) => `GPU-${index}`);
  const name = (at: number): string => `pod-${at}`;
  const gpusOf = (at: number): string[] =>
    at % 8 === 7 ? [uuids[at % gpuCount]!, uuids[(at + 1) % gpuCount]!] : [uuids[at % gpuCount]!];
  const awake = (at: number): boolean => at < gpuCount && at % 8 !== 7;
  const up = new Set<string>();
  for (let at = 0; at < replicas; at++) if (awake(at)) up.add(name(at));
  const base = (at: number) => ({ namespace: 'bench', model: `m${at}`, replica: 0 });
  const measured = (): object => ({
    type: 'measured',
    startedAtMs: now,
    gpus: uuids.map((uuid) => {
      const byPod: Record<string, number> = {};
      for (let at = 0; at < replicas; at++)
        if (gpusOf(at).includes(uuid)) byPod[name(at)] = up.has(name(at)) ? 60 * GiB : 0.5 * GiB;
      const usedBytes = Object.values(byPod).reduce((sum, one) => sum + one, 0);
      return {
        uuid,
        totalBytes: 80 * GiB,
        usedBytes,
        freeBytes: 80 * GiB - usedBytes,
        byPod,
        foreignBytes: 0,
      };
    }),
  });
  send({
    type: 'gpus',
    gpus: uuids.map((uuid, index) => ({ uuid, index, totalBytes: 80 * GiB, usable: true })),
  });
  const pods = Array.from({ length: replicas }, (_, at) => ({
    ...base(at),
    podUid: name(at),
    pod: name(at),
    uuids: gpusOf(at),
    vramBytes: 60 * GiB,
    engineHash: null,
    graceMs: null,
    settings: defaultSettings,
    deleting: false,
  }));
  send({ type: 'pods', pods });
  const bindings = (uuid: string) =>
    pods
      .filter((pod) => pod.uuids.includes(uuid))
      .map(({ namespace, model, replica }) => ({
        namespace,
        model,
        replica,
        reservedBytes: 60 * GiB,
        popular: false,
      }));
  send({ type: 'gpu-resources', resources: uuids.map((uuid) => ({ uuid, bindings: bindings(uuid) })) });
  const idle: Demand = { inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 60_000, requestsTotal: 1 };
  for (let at = 0; at < replicas; at++) {
    const hello = {
      protocol: linkProtocol,
      release: '',
      podUid: name(at),
      pod: name(at),
      namespace: 'bench',
      model: `m${at}`,
      replica: 0,
      gpuUuids: gpusOf(at),
      settings: formatSettings(defaultSettings),
      state: awake(at) ? 'SERVING' : 'SLEEPING',
      epoch: 1,
      bootReady: true,
      demand: idle,
    };
    send({ type: 'attached', hello });
    send({
      type: 'holding',
      podUid: name(at),
      uuids: gpusOf(at),
      bytes: 60 * GiB,
      restarts: 1,
      grant: 'g',
      ready: true,
    });
    send({ type: 'engine-state', podUid: name(at), state: awake(at) ? 'awake' : 'asleep' });
  }
  for (let round = 0; round < 6; round++) {
    now += 100;
    send(measured());
  }
  send({ type: 'settled' });
  return {
    state,
    name,
    up,
    measured,
    advance: (ms: number) => {
      now += ms;
    },
    now: () => now,
  };
}

function measureDecisions(replicas: number): Times {
  const random = randomFor(1, `bench ${replicas}`);
  const node = readyNode(replicas);
  const times: Times = { all: [], byType: new Map() };
  const pending: object[] = [];
  let epochs = 0;
  const answer = (effect: { type: string; podUid?: string; epoch?: number }): void => {
    const { podUid = '' } = effect;
    if (effect.type === 'sleep-engine') node.up.delete(podUid);
    if (effect.type === 'wake-engine') node.up.add(podUid);
    if (effect.type === 'barrier')
      pending.push({ type: 'barrier-up', podUid, barrier: { epoch: effect.epoch, inFlight: 0 } });
    if (effect.type === 'sleep-engine') pending.push({ type: 'slept', podUid, ok: true, message: '' });
    if (effect.type === 'wake-engine')
      pending.push({ type: 'woken', podUid, ok: true, message: '', tookMs: 400 });
    if (effect.type === 'ask-engine') pending.push({ type: 'engine-state', podUid, state: 'asleep' });
    if (effect.type === 'measure') pending.push({ type: 'measured' });
  };
  for (let round = 0; round < rounds; round++) {
    node.advance(random.between(0.1, 30));
    const event = (pending.shift() ??
      demandEvent(node.name(random.int(0, replicas - 1)), random, ++epochs)) as { type: string };
    const whole = {
      atMs: node.now(),
      ...(event.type === 'measured' ? node.measured() : event),
    } as ArbiterEvent;
    const started = process.hrtime.bigint();
    const { effects } = decide(node.state, whole);
    const took = Number(process.hrtime.bigint() - started) / 1_000;
    for (const effect of effects) answer(effect as { type: string });
    if (round < warmUpRounds) continue;
    times.all.push(took);
    const list = times.byType.get(whole.type);
    if (list) list.push(took);
    else times.byType.set(whole.type, [took]);
  }
  return times;
}

function demandEvent(podUid: string, random: ReturnType<typeof randomFor>, requestsTotal: number): object {
  const kind = random.int(0, 3);
  const inFlight = kind === 0 ? 1 : 0;
  const queued = kind === 1 ? 1 : 0;
  const demand: Demand = {
    inFlight,
    queued,
    oldestWaitMs: queued ? random.between(1, 20_000) : 0,
    idleMs: inFlight + queued ? 0 : 500,
    requestsTotal,
  };
  return { type: 'demand', podUid, demand };
}

/** Prints a line for each size, then one for each kind of event at 64 replicas; the last line is the result. */
export function bench(): void {
  let at64: Times | null = null;
  for (const replicas of [8, 16, 32, 64, 128, 256]) {
    const times = measureDecisions(replicas);
    times.all.sort((a, b) => a - b);
    const [p50, p99, max] = [percentile(times.all, 0.5), percentile(times.all, 0.99), times.all.at(-1)!];
    console.log(
      `${String(replicas).padStart(4)} replicas on ${gpuCount} GPUs: p50 ${p50.toFixed(1)} µs, p99 ${p99.toFixed(1)} µs, max ${max.toFixed(0)} µs`,
    );
    if (replicas === 64) at64 = times;
  }
  for (const [type, list] of at64!.byType) {
    list.sort((a, b) => a - b);
    console.log(
      `  ${type.padEnd(13)} ${String(list.length).padStart(6)} events: p50 ${percentile(list, 0.5).toFixed(1)} µs, p99 ${percentile(list, 0.99).toFixed(1)} µs`,
    );
  }
  console.log(
    `result: decide_us_p50=${percentile(at64!.all, 0.5).toFixed(1)} decide_us_p99=${percentile(at64!.all, 0.99).toFixed(1)}`,
  );
}
