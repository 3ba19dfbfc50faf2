/** The Job as it runs in its pod: the real program, its exit code, its termination message, its memory. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { type Bench, bench, closeAll, id } from './fetched.ts';

afterAll(closeAll);

const program = fileURLToPath(new URL('../../../converter/main.ts', import.meta.url));
const rssMiBMax = 150;

interface Job {
  process: ChildProcess;
  output: () => string;
  termination: () => unknown;
  ended: Promise<number | null>;
}

function job(one: Bench, env: Record<string, string> = {}, words = ['fetch']): Job {
  const terminationLog = join(one.modelsDir, '..', 'termination-log');
  const child = spawn(process.execPath, [program, ...words], {
    env: {
      PATH: process.env.PATH!,
      HF_ENDPOINT: one.hub.url,
      MODEL_NAME: id,
      REVISION: 'main',
      MODELS_DIR: one.modelsDir,
      TERMINATION_LOG: terminationLog,
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += String(chunk);
    });
  }
  return {
    process: child,
    output: () => output,
    termination: () => JSON.parse(readFileSync(terminationLog, 'utf8')),
    ended: new Promise((resolve) => child.on('close', resolve)),
  };
}

/** Peak resident memory so far, MiB. */
const peakMiB = (pid: number): number =>
  Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;

const partOf = (one: Bench): number => {
  const incoming = join(one.modelsDir, '.incoming/org--model');
  const [commit] = existsSync(incoming) ? readdirSync(incoming) : [];
  const part = join(incoming, commit ?? '', 'model.safetensors.greenthread-part');
  return existsSync(part) ? statSync(part).size : 0;
};

async function until(what: string, probe: () => boolean): Promise<void> {
  for (let round = 0; round < 800; round++) {
    if (probe()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`waited 8 s in vain for ${what}`);
}

describe.concurrent('the Job', () => {
  it('ends with 0 and tells commit, path and figures', async () => {
    const one = await bench({ config: { gated: true, tokens: ['hf_secret_value'] } });
    const first = job(one, { HF_TOKEN: 'hf_secret_value' });
    expect(await first.ended).toBe(0);
    const told = first.termination() as { commit: string; path: string; bytes: number };
    expect(told).toEqual({
      commit: expect.stringMatching(/^[0-9a-f]{40}$/),
      path: join(one.modelsDir, 'org--model', told.commit),
      bytes: expect.any(Number),
      files: 5,
      downloaded: 5,
    });
    const lines = first.output().trim().split('\n');
    expect(lines.some((line) => JSON.parse(line).type === 'progress')).toBe(true);
    expect(first.output()).not.toContain('hf_secret_value');
    expect(statSync(told.path).mode & 0o777).toBe(0o755);
    expect(statSync(join(told.path, 'config.json')).mode & 0o777).toBe(0o644);
  });

  it('ends with 1 and tells reason and remedy', async () => {
    const one = await bench({ config: { gated: true } });
    const failing = job(one);
    expect(await failing.ended).toBe(1);
    expect(failing.termination()).toEqual({
      error: {
        reason: 'TokenNeeded',
        message: expect.stringContaining('controller.huggingFaceToken'),
        part: 'Fetching',
      },
    });
  });

  it('ended by SIGTERM leaves what the next Job goes on from; neither takes more than 150 MiB', async () => {
    const one = await bench({ model: { weightBytes: 64 * 2 ** 20 } });
    one.hub.faults.add({ kind: 'slow', bytesPerSecond: 30 * 2 ** 20, path: 'model.safetensors' });
    const first = job(one);
    await until('the first 8 MiB', () => partOf(one) > 8 * 2 ** 20);
    const firstPeak = peakMiB(first.process.pid!);
    first.process.kill('SIGTERM');
    expect(await first.ended).toBe(1);
    expect(first.termination()).toMatchObject({ error: { reason: 'Interrupted' } });
    const had = partOf(one);
    expect(had).toBeGreaterThan(8 * 2 ** 20);
    one.hub.resetStats();
    one.hub.faults.add({ kind: 'slow', bytesPerSecond: 200 * 2 ** 20, path: 'model.safetensors' });
    const second = job(one);
    let secondPeak = 0;
    await until('its end', () => {
      if (second.process.exitCode !== null) return true;
      if (existsSync(`/proc/${second.process.pid}/status`)) {
        const status = readFileSync(`/proc/${second.process.pid}/status`, 'utf8');
        secondPeak = Math.max(secondPeak, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
      }
      return false;
    });
    expect(await second.ended).toBe(0);
    expect(one.hub.stats().models[id]!.bytes).toBeLessThanOrEqual(65 * 2 ** 20 - had);
    expect(Math.max(firstPeak, secondPeak)).toBeLessThan(rssMiBMax);
  });

  it('that finds the disk full while it converts says so, and the next one goes on', async () => {
    const one = await bench();
    const { commit } = await one.fetch();
    const converting = join(one.modelsDir, '.incoming/org--model.gthread', `${commit}.gthread-1`);
    mkdirSync(converting, { recursive: true });
    symlinkSync('/dev/full', join(converting, 'weights'));
    const failing = job(one, {}, ['convert']);
    expect(await failing.ended).toBe(1);
    expect(failing.termination()).toEqual({
      error: { reason: 'NoSpace', message: expect.stringContaining('make room'), part: 'Converting' },
    });
    rmSync(join(converting, 'weights'));
    const next = job(one, {}, ['convert']);
    expect(await next.ended).toBe(0);
    expect(next.termination()).toMatchObject({ commit, downloaded: 0, gthread: { tensors: 2 } });
  });

  it('that cannot leave its word has not succeeded: the next one leaves it, with nothing to download', async () => {
    const one = await bench();
    const mute = job(one, { TERMINATION_LOG: '/dev/full' });
    expect(await mute.ended).toBe(1);
    expect(mute.output()).toContain('TERMINATION_LOG');
    const next = job(one);
    expect(await next.ended).toBe(0);
    expect(next.termination()).toMatchObject({ downloaded: 0 });
  });

  it.each([[['convert', 'more']], [['stage']], [[]]])('with the words %j ends with 2', async (words) => {
    const one = await bench();
    expect(await job(one, {}, words).ended).toBe(2);
  });

  it('with a wrong environment names the variable', async () => {
    const one = await bench();
    const wrong = job(one, { MODEL_NAME: '' });
    expect(await wrong.ended).toBe(1);
    expect(wrong.termination()).toMatchObject({
      error: { reason: 'BadSettings', message: expect.stringContaining('MODEL_NAME') },
    });
  });
});
