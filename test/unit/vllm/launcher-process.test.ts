/** The launcher's rules, on the real script: what it says to the agent, and what becomes of the engine. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { grantLineBytesMax } from '#proto/grant.ts';
import { alive, endAll, handles, type Launched, launch, launchReady, until } from './launched.ts';

afterAll(endAll);

const pidOf = (launched: Launched) =>
  launched.agent.lines.findLast(({ type }) => type === 'started')!.pid as number;

/** A folder with an nvidia-smi that lists the given UUIDs, in front of PATH. */
function pathWithSmi(folder: string, uuids: string[]): string {
  const lines = uuids.map((uuid, index) => `echo "GPU ${index}: NVIDIA A40 (UUID: ${uuid})"`);
  writeFileSync(join(folder, 'nvidia-smi'), `#!/bin/sh\n${lines.join('\n')}\n`);
  chmodSync(join(folder, 'nvidia-smi'), 0o755);
  return `${folder}:${process.env.PATH}`;
}

describe.concurrent('a start', () => {
  it.each([
    ['no command', { command: ['python3'] }, 'after --'],
    ['no POD_UID', { env: { POD_UID: '' } }, 'POD_UID'],
    ['bytes that are no number', { env: { GREENTHREAD_VRAM_BYTES: '1Gi' } }, 'GREENTHREAD_VRAM_BYTES'],
    [
      'a grace that is no number',
      { env: { GREENTHREAD_GRACE_SECONDS: 'soon' } },
      'GREENTHREAD_GRACE_SECONDS',
    ],
  ])('with %s ends with 2 and names the field', async (_, options, named) => {
    const launched = await launch(['serve'], options);
    expect(await launched.exited()).toBe(2);
    const line = JSON.parse(launched.output());
    expect(line).toMatchObject({ level: 'error', program: 'launcher' });
    expect(line.message).toContain(named);
  });

  it('asks, waits for the grant, removes a stale engine.sock, starts, and says ready', async () => {
    const launched = await launch(['serve'], { env: { GREENTHREAD_GPU_UUIDS: 'GPU-a,GPU-b' } });
    const { agent, folder } = launched;
    expect(await agent.next()).toEqual({
      v: 1,
      type: 'ask',
      podUid: 'uid-1',
      uuids: ['GPU-a', 'GPU-b'],
      bytes: 1000,
      restarts: 0,
      suspends: true,
    });
    writeFileSync(join(folder, 'engine.sock'), 'stale');
    agent.say({ type: 'wait', reason: 'NoRoom', message: 'GPU-a is full' });
    await until('the reason in the log', () => launched.output().includes('GPU-a is full'));
    expect(agent.lines).toHaveLength(1);
    agent.grant();
    expect(await agent.types(2)).toEqual(['started', 'ready']);
    await until('its output', () => launched.output().includes('engine is up'));
  });

  it('waits for an agent that comes later', async () => {
    const launched = await launch(['serve'], { agent: false });
    await new Promise((resolve) => setTimeout(resolve, 300));
    await launched.agent.listen();
    expect(await launched.agent.types(1)).toEqual(['ask']);
  });

  it('of one engine is all that two grants give', async () => {
    const { agent } = await launchReady(['serve']);
    agent.grant('g-2');
    agent.say({ type: 'restart', reason: 'Test', message: '' });
    expect(await agent.types(2)).toEqual(['exited', 'ask']);
    expect(agent.lines.filter(({ type }) => type === 'started')).toHaveLength(1);
  });

  it('of a command that is not there is reported as 127 and asked for again', async () => {
    const { agent } = await launch([], { command: ['--', '/no/such/engine'] });
    await agent.types(1);
    agent.grant();
    expect(await agent.next()).toMatchObject({
      type: 'exited',
      code: 127,
      signal: null,
      reason: 'EngineNotFound',
    });
    expect(await agent.next()).toMatchObject({ type: 'ask', restarts: 1 });
  });

  it('finds the plug-in beside the launcher, and what the image itself put on PYTHONPATH', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'gt-'));
    const file = join(folder, 'found');
    await launchReady(['plugin', file], { PYTHONPATH: '/opt/engine' });
    const beside = fileURLToPath(new URL('../../../vllm', import.meta.url));
    const [origin, entryPoints, path] = readFileSync(file, 'utf8').split('\n');
    expect(origin).toBe(join(beside, 'gthread/__init__.py'));
    expect(entryPoints).toBe("['gthread']");
    expect(path).toBe(`${beside}:/opt/engine`);
    rmSync(folder, { recursive: true });
  });

  it('never prints the value of a variable, and hands all of them on', async () => {
    const launched = await launchReady(['secret'], { HF_TOKEN: 'hf_verysecret' });
    launched.agent.say({ type: 'restart', reason: 'Test', message: '' });
    expect(await launched.agent.next()).toMatchObject({ type: 'exited', code: 0 });
    expect(launched.output()).not.toContain('verysecret');
  });
});

