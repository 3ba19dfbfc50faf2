/**
 * Weights into the node's memory: looks at pods, disk, pool and memory, lets decide/staging say what to do, and does it.
 * Nothing is kept: an agent that was killed finds all in the pool's folders and in the pods.
 */
import type { Registry } from 'prom-client';
import { errorText, type Log } from '#platform/log.ts';
import { formatGiB } from '#platform/quantity.ts';
import type { ArbiterEffect, ArbiterEvent } from './decide/arbiter/words.ts';
import type { Untimed } from './decide/launcher-line.ts';
import type { PodObject } from './decide/resource-facts.ts';
import { makesWay } from './decide/staging/boots.ts';
import type { Lost } from './decide/staging/lost-files.ts';
import { figuresOf, inUse, planStaging, refusalsToTell } from './decide/staging/plan.ts';
import { parseWeights } from './decide/staging/weights-name.ts';
import type {
  BootRoom,
  Failure,
  Form,
  HostMemory,
  PoolListing,
  Refusal,
  StagingFacts,
  ToStage,
} from './decide/staging/words.ts';
import { createLostFiles } from './lost-files.ts';
import { createPoolMetrics, type PoolMetrics } from './metrics/pool.ts';
import { hostMemory } from './observe/pool/host-memory.ts';
import { lookAtForm } from './observe/pool/weights-form.ts';
import { createPool, type Pool } from './pool.ts';
import { createStagingPods, type StagingPods } from './staging-pods.ts';
import { createStager, type Ended, type Stager } from './staging-run.ts';

/** Pool, memory and files that are not there yet are looked at this often, ms. */
const lookMs = 2_000;
/** A staging of fewer bytes says nothing of the disk's speed. */
const measuredBytesMin = 64 * 1024 * 1024;
/** Failures that are remembered; the oldest is forgotten first. */
const failuresMax = 64;

type Explain = Extract<ArbiterEffect, { type: 'explain' }>;

export interface StagingParts {
  poolDir: string;
  modelsDir: string;
  /** The chart's bound of the pool; null: the agent's own. */
  poolBytes: number | null;
  /** Of a pod: it may be alive. */
  alive(podUid: string): boolean;
  explain(effect: Explain): void;
  /** Pods that are to boot yet and need host memory; whenever that is another than before. */
  onBoots(boots: BootRoom[]): void;
  /** Files that pods load are lost, or are there again. */
  onLost(): void;
  registry: Registry;
  log: Log;
  nowMs(): number;
}

export interface Staging {
  /** What the API server lists, whole. */
  listed(objects: readonly PodObject[]): void;
  heard(event: Untimed<ArbiterEvent>): void;
  /**
   * To be called before a grant goes to its launcher: makes room for its image, and a place for its weights. A loader that finds no place in
   * the pool reads from disk.
   */
  granted(podUid: string): void;
  /** Of the files that a pod loads: what the node's disk does not hold as it was published; null: nothing. */
  lost(podUid: string): Lost | null;
  /** Resolves when nothing is written any more. */
  close(): Promise<void>;
}

/** What ended, for people. */
function sentence({ what, outcome, tookMs }: Ended): string {
  const seconds = (tookMs / 1000).toFixed(1);
  switch (outcome.type) {
    case 'whole': {
      const cached = outcome.cached ? `; through the page cache: ${outcome.cached}` : '';
      return `${what.weights} is in host memory: ${formatGiB(outcome.readBytes, 2)} of ${formatGiB(outcome.bytes, 2)} read in ${seconds} s${cached}`;
    }
    case 'stopped':
      return `the staging of ${what.weights} stops at ${formatGiB(outcome.filledBytes, 2)} of ${formatGiB(what.bytes, 2)}: others come first, or nobody waits for it; it can go on from there`;
    case 'failed':
      return `${what.weights} is not staged: ${outcome.message}`;
  }
}

