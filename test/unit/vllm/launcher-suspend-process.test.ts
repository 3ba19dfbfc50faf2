/**
 * suspend and resume, on the real launcher and the real checkpoint.py, with a libcuda.so.1 compiled here (test/unit/gthread/fake_libcuda.c):
 * what the agent is told, and what becomes of an engine whose CUDA state lies in a checkpoint.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { endAll, type Launched, type Line, launchReady, until } from './launched.ts';

const source = fileURLToPath(new URL('../gthread/fake_libcuda.c', import.meta.url));
const hasCompiler = spawnSync('cc', ['--version']).status === 0 && process.arch === 'x64';
const running = '0';
const checkpointed = '2';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'gt-cuda-'));
  if (hasCompiler)
    execFileSync('cc', ['-shared', '-fPIC', '-o', join(folder, 'libcuda.so.1'), source], {
      stdio: 'inherit',
    });
});
afterAll(async () => {
  await endAll();
  rmSync(folder, { recursive: true, force: true });
});

interface Suspendable extends Launched {
  pid: number;
  state(): string;
  fault(call: string, code: number | 'hang' | null): void;
  ask(operation: 'suspend' | 'resume', call: number): Promise<Line>;
}

/** An engine that is ready and that the driver knows. */
async function ready(engine = 'serve', gpus = 'GPU-a'): Promise<Suspendable> {
  const cuda = mkdtempSync(join(folder, 'node-'));
  const launched = await launchReady([engine], {
    GREENTHREAD_GPU_UUIDS: gpus,
    LD_LIBRARY_PATH: folder,
    FAKE_CUDA: cuda,
  });
  const { agent } = launched;
  const pid = agent.lines.findLast(({ type }) => type === 'started')!.pid as number;
  writeFileSync(join(cuda, String(pid)), running);
  return {
    ...launched,
    pid,
    state: () => readFileSync(join(cuda, String(pid)), 'utf8'),
    fault(call, code) {
      if (code === null) rmSync(join(cuda, `fail-${call}`));
      else writeFileSync(join(cuda, `fail-${call}`), String(code));
    },
    async ask(operation, call) {
      agent.say({ type: operation, call });
      return agent.next();
    },
  };
}

const done = { v: 1, type: 'checkpointed', outcome: 'done', reason: '', message: '' };