describe.concurrent('the GPUs', () => {
  it('that the runtime did not inject are named, with the remedy, and no engine starts', async () => {
    const launched = await launch(['serve'], { agent: false });
    const path = pathWithSmi(launched.folder, ['GPU-a', 'GPU-bb']);
    const second = await launch(['serve'], { env: { PATH: path, GREENTHREAD_GPU_UUIDS: 'GPU-a,GPU-b' } });
    await second.agent.types(1);
    second.agent.grant();
    const exited = await second.agent.next();
    expect(exited).toMatchObject({ type: 'exited', code: null, signal: null, reason: 'GpuNotInjected' });
    expect(exited.message).toMatch(/GPU-b.*runtimeClassName nvidia/);
    expect(exited.tail).toContain('GpuNotInjected');
    expect(await second.agent.next()).toMatchObject({ type: 'ask', restarts: 0 });
  });

  it('that nvidia-smi lists let the engine start', async () => {
    const launched = await launch(['serve'], { agent: false });
    const path = pathWithSmi(launched.folder, ['GPU-a', 'GPU-b']);
    const second = await launch(['serve'], { env: { PATH: path, GREENTHREAD_GPU_UUIDS: 'GPU-a,GPU-b' } });
    await second.agent.types(1);
    second.agent.grant();
    expect(await second.agent.types(2)).toEqual(['started', 'ready']);
  });
});

describe.concurrent('an engine that ends', () => {
  it('is reported with its code and last words, and asked for again', async () => {
    const launched = await launch(['crash', '3', 'CUDA error: out of memory\n']);
    const { agent } = launched;
    await agent.types(1);
    agent.grant();
    await agent.types(1);
    expect(await agent.next()).toEqual({
      v: 1,
      type: 'exited',
      code: 3,
      signal: null,
      tail: 'CUDA error: out of memory\n',
    });
    expect(await agent.next()).toMatchObject({ type: 'ask', restarts: 1 });
    expect(launched.output()).toContain('CUDA error: out of memory');
  });

  it('has at most 4 KiB of last words', async () => {
    const { agent } = await launch(['crash', '1', `${'x'.repeat(100_000)}end`]);
    await agent.types(1);
    agent.grant();
    await agent.types(1);
    const { tail } = await agent.next();
    expect(tail).toBe(`${'x'.repeat(4096 - 3)}end`);
  });

  it('before it was ready, with GPUs that nobody could check, is reported with what to look at', async () => {
    const { agent } = await launch(['crash', '1', 'no CUDA\n'], { env: { GREENTHREAD_GPU_UUIDS: 'GPU-a' } });
    await agent.types(1);
    agent.grant();
    await agent.types(1);
    expect(await agent.next()).toMatchObject({
      type: 'exited',
      code: 1,
      tail: 'no CUDA\n',
      message: expect.stringContaining('runtimeClassName nvidia'),
    });
  });

  it('by a signal is reported with its name', async () => {
    const launched = await launchReady(['serve']);
    process.kill(pidOf(launched), 'SIGKILL');
    expect(await launched.agent.next()).toMatchObject({ type: 'exited', code: null, signal: 'SIGKILL' });
    expect(await launched.agent.next()).toMatchObject({ type: 'ask', restarts: 1 });
    launched.agent.grant('g-2');
    expect(await launched.agent.types(2)).toEqual(['started', 'ready']);
  });

  it('leaves nobody behind: what it started is killed and reaped before the end is told', async () => {
    const launched = await launch(['orphan', '/dev/null'], { agent: false });
    const file = join(launched.folder, 'orphan');
    const second = await launch(['orphan', file]);
    await second.agent.types(1);
    second.agent.grant();
    await second.agent.types(1);
    expect(await second.agent.next()).toMatchObject({ type: 'exited', code: 1 });
    const pids = readFileSync(file, 'utf8').trim().split('\n').map(Number);
    expect(pids.map(alive)).toEqual([false, false]);
  });
});