/** Says each refusal to each pod once, and again when it was over meanwhile. */
function createRefusals(explain: StagingParts['explain'], metrics: PoolMetrics) {
  let told = new Set<string>();
  return (refused: readonly Refusal[]): void => {
    const now = new Set<string>();
    for (const { podUids, reason, message } of refused) {
      const news = podUids.filter((podUid) => !told.has(`${podUid} ${reason}`));
      if (news.length > 0) metrics.refused(reason);
      for (const podUid of news) explain({ type: 'explain', podUid, reason, message, level: 'warn' });
      for (const podUid of podUids) now.add(`${podUid} ${reason}`);
    }
    told = now;
  };
}

/** Passes on what is another than before. */
function createBoots(onBoots: StagingParts['onBoots']) {
  let told = '[]';
  return (boots: BootRoom[]): void => {
    const text = JSON.stringify(boots);
    if (text === told) return;
    told = text;
    onBoots(boots);
  };
}

/** The forms on disk that pods load: asked for once, those that are missing again and again. */
function createForms(modelsDir: string, changed: () => void) {
  const forms = new Map<string, Form>();
  const asking = new Set<string>();
  const ask = async (weights: string): Promise<void> => {
    asking.add(weights);
    const form = await lookAtForm(modelsDir, parseWeights(weights)!);
    asking.delete(weights);
    const before = forms.get(weights);
    forms.set(weights, form);
    if (!before || 'bytes' in form) changed();
  };
  return {
    forms,
    look(wanted: ReadonlySet<string>): void {
      for (const weights of forms.keys()) if (!wanted.has(weights)) forms.delete(weights);
      for (const weights of wanted) {
        const form = forms.get(weights);
        if ((!form || !('bytes' in form)) && !asking.has(weights)) void ask(weights);
      }
    },
    /** It failed: what is on the disk may be another file now. */
    forget: (weights: string): void => void forms.delete(weights),
  };
}

/** What is remembered of stagings that ended, as long as this agent lives. */
interface Past {
  failures: Failure[];
  bytesPerSecond: number | null;
}

interface Rooms {
  pods: StagingPods;
  pool: Pool;
  stager: Stager;
  forms: ReturnType<typeof createForms>;
  past: Past;
}

/** What is being freed counts as free: nothing more is to go for want of it. */
function soonFree(found: HostMemory | null, listing: PoolListing, bytes: number) {
  const plus = (free: number | null): number | null => (free === null ? null : free + bytes);
  const host = found && {
    ...found,
    availableBytes: found.availableBytes + bytes,
    ownBytes: plus(found.ownBytes),
  };
  return { host, pool: { ...listing, freeBytes: plus(listing.freeBytes) } };
}

function factsOf(rooms: Rooms, listing: PoolListing, parts: StagingParts): StagingFacts {
  const { pods, stager, forms, past, pool } = rooms;
  return {
    nowMs: parts.nowMs(),
    pods: pods.pods(),
    forms: forms.forms,
    ...soonFree(hostMemory(), listing, pool.freeingBytes() ?? 0),
    boundBytes: parts.poolBytes,
    running: stager.running(),
    ...past,
  };
}

/** The listing after all that needs no plan was done. */
function tended({ pods, pool }: Rooms): PoolListing | null {
  const listing = pool.list();
  if (!listing) return null;
  const known = pods.pods();
  const hashOf = (podUid: string) => known?.find((pod) => pod.podUid === podUid)?.engineHash ?? null;
  const changed = [pool.tend(listing, hashOf), known !== null && pool.sweep(listing)];
  return changed.includes(true) ? pool.list() : listing;
}

