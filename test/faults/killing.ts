/** Carries out a plan's kills: each waits for its point of the timeline, then strikes. */
import { type Kill, killText, type Phase, type Plan } from './plan.ts';
import type { Timeline } from './timeline.ts';
import { phaseWords } from './words.ts';

/** How long phases take when nobody is killed, ms. */
export type Usual = Record<Phase, number>;

/**
 * `hit`: struck before the phase was over, or in the recovery it was meant for; `late`: after it; `nobody`: there was no such process at
 * that moment; `missed`: its point never came.
 */
export type Hit = 'hit' | 'late' | 'nobody' | 'missed';

export interface Fired {
  kill: Kill;
  hit: Hit;
  /** Of the timeline; null when it did not strike. */
  atMs: number | null;
}

export interface Killing {
  /** Waits for kills whose point has come, and gives up the others. */
  finish(): Promise<Fired[]>;
}

/** Longest wait for kills that are on their way, ms: those in a recovery are planned up to 20 s ahead. */
const finishMsMax = 60_000;

/**
 * @param strike kills now; false: there was nobody
 */
export function startKilling(
  { kills, kind }: Plan,
  timeline: Timeline,
  usual: Usual,
  strike: (kill: Kill) => boolean,
): Killing {
  const fired: Fired[] = kills.map((kill) => ({ kill, hit: 'missed', atMs: null }));
  const pending = new Set<Promise<void>>();
  let isOver = false;

  const fire = (index: number, isLate: () => boolean): void => {
    const entry = fired[index]!;
    const late = isLate();
    entry.atMs = timeline.nowMs();
    timeline.see('KILL', killText(entry.kill, kind));
    entry.hit = strike(entry.kill) ? (late ? 'late' : 'hit') : 'nobody';
    if (entry.hit !== 'hit') timeline.see('kill was', entry.hit);
    const next = kills[index + 1];
    if (next && 'afterMs' in next.when) plan(index + 1, next.when.afterMs, () => false);
  };
  function plan(index: number, afterMs: number, isLate: () => boolean): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    pending.add(promise);
    setTimeout(() => {
      if (!isOver) fire(index, isLate);
      pending.delete(promise);
      resolve();
    }, afterMs);
  }

  for (const [index, { when, model }] of kills.entries()) {
    if ('afterMs' in when) continue;
    const { begin, end } = phaseWords[when.phase](model);
    let begins = 0;
    timeline.on(begin, ({ atMs }) => {
      begins += 1;
      if (begins !== when.nth || isOver) return;
      const isLate = () => end.some((word) => timeline.times(word).some((at) => at > atMs));
      plan(index, when.share * usual[when.phase], isLate);
    });
  }
  return {
    async finish() {
      const timer = setTimeout(() => {
        isOver = true;
      }, finishMsMax);
      while (pending.size > 0) await Promise.all(pending);
      clearTimeout(timer);
      isOver = true;
      return fired;
    },
  };
}

/** The median time of each phase in a life without kills. @throws Error naming a phase that was not seen */
export function usualOf(timeline: Timeline, models: readonly ('red' | 'blue')[]): Usual {
  const took = (phase: Phase): number => {
    const all = models.flatMap((model) => {
      const { begin, end } = phaseWords[phase](model);
      const ends = end.flatMap((word) => timeline.times(word)).sort((a, b) => a - b);
      return timeline.times(begin).flatMap((at) => {
        const over = ends.find((time) => time > at);
        return over === undefined ? [] : [over - at];
      });
    });
    if (all.length === 0) throw new Error(`the life without kills had no ${phase}`);
    return all.sort((a, b) => a - b)[Math.floor(all.length / 2)]!;
  };
  return {
    fetch: took('fetch'),
    convert: took('convert'),
    stage: took('stage'),
    boot: took('boot'),
    serve: took('serve'),
    sleep: took('sleep'),
    wake: took('wake'),
  };
}