describe.concurrent('restart', () => {
  it('ends the engine by SIGTERM and asks again', async () => {
    const launched = await launchReady(['serve']);
    launched.agent.say({ type: 'restart', reason: 'ResidueTooLarge', message: 'it kept 3 GiB' });
    expect(await launched.agent.next()).toMatchObject({ type: 'exited', code: 0 });
    expect(await launched.agent.next()).toMatchObject({ type: 'ask', restarts: 1 });
  });

  it('kills an engine that ignores SIGTERM after its bound', async () => {
    const launched = await launchReady(['stubborn'], { GREENTHREAD_ENGINE_STOP_SECONDS: '0.2' });
    const pid = pidOf(launched);
    launched.agent.say({ type: 'restart', reason: 'Test', message: '' });
    expect(await launched.agent.next()).toMatchObject({ type: 'exited', signal: 'SIGKILL' });
    expect(alive(pid)).toBe(false);
  });
});

describe.concurrent('the connection', () => {
  it('lost leaves the engine running; the next one begins with holding', async () => {
    const launched = await launchReady(['serve']);
    const pid = pidOf(launched);
    await launched.agent.close();
    await launched.agent.listen();
    expect(await launched.agent.next()).toEqual({
      v: 1,
      type: 'holding',
      podUid: 'uid-1',
      uuids: [],
      bytes: 1000,
      restarts: 1,
      id: 'g-1',
      pid,
      ready: true,
      suspends: true,
      suspended: false,
    });
    expect(alive(pid)).toBe(true);
  });

  it('that is lost again and again begins each time with holding', async () => {
    const launched = await launchReady(['serve']);
    for (let round = 0; round < 4; round++) {
      await launched.agent.close();
      await launched.agent.listen();
      expect(await launched.agent.next()).toMatchObject({ type: 'holding', id: 'g-1', restarts: 1 });
    }
    expect(launched.agent.connections).toBe(5);
  });

  it('takes no harm from unknown types, unknown fields and lines that are no messages', async () => {
    const { agent } = await launch(['serve']);
    await agent.types(1);
    agent.raw('{"v":9,"type":"later","x":1}\nnonsense\n[]\n"text"\n{"type":7}\n');
    agent.raw(`${JSON.stringify({ v: 1, type: 'grant', id: 'g', bytes: 1, colour: 'blue' })}\n`);
    expect(await agent.types(2)).toEqual(['started', 'ready']);
    expect(agent.connections).toBe(1);
  });

  it.each(['\n', ''])('is closed by a line beyond the limit, ended by %j, and dialled again', async (end) => {
    const { agent } = await launch(['serve']);
    await agent.types(1);
    agent.raw(`{"type":"grant","id":"${'x'.repeat(grantLineBytesMax)}"}${end}`);
    expect(await agent.types(1)).toEqual(['ask']);
    expect(agent.connections).toBe(2);
    expect(agent.lines.map(({ type }) => type)).toEqual(['ask', 'ask']);
  });
});