describe.skipIf(!hasCompiler)('suspend and resume', () => {
  it('take the engine into a checkpoint and back, each told once done', async () => {
    const engine = await ready();
    expect(await engine.ask('suspend', 1)).toEqual({ ...done, call: 1, operation: 'suspend' });
    expect(engine.state()).toBe(checkpointed);
    expect(await engine.ask('suspend', 2)).toEqual({ ...done, call: 2, operation: 'suspend' });
    expect(await engine.ask('resume', 3)).toEqual({ ...done, call: 3, operation: 'resume' });
    expect(engine.state()).toBe(running);
    expect(await engine.ask('resume', 4)).toEqual({ ...done, call: 4, operation: 'resume' });
  });

  it('are told of after the agent came back', async () => {
    const engine = await ready();
    await engine.ask('suspend', 1);
    await engine.agent.close();
    await engine.agent.listen();
    expect(await engine.agent.next()).toMatchObject({ type: 'holding', suspends: true, suspended: true });
    await engine.ask('resume', 1);
    await engine.agent.close();
    await engine.agent.listen();
    expect(await engine.agent.next()).toMatchObject({ type: 'holding', suspended: false });
  });

  it('run beside everything else the launcher does, one at a time', async () => {
    const engine = await ready('stubborn');
    engine.fault('Lock', 'hang');
    engine.agent.say({ type: 'suspend', call: 1 });
    expect(await engine.ask('resume', 2)).toMatchObject({ call: 2, outcome: 'failed', reason: 'NotNow' });
    engine.agent.say({ type: 'restart', reason: 'Test', message: '' });
    const ends = [await engine.agent.next(), await engine.agent.next()];
    expect(ends.find(({ type }) => type === 'exited')).toMatchObject({ signal: 'SIGKILL' });
    expect(ends.find(({ type }) => type === 'checkpointed')).toMatchObject({ call: 1, reason: 'EngineEnds' });
  });

  it('of an engine on two GPUs are not offered, and why', async () => {
    const engine = await ready('serve', 'GPU-a,GPU-b');
    const answer = await engine.ask('suspend', 1);
    expect(answer).toMatchObject({ outcome: 'not-offered', reason: 'SeveralGpus' });
    expect(answer.message).toContain('one GPU a replica');
    expect(engine.state()).toBe(running);
  });

  it('that fail leave it as it was, to be tried again', async () => {
    const engine = await ready();
    engine.fault('Checkpoint', 2);
    expect(await engine.ask('suspend', 1)).toMatchObject({ outcome: 'failed', reason: 'CheckpointFailed' });
    expect(engine.state()).toBe(running);
    engine.fault('Checkpoint', null);
    await engine.ask('suspend', 2);
    engine.fault('Restore', 2);
    expect(await engine.ask('resume', 3)).toMatchObject({ outcome: 'failed', reason: 'RestoreFailed' });
    expect(engine.state()).toBe(checkpointed);
    engine.fault('Restore', null);
    expect(await engine.ask('resume', 4)).toMatchObject({ outcome: 'done' });
  });

  it('that lose the engine end it, which is told with the reason', async () => {
    const engine = await ready('stubborn');
    engine.fault('Checkpoint', 999);
    expect(await engine.ask('suspend', 1)).toMatchObject({ outcome: 'broken', reason: 'CheckpointBroken' });
    expect(await engine.agent.next()).toMatchObject({
      type: 'exited',
      signal: 'SIGKILL',
      reason: 'CheckpointBroken',
      message: expect.stringContaining('only a new engine helps'),
    });
    expect(await engine.agent.next()).toMatchObject({ type: 'ask', restarts: 1, suspends: true });
  });

  it('without an engine fail at once', async () => {
    const engine = await ready();
    process.kill(engine.pid, 'SIGKILL');
    await engine.agent.types(2);
    expect(await engine.ask('suspend', 1)).toMatchObject({ outcome: 'failed', reason: 'NotNow' });
  });
});

describe.skipIf(!hasCompiler)('an engine in a checkpoint', () => {
  it('is killed at once: a signal that it handles would wait for CUDA', async () => {
    const engine = await ready('stubborn');
    await engine.ask('suspend', 1);
    engine.agent.say({ type: 'restart', reason: 'Test', message: '' });
    expect(await engine.agent.next()).toMatchObject({ type: 'exited', signal: 'SIGKILL' });
  });

  it('is killed at the end of its pod too', async () => {
    const engine = await ready('stubborn');
    await engine.ask('suspend', 1);
    engine.process.kill('SIGTERM');
    expect(await engine.agent.types(1)).toEqual(['ending']);
    engine.agent.say({ type: 'drained' });
    expect(await engine.exited()).toBe(0);
  });
});

describe('without a CUDA driver', () => {
  it('suspend is not offered, and the remedy is named', async () => {
    const launched = await launchReady(['serve'], { GREENTHREAD_GPU_UUIDS: 'GPU-a' });
    launched.agent.say({ type: 'suspend', call: 7 });
    const answer = await launched.agent.next();
    expect(answer).toMatchObject({ type: 'checkpointed', call: 7, outcome: 'not-offered' });
    if (answer.reason === 'NoCudaDriver') expect(answer.message).toContain('NVIDIA_DRIVER_CAPABILITIES');
    else expect(answer.reason).toBe(process.arch === 'x64' ? 'NoCudaProcess' : 'NotX86');
    await until('the reason in the log', () => launched.output().includes(String(answer.reason)));
  });
});
