import { afterEach, describe, expect, it } from 'vitest';
import type { ArbiterEffect, ArbiterEvent } from '../../../../agent/decide/arbiter/words.ts';
import { createLoop } from '../../../../agent/loop.ts';
import { afterwards, cleanUp, keptLog, until } from './until.ts';

afterEach(cleanUp);

/** A loop whose decisions the test gives, and what came of them. */
function start(decide: (event: ArbiterEvent, begun: ArbiterEffect[]) => ArbiterEffect[]) {
  const heard: string[] = [];
  const done: string[] = [];
  const { log, lines } = keptLog();
  const loop = createLoop<string[]>({
    initial: heard,
    decide(state, event, effects) {
      state.push(event.type);
      effects.push(...decide(event, effects));
      return { state };
    },
    carryOut(effect) {
      done.push(effect.type);
      if (effect.type === 'measure') loop.post({ type: 'settled' });
      if (effect.type === 'remember') throw new Error('disk');
    },
    stepped: () => undefined,
    nowMs: () => performance.now(),
    log,
  });
  afterwards(() => loop.stop());
  return { loop, heard, done, lines };
}

describe('the loop', () => {
  it('finishes one event before the next, also when an effect causes it at once', () => {
    const { loop, heard, done } = start((event) =>
      event.type === 'tick' ? [{ type: 'measure' }, { type: 'ask-engine', podUid: 'p' }] : [],
    );
    loop.post({ type: 'tick' });
    expect(heard).toEqual(['tick', 'settled']);
    expect(done).toEqual(['measure', 'ask-engine']);
    expect(loop.handledAtMs()).not.toBeNull();
  });

  it('sends a tick when its timer is due, the newest timer alone', async () => {
    let dueMs = 0;
    const { loop, heard } = start((event) => {
      if (event.type !== 'settled') return [];
      dueMs = event.atMs + 20;
      return [
        { type: 'timer', atMs: event.atMs + 1 },
        { type: 'timer', atMs: dueMs },
      ];
    });
    loop.post({ type: 'settled' });
    await until('a tick', () => heard.length === 2);
    expect(performance.now()).toBeGreaterThanOrEqual(dueMs);
    expect(heard).toEqual(['settled', 'tick']);
  });

  it('takes a timer back', async () => {
    const { loop, heard } = start((event) => [
      { type: 'timer', atMs: event.type === 'settled' ? event.atMs + 5 : null },
    ]);
    loop.post({ type: 'settled' });
    loop.post({ type: 'detached', podUid: 'p' });
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(heard).toEqual(['settled', 'detached']);
  });

  it('goes on after a decision or an effect that throws, and says so', () => {
    const { loop, heard, done, lines } = start((event) => {
      if (event.type === 'settled') throw new Error('bug');
      return [
        { type: 'remember', podUid: 'p', awakeBytes: 1, residueBytes: null },
        { type: 'ask-engine', podUid: 'p' },
      ];
    });
    loop.post({ type: 'settled' });
    loop.post({ type: 'tick' });
    expect(heard).toEqual(['settled', 'tick']);
    expect(done).toEqual(['remember', 'ask-engine']);
    expect(lines.map(({ what }) => what)).toEqual(['decide settled', 'effect remember']);
  });

  it('carries out what was decided before a throw: the state knows of it already', () => {
    const { loop, done } = start((_, begun) => {
      begun.push({ type: 'ask-engine', podUid: 'p' });
      throw new Error('bug');
    });
    loop.post({ type: 'tick' });
    expect(done).toEqual(['ask-engine']);
  });

  it('bounds what effects may cause at once', () => {
    const { loop, heard, lines } = start((event) =>
      event.type === 'tick' ? Array(10_050).fill({ type: 'measure' }) : [],
    );
    loop.post({ type: 'tick' });
    expect(heard).toHaveLength(10_001);
    expect(lines).toHaveLength(50);
  });

  it('hears nothing after its end', () => {
    const { loop, heard } = start(() => []);
    loop.stop();
    loop.post({ type: 'tick' });
    expect(heard).toEqual([]);
  });
});
