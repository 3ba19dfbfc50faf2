/** kill -9 at any moment of a staging: never a byte below the watermark that is not the form's, and always an end. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { makePool, makeStaged, stagedFolder } from '../../../../agent/act/staging/pool-folder.ts';
import { key } from './facts.ts';
import { temporaryFolder, writeForm } from './form-on-disk.ts';

const stageOnce = fileURLToPath(new URL('./stage-once.ts', import.meta.url));
/** Lives of the process; the last ones may end by themselves. */
const livesMax = Number(process.env.GREENTHREAD_TEST_KILLS ?? 12);

/** @param afterMs of its beginning it is killed. @returns what it printed */
function live(form: string, staged: string, afterMs: number): Promise<string> {
  const child = spawn(process.execPath, [stageOnce, form, staged], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.on('data', (data: Buffer) => {
    if (said === '') setTimeout(() => child.kill('SIGKILL'), afterMs);
    said += data;
  });
  return new Promise((resolve) => child.on('close', () => resolve(said)));
}

it('a staging that is killed again and again ends with every byte', async () => {
  const root = temporaryFolder();
  const { folder, manifest, bytes } = writeForm(join(root, 'models'), 1, 96);
  const pool = join(root, 'pool');
  makePool(pool);
  makeStaged(pool, key(1), manifest.bytes);
  const staged = stagedFolder(pool, key(1));
  let filled = 0;
  let killed = 0;
  for (let life = 0; life < livesMax && filled < bytes.length; life++) {
    const said = await live(folder, staged, 20 + ((life * 37) % 110));
    if (!said.includes('whole')) killed += 1;
    const words = readFileSync(join(staged, 'progress'));
    const now = Number(words.readBigUInt64LE(0));
    expect(now).toBeGreaterThanOrEqual(filled);
    filled = now;
    expect(readFileSync(join(staged, 'weights')).subarray(0, filled).equals(bytes.subarray(0, filled))).toBe(
      true,
    );
    // Whole is said of all bytes alone.
    expect(words.readBigUInt64LE(8) === 1n ? filled : bytes.length).toBe(bytes.length);
  }
  expect(killed).toBeGreaterThan(0);
  expect(await live(folder, staged, 60_000)).toContain('whole');
  expect(readFileSync(join(staged, 'weights')).equals(bytes)).toBe(true);
});