describe.concurrent('SIGTERM', () => {
  it('while it still loads ends it at once: as process 1 it would not get it without a handler', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'gt-slow-'));
    // Stands before the standard library's own: loading takes as long as the test.
    writeFileSync(join(folder, 'ctypes.py'), 'import time\ntime.sleep(60)\n');
    const { process: child, exited } = await launch(['serve'], { env: { PYTHONPATH: folder } });
    await until('it has a handler for SIGTERM', () => handles(child.pid!, 'SIGTERM'));
    child.kill('SIGTERM');
    expect(await exited()).toBe(0);
    rmSync(folder, { recursive: true });
  });

  it('is held back from the engine until the agent says drained', async () => {
    const launched = await launchReady(['serve']);
    const pid = pidOf(launched);
    launched.process.kill('SIGTERM');
    expect(await launched.agent.types(1)).toEqual(['ending']);
    expect(alive(pid)).toBe(true);
    launched.agent.say({ type: 'drained' });
    expect(await launched.exited()).toBe(0);
    expect(alive(pid)).toBe(false);
    expect(launched.agent.lines.at(-1)).toMatchObject({ type: 'exited', code: 0 });
  });

  it('is told again to an agent that comes back', async () => {
    const launched = await launchReady(['serve']);
    launched.process.kill('SIGTERM');
    await launched.agent.types(1);
    await launched.agent.close();
    await launched.agent.listen();
    expect(await launched.agent.types(2)).toEqual(['holding', 'ending']);
    launched.agent.say({ type: 'drained' });
    expect(await launched.exited()).toBe(0);
  });

  it('without an agent reaches the engine before the grace ends', async () => {
    const launched = await launchReady(['serve'], { GREENTHREAD_GRACE_SECONDS: '5.3' });
    await launched.agent.close();
    launched.process.kill('SIGTERM');
    expect(await launched.exited()).toBe(0);
    expect(alive(pidOf(launched))).toBe(false);
  });

  it('kills a stubborn engine before the kubelet would', async () => {
    const launched = await launchReady(['stubborn'], { GREENTHREAD_GRACE_SECONDS: '1.5' });
    launched.process.kill('SIGTERM');
    expect(await launched.exited()).toBe(0);
    expect(launched.agent.lines.at(-1)).toMatchObject({ type: 'exited', signal: 'SIGKILL' });
  });

  it('that was never heard is made up for by drained where no engine runs', async () => {
    const { agent, exited } = await launch(['serve']);
    await agent.types(1);
    agent.say({ type: 'drained' });
    expect(await exited()).toBe(0);
  });

  it('that was never sent is not made up for by drained while an engine runs', async () => {
    const launched = await launchReady(['serve']);
    launched.agent.say({ type: 'drained' });
    launched.process.kill('SIGTERM');
    expect(await launched.agent.types(1)).toEqual(['ending']);
    expect(alive(pidOf(launched))).toBe(true);
  });

  it('with no engine running waits for the sidecar all the same', async () => {
    const { agent, process: child, exited } = await launch(['serve']);
    await agent.types(1);
    child.kill('SIGTERM');
    expect(await agent.types(1)).toEqual(['ending']);
    agent.grant();
    agent.say({ type: 'drained' });
    expect(await exited()).toBe(0);
    expect(agent.lines.some(({ type }) => type === 'started')).toBe(false);
  });

  it('waits for drained also when the engine dies meanwhile', async () => {
    const launched = await launchReady(['serve']);
    launched.process.kill('SIGTERM');
    await launched.agent.types(1);
    process.kill(pidOf(launched), 'SIGKILL');
    expect(await launched.agent.next()).toMatchObject({ type: 'exited', signal: 'SIGKILL' });
    expect(launched.process.exitCode).toBeNull();
    launched.agent.say({ type: 'drained' });
    expect(await launched.exited()).toBe(0);
    expect(launched.agent.lines.at(-1)!.type).toBe('exited');
  });
});

describe.concurrent('the floor between starts', () => {
  it('doubles from 1 s to 60 s, and begins anew after ten healthy minutes or when the agent asked', () => {
    const folder = fileURLToPath(new URL('../../../vllm', import.meta.url));
    const code = `
import sys; sys.path.insert(0, ${JSON.stringify(folder)}); sys.dont_write_bytecode = True
import json, launcher
floor = launcher.RestartFloor()
waits = [floor.after_end(None, False) for _ in range(8)]
waits += [floor.after_end(599, False), floor.after_end(600, False), floor.after_end(5, False), floor.after_end(5, False), floor.after_end(1, True)]
print(json.dumps(waits))`;
    const waits = JSON.parse(execFileSync('python3', ['-c', code], { encoding: 'utf8' }));
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60, 1, 1, 2, 1]);
  });

  it('is kept by an agent that grants at once', async () => {
    const launched = await launch(['crash', '1', 'no\n']);
    const { agent } = launched;
    await agent.types(1);
    agent.grant();
    await agent.types(2);
    agent.grant('early');
    // Nothing was asked for yet, so this grant is the agent's mistake; its start waits for the floor all the same.
    expect(await agent.next()).toMatchObject({ type: 'started' });
    const times = await until('the second start in the log', () => {
      const lines = launched
        .output()
        .split('\n')
        .filter((line) => /engine (started|ended)/.test(line));
      return lines.length >= 3 && lines.map((line) => Date.parse(JSON.parse(line).time));
    });
    // The launcher's own clock, and a lower bound alone: a slow machine only makes it longer.
    expect(times[2]! - times[1]!).toBeGreaterThanOrEqual(990);
  });
});
