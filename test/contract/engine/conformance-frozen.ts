/** Conformance: what both a sleep and a refused one do to streams, and what they are asked by. */
import { expect } from 'vitest';
import { until } from '../gpu-node.ts';
import { greedy, type Subject } from './conformance-subject.ts';

const sixty = { max_tokens: 60, ...greedy };

/** @returns ids of the tokens of an answer that does not depend on chance */
export const answerOf = async ({ engine }: Subject): Promise<number[]> =>
  (await engine.post('/v1/completions', { prompt: 'x y z', max_tokens: 24, ...greedy })).json.choices[0]
    .token_ids;

export const isSleeping = async ({ engine }: Subject): Promise<boolean> =>
  JSON.parse((await engine.get('/is_sleeping')).text).is_sleeping;

/** Three streams stand still from a sleep on that is answered so, and after a wake go on token for token. */
export async function freezesStreams({ engine }: Subject, sleepStatus: 200 | 500): Promise<void> {
  const undisturbed = await engine.stream('tell me', sixty);
  await undisturbed.done;
  const kept = await Promise.all([1, 2, 3].map(() => engine.stream('tell me', sixty)));
  await until('tokens', () => kept.every(({ ids }) => ids.length > 4));
  expect((await engine.post('/sleep?level=1&mode=keep')).status).toBe(sleepStatus);
  // What was sent before the answer may still be on its way here; /health comes behind it.
  await engine.get('/health');
  const got = kept.map(({ ids }) => ids.length);
  expect(Math.max(...got)).toBeLessThan(sixty.max_tokens);
  await engine.get('/metrics');
  expect(kept.map(({ ids }) => ids.length)).toEqual(got);
  await engine.post('/wake_up');
  await Promise.all(kept.map(({ done }) => done));
  for (const { ids, finishReason } of kept) {
    expect(ids).toEqual(undisturbed.ids);
    expect(finishReason).toBe('length');
  }
}
