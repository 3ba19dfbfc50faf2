/** Conformance: a sleep that the engine cannot carry out, and how it goes on. First of all, on an engine that has never slept. */
import { afterAll, describe, expect, it } from 'vitest';
import { until } from '../gpu-node.ts';
import { bytesOff, greedy, type Subject } from './conformance-subject.ts';

const sixty = { max_tokens: 60, ...greedy };

export function refusingSleep(subject: () => Subject): void {
  const tokens = async (): Promise<number[]> =>
    (await subject().engine.post('/v1/completions', { prompt: 'x y z', max_tokens: 24, ...greedy })).json
      .choices[0].token_ids;
  const isSleeping = async (): Promise<boolean> =>
    JSON.parse((await subject().engine.get('/is_sleeping')).text).is_sleeping;

  describe('that cannot give its memory back', () => {
    afterAll(() => subject().letSleep());

    it.each([1, 2])('answers 500 to a sleep at level %i and holds all it had, paused', async (level) => {
      const { engine, held } = subject();
      const [before, answer] = [await held(), await tokens()];
      const { status, json } = await engine.post(`/sleep?level=${level}&mode=keep`);
      expect([status, json.error.code]).toEqual([500, 500]);
      expect(await held()).toBeGreaterThan(before - bytesOff);
      expect(await isSleeping()).toBe(true);
      // No sleep has come to its end: the gauge tells it from one that sleeps.
      const { text } = await engine.get('/metrics');
      for (const [state, value] of [
        ['awake', '1.0'],
        ['weights_offloaded', '0.0'],
        ['discard_all', '0.0'],
      ])
        expect(text).toMatch(new RegExp(`engine_sleep_state\\{.*sleep_state="${state}"\\} ${value}$`, 'm'));
      expect((await engine.get('/health')).status).toBe(200);
      expect((await engine.post(`/sleep?level=${level}&mode=keep`)).status).toBe(500);
      // Weights can be read again while nothing runs.
      if (level === 2)
        expect((await engine.post('/collective_rpc', { method: 'reload_weights' })).status).toBe(200);
      expect(await engine.post('/wake_up')).toEqual({ status: 200, json: { status: 'awake', tags: null } });
      expect(await isSleeping()).toBe(false);
      expect(await tokens()).toEqual(answer);
    });

    it('keeps streams frozen until a wake, and goes on with them token for token', async () => {
      const { engine } = subject();
      const undisturbed = await engine.stream('tell me', sixty);
      await undisturbed.done;
      const kept = await Promise.all([1, 2, 3].map(() => engine.stream('tell me', sixty)));
      await until('tokens', () => kept.every(({ ids }) => ids.length > 4));
      expect((await engine.post('/sleep?level=1&mode=keep')).status).toBe(500);
      await engine.get('/health');
      const got = kept.map(({ ids }) => ids.length);
      expect(Math.max(...got)).toBeLessThan(60);
      await engine.get('/metrics');
      expect(kept.map(({ ids }) => ids.length)).toEqual(got);
      await engine.post('/wake_up');
      await Promise.all(kept.map(({ done }) => done));
      for (const { ids, finishReason } of kept) {
        expect(ids).toEqual(undisturbed.ids);
        expect(finishReason).toBe('length');
      }
    });

    it('sleeps as soon as it can', async () => {
      const { engine, held, letSleep, weightsBytes } = subject();
      const [before, answer] = [await held(), await tokens()];
      expect((await engine.post('/sleep?level=1&mode=keep')).status).toBe(500);
      await engine.post('/wake_up');
      await letSleep();
      expect((await engine.post('/sleep?level=1&mode=keep')).status).toBe(200);
      expect(await held()).toBeLessThan(before - weightsBytes + bytesOff);
      await engine.post('/wake_up');
      expect(await tokens()).toEqual(answer);
    });
  });
}
