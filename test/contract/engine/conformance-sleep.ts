/** Conformance: sleep and wake. */
import { afterEach, describe, expect, it } from 'vitest';
import type { ChatStream } from '../engine-client.ts';
import { until } from '../gpu-node.ts';
import { answerOf, freezesStreams, isSleeping } from './conformance-frozen.ts';
import { bytesOff, greedy, type Subject } from './conformance-subject.ts';

/** More tokens than any of these tests waits for. */
const endless = { max_tokens: 1500, ...greedy };

export function sleeping(subject: () => Subject): void {
  const state = async (name: string): Promise<number> => {
    const { text } = await subject().engine.get('/metrics');
    return Number(text.match(new RegExp(`engine_sleep_state\\{.*sleep_state="${name}"\\} (.*)`))![1]);
  };
  const states = (): Promise<number[]> =>
    Promise.all(['awake', 'weights_offloaded', 'discard_all'].map(state));
  const streams = async (count: number): Promise<ChatStream[]> => {
    const { engine } = subject();
    const all = await Promise.all(Array.from({ length: count }, () => engine.stream('tell me', endless)));
    await until('tokens of each', () => all.every(({ ids }) => ids.length > 4));
    return all;
  };
  describe('asleep', () => {
    afterEach(async () => {
      const { engine } = subject();
      await engine.post('/sleep?level=0&mode=abort');
      await engine.post('/wake_up');
    });

    it.each([
      [1, [0, 1, 0]],
      [2, [0, 0, 1]],
    ])('gives its weights’ memory back at level %i and says so', async (level, gauges) => {
      const { engine, held, weightsBytes } = subject();
      const awake = await held();
      expect(await states()).toEqual([1, 0, 0]);
      expect(await engine.post(`/sleep?level=${level}&mode=keep`)).toEqual({
        status: 200,
        json: { status: 'sleeping', level },
      });
      expect(await held()).toBeLessThan(awake - weightsBytes + bytesOff);
      expect(await isSleeping(subject())).toBe(true);
      expect(await states()).toEqual(gauges);
      expect(await engine.post('/wake_up')).toEqual({ status: 200, json: { status: 'awake', tags: null } });
      expect(await held()).toBeGreaterThan(weightsBytes);
      expect(await isSleeping(subject())).toBe(false);
      expect(await states()).toEqual([1, 0, 0]);
      // Where level 2 lost the weights this reads them again; where they came back with the wake it changes nothing.
      if (level === 2) await engine.post('/collective_rpc', { method: 'reload_weights' });
    });

    it('answers after a wake what it answered before', async () => {
      const { engine } = subject();
      const before = await answerOf(subject());
      for (let round = 0; round < 3; round += 1) {
        await engine.post('/sleep?level=1&mode=keep');
        await engine.post('/wake_up');
        expect(await answerOf(subject())).toEqual(before);
      }
    });

    it('keeps streams, and goes on with them after the wake, token for token', () =>
      freezesStreams(subject(), 200));

    it('ends streams with abort, which is what /sleep does by itself', async () => {
      const { engine } = subject();
      const [stream] = await streams(1);
      expect((await engine.post('/sleep')).json).toEqual({ status: 'sleeping', level: 1 });
      await stream!.done;
      expect(stream!.finishReason).toBe('abort');
      const last = stream!.chunks.at(-1);
      expect(last.choices[0]).toMatchObject({ index: 0, finish_reason: 'abort', stop_reason: null });
      expect(last.choices[0].delta).toEqual({ content: expect.any(String) });
    });

    it('lets what runs finish with wait, and counts as asleep meanwhile', async () => {
      const { engine } = subject();
      const stream = await engine.stream('tell me', { ...endless, max_tokens: 120 });
      await until('tokens', () => stream.ids.length > 4);
      let slept = false;
      const sleep = engine.post('/sleep?level=1&mode=wait').then((answer) => {
        slept = true;
        return answer;
      });
      await until('asleep by its own word', () => isSleeping(subject()));
      const early = [slept, stream.finishReason];
      expect((await sleep).json).toEqual({ status: 'sleeping', level: 1 });
      await stream.done;
      expect(early).toEqual([false, null]);
      expect([stream.finishReason, stream.ids.length]).toEqual(['length', 120]);
    });

    it('never says awake between a sleep’s first effect and the wake', async () => {
      const { engine } = subject();
      await streams(2);
      const sleep = engine.post('/sleep?level=1&mode=keep');
      let done = false;
      void sleep.then(() => {
        done = true;
      });
      const said: boolean[] = [];
      while (!done) said.push(await isSleeping(subject()));
      for (let i = 0; i < 3; i += 1) said.push(await isSleeping(subject()));
      expect(said.slice(said.indexOf(true))).not.toContain(false);
      expect(said).toContain(true);
      expect(await state('weights_offloaded')).toBe(1);
    });

    it('sleeps once: a second sleep frees nothing, ends what was kept if it says abort, and the gauge tells its level', async () => {
      const { engine, held } = subject();
      const [stream] = await streams(1);
      await engine.post('/sleep?level=1&mode=keep');
      const asleep = await held();
      expect((await engine.post('/sleep?level=2&mode=keep')).json).toEqual({ status: 'sleeping', level: 2 });
      expect(stream!.finishReason).toBeNull();
      expect(Math.abs((await held()) - asleep)).toBeLessThan(bytesOff);
      expect(await states()).toEqual([0, 0, 1]);
      await engine.post('/sleep?level=1&mode=abort');
      await stream!.done;
      expect(stream!.finishReason).toBe('abort');
    });

    it('accepts requests and answers nothing until the wake; no gauge shows them', async () => {
      const { engine } = subject();
      await engine.post('/sleep?level=1&mode=keep');
      let answered = false;
      const pending = engine
        .post('/v1/completions', { prompt: 'x y z', max_tokens: 24, ...greedy })
        .then((answer) => {
          answered = true;
          return answer;
        });
      expect((await engine.post('/v1/completions', { model: 'no', prompt: 'x' })).status).toBe(404);
      expect((await engine.post('/tokenize', { prompt: 'hello' })).status).toBe(200);
      expect((await engine.get('/health')).status).toBe(200);
      expect((await engine.get('/v1/models')).status).toBe(200);
      const { text } = await engine.get('/metrics');
      expect(text).toMatch(/^vllm:num_requests_waiting\{.*\} 0\.0$/m);
      expect(text).toMatch(/^vllm:num_requests_running\{.*\} 0\.0$/m);
      expect(answered).toBe(false);
      await engine.post('/wake_up');
      expect((await pending).json.choices[0].token_ids).toEqual(await answerOf(subject()));
    });

    it('wakes by tags: weights first, then the cache; asleep until both are there', async () => {
      const { engine, held, weightsBytes } = subject();
      await engine.post('/sleep?level=1&mode=keep');
      const asleep = await held();
      const wake = async (tags: string) => (await engine.post(`/wake_up?tags=${tags}`)).json;
      expect(await wake('nonsense')).toEqual({ status: 'sleeping', tags: ['nonsense'] });
      expect(await wake('weights')).toEqual({ status: 'sleeping', tags: ['weights'] });
      expect(await held()).toBeGreaterThan(asleep + weightsBytes - bytesOff);
      expect(await isSleeping(subject())).toBe(true);
      expect(await states()).toEqual([0, 1, 0]);
      expect(await wake('weights')).toEqual({ status: 'sleeping', tags: ['weights'] });
      expect(await wake('kv_cache')).toEqual({ status: 'awake', tags: ['kv_cache'] });
      expect(await isSleeping(subject())).toBe(false);
      expect(await states()).toEqual([1, 0, 0]);
    });

    it('pauses at level 0 without giving memory back', async () => {
      const { engine, held } = subject();
      const before = await held();
      const [stream] = await streams(1);
      expect((await engine.post('/sleep?level=0&mode=keep')).json).toEqual({ status: 'sleeping', level: 0 });
      await engine.get('/health');
      const got = stream!.ids.length;
      expect(Math.abs((await held()) - before)).toBeLessThan(bytesOff);
      expect(await isSleeping(subject())).toBe(true);
      expect(await states()).toEqual([0, 0, 0]);
      expect(stream!.ids.length).toBe(got);
      expect((await engine.post('/wake_up?tags=scheduling')).json).toEqual({
        status: 'awake',
        tags: ['scheduling'],
      });
      await until('more tokens', () => stream!.ids.length > got);
      stream!.leave();
    });

    it('answers a wake of one that is awake', async () => {
      expect(await subject().engine.post('/wake_up')).toEqual({
        status: 200,
        json: { status: 'awake', tags: null },
      });
    });

    it('pauses and resumes', async () => {
      const { engine } = subject();
      expect((await engine.post('/pause?mode=keep')).json).toEqual({ status: 'paused' });
      expect(JSON.parse((await engine.get('/is_paused')).text)).toEqual({ is_paused: true });
      expect(await isSleeping(subject())).toBe(true);
      expect((await engine.post('/resume')).json).toEqual({ status: 'resumed' });
      expect(await isSleeping(subject())).toBe(false);
    });

    it('counts sleeps and wakes, and those under way', async () => {
      const { engine } = subject();
      await engine.post('/sleep?level=1&mode=keep');
      await engine.post('/wake_up');
      const { text } = await engine.get('/metrics');
      for (const operation of ['sleep', 'wake']) {
        const labels = `operation="${operation}"`;
        expect(text).toContain(`vllm:sleep_mode_operations_in_flight{${labels}} 0.0`);
        expect(text).toMatch(
          new RegExp(`^vllm:sleep_mode_operation_duration_seconds_count\\{${labels}\\} [1-9]`, 'm'),
        );
        expect(text).toMatch(
          new RegExp(
            `^vllm:sleep_mode_operation_duration_seconds_bucket\\{(?=.*le="600\\.0")(?=.*${labels})`,
            'm',
          ),
        );
      }
    });
  });
}
