/** Calls of nvidia-smi that are kept ready: shells that wait, each to become the next call. */
import { spawn } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { createRunSmi } from '../../../../agent/observe/nvidia-smi/run.ts';
import { type FakeSmi, fakeSmi } from './fake-nvidia-smi.ts';

const runFile = new URL('../../../../agent/observe/nvidia-smi/run.ts', import.meta.url).href;
const timeoutMs = 5_000;
const args = ['--query-gpu=uuid'];

function words(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** Processes that wait to become a call of this nvidia-smi: pid and its arguments. */
function waiting({ path }: FakeSmi): { pid: number; call: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => ({ pid: Number(pid), words: words(pid) }))
    .filter((each) => each.words[0] === 'sh' && each.words[1] === '-c' && each.words[3] === path)
    .map((each) => ({ pid: each.pid, call: each.words.slice(4).filter(Boolean).join(' ') }));
}

/** Waits until one is ready. @returns its pid */
async function ready(smi: FakeSmi): Promise<number> {
  await vi.waitUntil(() => waiting(smi).length === 1, { timeout: timeoutMs });
  return waiting(smi)[0]!.pid;
}

const untilNone = (smi: FakeSmi): Promise<boolean> =>
  vi.waitUntil(() => waiting(smi).length === 0, { timeout: timeoutMs });

/** A call was made, and the next one waits. */
async function withOneReady(script: string, killSignal?: 'SIGKILL' | 'SIGTERM') {
  const smi = fakeSmi(`[ -e "$0.sick" ] || { echo $$ $(cat "$0.value"); exit 0; }\n${script}`);
  const tell = (value: string): void => writeFileSync(`${smi.path}.value`, value);
  tell('old');
  const run = createRunSmi(smi.path, killSignal);
  expect((await run(args, timeoutMs, true)).stdout).toMatch(/old$/);
  return {
    smi,
    run,
    tell,
    pid: await ready(smi),
    fallSick: () => writeFileSync(`${smi.path}.sick`, ''),
    [Symbol.dispose]: () => smi[Symbol.dispose](),
  };
}

describe('a call that is made again and again', () => {
  it('waits as a shell, reads nothing before it is called, and is followed by the next', async () => {
    using kept = await withOneReady('');
    kept.tell('new');
    expect(kept.smi.calls()).toHaveLength(1);
    expect((await kept.run(args, timeoutMs, true)).stdout).toBe(`${kept.pid} new`);
    expect(await ready(kept.smi)).not.toBe(kept.pid);
    expect(kept.smi.calls()).toEqual([args[0], args[0]]);
  });

  it('runs the program that is there when it is called, not the one from when it was made ready', async () => {
    using kept = await withOneReady('');
    const { path } = kept.smi;
    writeFileSync(`${path}.next`, '#!/bin/sh\necho upgraded $*\n');
    chmodSync(`${path}.next`, 0o755);
    renameSync(`${path}.next`, path);
    expect((await kept.run(args, timeoutMs)).stdout).toBe(`upgraded ${args[0]}`);
    await untilNone(kept.smi);
  });

  it('is made plainly where what waited was killed, noticed or not', async () => {
    using kept = await withOneReady('');
    process.kill(kept.pid, 'SIGKILL');
    const unnoticed = await kept.run(args, timeoutMs, true);
    expect(unnoticed).toMatchObject({ outcome: 'exited', exitCode: 0 });
    expect(unnoticed.stdout).not.toContain(String(kept.pid));
    process.kill(await ready(kept.smi), 'SIGKILL');
    await untilNone(kept.smi);
    expect((await kept.run(args, timeoutMs, true)).outcome).toBe('exited');
    await ready(kept.smi);
  });

  it('has its whole time from the call on, is killed when that is over, and waits no more until it is well', async () => {
    using kept = await withOneReady('exec sleep 60');
    const limitMs = 1_000;
    await delay(limitMs + 100);
    expect((await kept.run(args, limitMs, true)).stdout).toContain(String(kept.pid));
    const pid = await ready(kept.smi);
    kept.fallSick();
    expect(await kept.run(args, limitMs, true)).toMatchObject({ outcome: 'timed-out', stdout: '' });
    expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    await delay(300);
    expect(waiting(kept.smi)).toEqual([]);
  });

  it('that does not even die is left behind, and the same is not started again', async () => {
    using kept = await withOneReady(`trap '' TERM\nexec sleep 2`, 'SIGTERM');
    kept.fallSick();
    expect(await kept.run(args, 500, true)).toMatchObject({ outcome: 'timed-out' });
    expect(words(String(kept.pid))).toContain('sleep');
    expect(await kept.run(args, 500, true)).toMatchObject({ outcome: 'timed-out' });
    expect(kept.smi.calls()).toHaveLength(2);
  });

  it.each([
    ['more than is read', 'exec yes', 'too-long'],
    ['a code', 'exit 9', 'exited'],
    ['what no shell finds', 'exit 127', 'not-found'],
    ['its own end by a signal', 'kill -9 $$', 'killed'],
  ])('says what came of it: %s', async (_, script, outcome) => {
    using kept = await withOneReady(script);
    kept.fallSick();
    expect((await kept.run(args, timeoutMs)).outcome).toBe(outcome);
  });

  it('gives way where there are too many: the oldest ends', async () => {
    using smi = fakeSmi('exit 0');
    const run = createRunSmi(smi.path);
    const calls = ['a', 'b', 'c', 'd', 'e'];
    for (const call of calls) {
      await run([call], timeoutMs, true);
      await vi.waitUntil(() => waiting(smi).some((each) => each.call === call), { timeout: timeoutMs });
    }
    await vi.waitUntil(() => waiting(smi).length < calls.length, { timeout: timeoutMs });
    expect(
      waiting(smi)
        .map(({ call }) => call)
        .sort(),
    ).toEqual(['b', 'c', 'd', 'e']);
  });

  it.each([
    ['ends by itself', '', 0],
    ['is killed', "process.kill(process.pid, 'SIGKILL')", null],
  ])('leaves nothing behind when the agent %s', async (_, last, code) => {
    using smi = fakeSmi('exit 0');
    const program = `
      const { createRunSmi } = await import('${runFile}');
      await createRunSmi('${smi.path}')(['-L'], 5_000, true);
      process.stdin.once('data', () => { process.stdin.destroy(); ${last} });`;
    const agent = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['pipe', 'inherit', 'inherit'],
    });
    const ended = new Promise((resolve) => agent.once('exit', resolve));
    try {
      await ready(smi);
      agent.stdin.write('go\n');
      expect(await Promise.race([ended, delay(timeoutMs, 'goes on', { ref: false })])).toBe(code);
      await untilNone(smi);
    } finally {
      agent.kill('SIGKILL');
    }
  });
});
