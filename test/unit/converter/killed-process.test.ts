/** kill -9 at random moments of fetch and conversion: whatever was left, the next Job completes it, byte by byte. */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, rmSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { staleMs } from '../../../converter/act/lock.ts';
import { faultsOf, llama, writeCheckpoint } from './checkpoint.ts';
import { type Bench, bench, closeAll, id } from './fetched.ts';

afterAll(closeAll);

const program = fileURLToPath(new URL('../../../converter/main.ts', import.meta.url));
const rounds = Number(process.env.GREENTHREAD_KILLS ?? 4);

/** Runs the Job; killed so many ms after it said a word; @returns its exit code, null when it was killed */
function runJob(one: Bench, kill?: { after: string; ms: number }): Promise<number | null> {
  const child = spawn(process.execPath, [program, 'convert'], {
    env: {
      PATH: process.env.PATH!,
      HF_ENDPOINT: one.hub.url,
      MODEL_NAME: id,
      MODELS_DIR: one.modelsDir,
      TERMINATION_LOG: join(one.modelsDir, '..', 'termination-log'),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      if (kill && String(text).includes(`"${kill.after}"`)) setTimeout(() => child.kill('SIGKILL'), kill.ms);
    });
  }
  return new Promise((resolve) => child.on('close', resolve));
}

/** The killed Job's lock, as if its time had passed. */
function age(one: Bench): void {
  const lock = join(one.modelsDir, '.incoming', 'org--model.lock');
  const past = new Date(Date.now() - staleMs - 1000);
  if (existsSync(lock)) utimesSync(lock, past, past);
}

it(`${rounds} kills leave what the next Job completes`, { timeout: 30_000 + rounds * 5000 }, async () => {
  const one = await bench();
  rmSync(join(one.source, 'model.safetensors'));
  const shards = llama();
  writeCheckpoint(one.source, shards);
  let killed = 0;
  for (let round = 0; round < rounds; round++) {
    const after = round % 4 === 0 ? 'fetching' : 'converting';
    if ((await runJob(one, { after, ms: Math.random() * 60 })) === null) killed++;
    age(one);
    // A Job that was too quick for its killer has left a whole form: begin another.
    const folder = join(one.modelsDir, 'org--model');
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
      if (!name.endsWith('.gthread-1')) continue;
      expect(faultsOf(join(folder, name), shards)).toEqual([]);
      rmSync(join(folder, name), { recursive: true });
    }
  }
  expect(killed).toBeGreaterThan(0);
  expect(await runJob(one)).toBe(0);
  const { gthread } = await one.convert();
  expect(gthread.written).toBe(0);
  expect(faultsOf(gthread.path, shards)).toEqual([]);
  expect(readdirSync(join(one.modelsDir, '.incoming'))).toEqual([]);
});
