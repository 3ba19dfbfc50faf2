/** The real vLLM with our plug-in on CPU: what the simulated one is held to, and what the plug-in adds. */
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { randomModel, vllmPython } from '../../hack/installation/vllm.ts';
import { conformance } from '../contract/engine/conformance.ts';
import { contextTokens, greedy } from '../contract/engine/conformance-subject.ts';
import { RealEngine, weightsBytesOf, workerBytes } from './real-engine.ts';

let engine: RealEngine | undefined;
/** Where its image should lie there is a file at first, which root cannot write through either. */
const folder = mkdtempSync(join(tmpdir(), 'images-'));
const images = join(folder, 'images');
writeFileSync(images, '');
afterAll(async () => {
  await engine?.end();
  rmSync(folder, { recursive: true });
});

conformance('the real vLLM', async () => {
  const python = await vllmPython();
  const model = await randomModel(python, 0.1);
  engine = await RealEngine.start({
    python,
    model,
    // `auto` would make 16 bits of the model's 32.
    flags: ['--load-format', 'gthread', '--dtype', 'float32', '--max-model-len', String(contextTokens)],
    env: { GREENTHREAD_IMAGE_DIR: images },
  });
  const { pid } = engine;
  return {
    engine,
    held: async () => workerBytes(pid),
    weightsBytes: weightsBytesOf(model),
    letSleep: async () => {
      if (statSync(images).isFile()) rmSync(images);
    },
  };
});

/** Both ways past the scheduler that made a stock vLLM answer 200 with wrong tokens. */
describe('the plug-in’s guard', () => {
  const tokens = async (): Promise<number[]> =>
    (await engine!.post('/v1/completions', { prompt: 'one two three', max_tokens: 16, ...greedy })).json
      .choices[0].token_ids;

  it('refuses a resume while the weights are away; nothing runs until the wake', async () => {
    const before = await tokens();
    await engine!.post('/sleep?level=1&mode=keep');
    const pending = tokens();
    let answered = false;
    void pending.then(() => {
      answered = true;
    });
    expect((await engine!.post('/resume')).status).toBe(500);
    await engine!.get('/health');
    expect(answered).toBe(false);
    expect(JSON.parse((await engine!.get('/is_sleeping')).text)).toEqual({ is_sleeping: true });
    await engine!.post('/wake_up');
    expect(await pending).toEqual(before);
  });

  it.each(['sleep', 'wake_up', 'discard'])(
    'refuses %s as a worker’s method; answers stay right',
    async (method) => {
      const before = await tokens();
      expect((await engine!.post('/collective_rpc', { method })).status).toBe(500);
      expect(await tokens()).toEqual(before);
    },
  );
});