/** Starts looking; what cannot be staged yet is tried again for ever. */
export function startStaging(parts: StagingParts): Staging {
  const { modelsDir, alive, explain, log, nowMs } = parts;
  const metrics = createPoolMetrics(parts.registry);
  const refusals = createRefusals(explain, metrics);
  const boots = createBoots(parts.onBoots);
  const rooms: Rooms = {
    pods: createStagingPods(nowMs, alive),
    pool: createPool({ ...parts, metrics, onFreed: replan }),
    stager: createStager({ ...parts, onEnded: ended }),
    forms: createForms(modelsDir, replan),
    past: { failures: [], bytesPerSecond: null },
  };
  const { pods, pool, stager, forms, past } = rooms;
  const lostFiles = createLostFiles({ modelsDir, nowMs, changed: onFiles });
  let closed = false;

  /** What was known of them holds no more. */
  function onFiles(path: string): void {
    if (closed) return;
    forms.forget(path);
    const key = parseWeights(path)?.key;
    past.failures = past.failures.filter((failure) => failure.key !== key || lostFiles.has(path));
    lookAtForms();
    parts.onLost();
  }

  function lookAtForms(): void {
    forms.look(new Set((pods.pods() ?? []).map(({ weights }) => weights)));
  }

  function fail({ key, weights }: ToStage): void {
    past.failures.push({ key, atMs: nowMs() });
    if (past.failures.length > failuresMax) past.failures.shift();
    forms.forget(weights);
  }

  function begin(what: ToStage): void {
    // Its room is not free yet; its loader waits, and the next look follows when it is.
    const isFree = pool.freeingBytes() === null;
    try {
      if (isFree) stager.begin(what);
      else pool.prepare(what);
    } catch (error) {
      log.warn('no place can be made in the pool', { weights: what.weights, error: errorText(error) });
      fail(what);
    }
  }

  /** A look that throws costs itself alone: the next one follows. */
  function guarded(look: () => void): void {
    try {
      look();
    } catch (error) {
      log.error('a look at the pool failed', { error: errorText(error) });
    }
  }

  function replan(): void {
    guarded(plan);
  }

  /** Its loader has not looked at anything yet. */
  function makeWay(podUid: string): void {
    const listing = pool.list();
    if (listing) makesWay(factsOf(rooms, listing, parts), podUid).forEach(pool.evict);
  }

  function plan(): void {
    if (closed) return;
    const listing = tended(rooms);
    // Without a pool engines keep what they have to themselves, as long as that lasts.
    if (!listing) return void boots([]);
    const facts = factsOf(rooms, listing, parts);
    const todo = planStaging(facts);
    if (todo.stop) stager.stop();
    todo.evict.forEach(pool.evict);
    todo.prepare.forEach(pool.prepare);
    pool.announce(todo.coming);
    for (const entry of listing.staged) if (todo.abandon.includes(entry.key)) pool.abandon(entry);
    refusals(refusalsToTell(todo, facts.pods ?? []));
    boots(todo.boots);
    if (todo.stage) begin(todo.stage);
    metrics.show(figuresOf(facts));
    pool.used(inUse(facts));
  }

  /** What a staging says of the form on disk. */
  function judge({ what: { weights }, outcome }: Ended): void {
    if (outcome.type === 'whole') lostFiles.sound(weights);
    if (outcome.type === 'failed' && outcome.kind === 'hash')
      void lostFiles.damaged(weights, outcome.message);
  }

  function ended(end: Ended): void {
    const { what, outcome, tookMs } = end;
    const read = outcome.type === 'failed' ? 0 : outcome.readBytes;
    metrics.ended(outcome.type, tookMs / 1000, read);
    if (read >= measuredBytesMin) past.bytesPerSecond = read / (tookMs / 1000);
    if (outcome.type === 'failed') fail(what);
    judge(end);
    const level = outcome.type === 'failed' ? 'warn' : 'info';
    if (outcome.type === 'stopped') log.info(sentence(end), { weights: what.weights });
    else {
      const reason = outcome.type === 'whole' ? 'Staged' : 'StagingFailed';
      const message = sentence(end);
      for (const podUid of what.podUids) explain({ type: 'explain', podUid, reason, message, level });
    }
    replan();
  }

  const look = setInterval(() => {
    void lostFiles.look();
    lookAtForms();
    replan();
  }, lookMs);

  return {
    listed(objects) {
      pods.listed(objects);
      lostFiles.listed(objects);
      lookAtForms();
      replan();
    },
    heard(event) {
      // The kubelet makes the folder for root alone; the engine that writes there starts after this.
      if (event.type === 'asked') pool.openPodFolder(event.podUid);
      if (pods.heard(event)) replan();
    },
    granted(podUid) {
      guarded(() => makeWay(podUid));
      if (pods.granted(podUid)) replan();
    },
    lost: (podUid) => lostFiles.of(podUid),
    async close() {
      closed = true;
      clearInterval(look);
      await stager.close();
    },
  };
}
