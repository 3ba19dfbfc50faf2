/**
 * Why something was done, for people: a log line always, a core/v1 Event on the pod when the API server is there. Events
 * are a courtesy: bounded, the same one not twice in a while, never waited for.
 */
import type { KubernetesClient } from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';
import { fieldManagers } from '#proto/names.ts';
import type { ArbiterEffect } from '../decide/arbiter/words.ts';

/** Events sent at once, and then one in each interval: a swarm of wakes must not load the API server, ms. */
const burstMax = 25;
const refillMs = 5_000;
/** The same reason on the same pod is not told again within this, ms; its text may differ in figures. */
const repeatMs = 60_000;
/** Events on their way at once. */
const inFlightMax = 4;
/** Remembered reasons; the oldest is forgotten first. */
const rememberedMax = 2_000;
/** Longest message of an Event, characters: events.k8s.io/v1 takes 1 KiB. */
const messageCharactersMax = 1_000;

export interface PodReference {
  podUid: string;
  pod: string;
  namespace: string;
  model: string;
}

export interface ReporterParts {
  node: string;
  /** What is known of a pod; null when neither API server nor sidecar spoke of it. */
  pod(podUid: string): PodReference | null;
  /** The API server lists it: what a sidecar says of itself names no place to write to. */
  isListed(podUid: string): boolean;
  /** null while there is no API server to speak to. */
  client(): KubernetesClient | null;
  log: Log;
  nowMs(): number;
}

type Explain = Extract<ArbiterEffect, { type: 'explain' }>;

/** A core/v1 Event's body. @param at wall clock */
export function eventObject(effect: Explain, pod: PodReference, node: string, at: Date): object {
  const timestamp = at.toISOString().replace(/\.\d+Z$/, 'Z');
  return {
    apiVersion: 'v1',
    kind: 'Event',
    metadata: { generateName: `${pod.pod.slice(0, 200)}.`, namespace: pod.namespace },
    involvedObject: {
      apiVersion: 'v1',
      kind: 'Pod',
      name: pod.pod,
      namespace: pod.namespace,
      uid: pod.podUid,
    },
    reason: effect.reason,
    message: effect.message.slice(0, messageCharactersMax),
    type: effect.level === 'warn' ? 'Warning' : 'Normal',
    source: { component: fieldManagers.agent, host: node },
    firstTimestamp: timestamp,
    lastTimestamp: timestamp,
    count: 1,
  };
}

/** @returns what carries out `explain` */
export function createReporter(parts: ReporterParts): (effect: Explain) => void {
  const { log, nowMs } = parts;
  /** Pod and reason, to when it was last told. */
  const told = new Map<string, number>();
  let tokens = burstMax;
  let refilledAtMs = nowMs();
  let inFlight = 0;
  let refused = false;

  /** Whether this one may be sent now. */
  const admit = (key: string): boolean => {
    const now = nowMs();
    const earned = Math.floor((now - refilledAtMs) / refillMs);
    tokens = Math.min(burstMax, tokens + earned);
    refilledAtMs += earned * refillMs;
    const before = told.get(key);
    if (inFlight >= inFlightMax || tokens < 1 || (before !== undefined && now - before < repeatMs))
      return false;
    tokens -= 1;
    told.delete(key);
    told.set(key, now);
    if (told.size > rememberedMax) told.delete(told.keys().next().value!);
    return true;
  };

  return (effect) => {
    const { podUid, reason, message, level } = effect;
    const pod = parts.pod(podUid);
    const fields = { reason, podUid, ...(pod && { model: `${pod.namespace}/${pod.model}`, pod: pod.pod }) };
    log[level](message, fields);
    const client = parts.client();
    if (!pod || !client || !parts.isListed(podUid) || !admit(`${podUid} ${reason}`)) return;
    inFlight += 1;
    client
      .create(
        `/api/v1/namespaces/${encodeURIComponent(pod.namespace)}/events`,
        eventObject(effect, pod, parts.node, new Date()),
      )
      .then(() => {
        refused = false;
      })
      .catch((error: unknown) => {
        if (!refused) log.warn('an Event cannot be written', { error: errorText(error) });
        refused = true;
      })
      .finally(() => {
        inFlight -= 1;
      });
  };
}
