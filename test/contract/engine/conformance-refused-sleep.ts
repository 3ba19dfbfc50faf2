/** Conformance: a sleep that the engine cannot carry out, and how it goes on. First of all, on an engine that has never slept. */
import { afterAll, describe, expect, it } from 'vitest';
import { answerOf, freezesStreams, isSleeping } from './conformance-frozen.ts';
import { bytesOff, type Subject } from './conformance-subject.ts';

export function refusingSleep(subject: () => Subject): void {
  describe('that cannot give its memory back', () => {
    afterAll(() => subject().letSleep());

    it.each([1, 2])('answers 500 to a sleep at level %i and holds all it had, paused', async (level) => {
      const { engine, held } = subject();
      const [before, answer] = [await held(), await answerOf(subject())];
      const { status, json } = await engine.post(`/sleep?level=${level}&mode=keep`);
      expect([status, json.error.code]).toEqual([500, 500]);
      expect(await held()).toBeGreaterThan(before - bytesOff);
      expect(await isSleeping(subject())).toBe(true);
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
      expect(await isSleeping(subject())).toBe(false);
      expect(await answerOf(subject())).toEqual(answer);
    });

    it('keeps streams frozen until a wake, and goes on with them token for token', () =>
      freezesStreams(subject(), 500));

    it('sleeps as soon as it can', async () => {
      const { engine, held, letSleep, weightsBytes } = subject();
      const [before, answer] = [await held(), await answerOf(subject())];
      expect((await engine.post('/sleep?level=1&mode=keep')).status).toBe(500);
      await engine.post('/wake_up');
      await letSleep();
      expect((await engine.post('/sleep?level=1&mode=keep')).status).toBe(200);
      expect(await held()).toBeLessThan(before - weightsBytes + bytesOff);
      await engine.post('/wake_up');
      expect(await answerOf(subject())).toEqual(answer);
    });
  });
}
