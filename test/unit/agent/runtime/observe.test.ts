import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createMeasurementKeeper } from '../../../../agent/act/keep-measurement.ts';
import { readKeptMeasurement } from '../../../../agent/observe/kept-measurements.ts';
import { type Measurement, startMeasuring } from '../../../../agent/observe/measuring.ts';
import { watchPodDirectories } from '../../../../agent/observe/pod-directories.ts';
import { afterwards, cleanUp, folder, keptLog, podUid, until } from './until.ts';

afterEach(cleanUp);

function look(root = join(folder(), 'pods')) {
  const seen: string[] = [];
  const { log, lines } = keptLog();
  const directories = watchPodDirectories(
    root,
    {
      appeared: (uid) => seen.push(`+${uid}`),
      gone: (uid) => seen.push(`-${uid}`),
      looked: () => undefined,
    },
    log,
  );
  afterwards(() => directories.close());
  return { root, seen, directories, lines };
}

describe('pod directories', () => {
  it('are told at the start, when they appear and when they go, by the names of UIDs alone', async () => {
    const root = join(folder(), 'pods');
    mkdirSync(join(root, podUid(1)), { recursive: true });
    mkdirSync(join(root, 'no-uid'));
    symlinkSync(join(root, podUid(1)), join(root, podUid(2)));
    writeFileSync(join(root, podUid(3)), '');
    const { seen } = look(root);
    expect(seen).toEqual([`+${podUid(1)}`]);
    mkdirSync(join(root, podUid(4)));
    await until('the new one', () => seen.includes(`+${podUid(4)}`));
    rmdirSync(join(root, podUid(1)));
    await until('its end', () => seen.includes(`-${podUid(1)}`));
    expect(seen).toHaveLength(3);
  });

  it("can be written in by the pod's user, and the agent's sockets not taken away", async () => {
    const { root, seen } = look();
    mkdirSync(join(root, podUid(1)), { mode: 0o750 });
    await until('it', () => seen.length === 1);
    expect(lstatSync(join(root, podUid(1))).mode & 0o7777).toBe(0o1777);
    expect(lstatSync(root).mode & 0o777).toBe(0o711);
  });

  it('are made fit again when one took the place of another', async () => {
    const { root, seen } = look();
    const path = join(root, podUid(1));
    mkdirSync(path);
    await until('it', () => seen.length === 1);
    rmdirSync(path);
    mkdirSync(path, { mode: 0o750 });
    await until('its mode', () => (lstatSync(path).mode & 0o7777) === 0o1777);
    expect(seen.at(-1)).toBe(`+${podUid(1)}`);
  });

  it('lose what an agent that was killed had not put in place', async () => {
    const root = folder();
    const server = createServer().listen(join(root, '.agent.sock.00'));
    afterwards(() => void server.close());
    await until('listening', () => existsSync(join(root, '.agent.sock.00')));
    look(root);
    expect(readdirSync(root)).toEqual([]);
  });

  it('of pods that ended are removed after a minute, links in them not followed; listed and connected ones stay', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    afterwards(() => void vi.useRealTimers());
    const precious = join(folder(), 'precious');
    mkdirSync(precious);
    writeFileSync(join(precious, 'file'), 'kept');
    const root = join(folder(), 'pods');
    for (const n of [1, 2, 3]) mkdirSync(join(root, podUid(n)), { recursive: true });
    symlinkSync(precious, join(root, podUid(1), 'link'));
    const { directories, seen } = look(root);
    vi.advanceTimersByTime(61_000);
    directories.removeDead(new Set([podUid(2)]), (uid) => uid === podUid(3));
    vi.useRealTimers();
    await until('its end', () => !existsSync(join(root, podUid(1))));
    expect(seen.filter((text) => text.startsWith('-'))).toEqual([`-${podUid(1)}`]);
    expect(readdirSync(root).sort()).toEqual([podUid(2), podUid(3)]);
    expect(readFileSync(join(precious, 'file'), 'utf8')).toBe('kept');
  });

  it('of pods that are new are not removed', () => {
    const { root, directories, seen } = look();
    mkdirSync(join(root, podUid(1)));
    directories.removeDead(new Set(), () => false);
    expect(existsSync(join(root, podUid(1)))).toBe(true);
    expect(seen).not.toContain(`-${podUid(1)}`);
  });
});

describe('measuring', () => {
  /** Measurements that the test finishes by hand. */
  function start() {
    const begun: PromiseWithResolvers<Measurement>[] = [];
    const told: number[] = [];
    const { log, lines } = keptLog();
    const measuring = startMeasuring(
      () => {
        const next = Promise.withResolvers<Measurement>();
        begun.push(next);
        return next.promise;
      },
      ({ startedAtMs }) => told.push(startedAtMs),
      log,
    );
    afterwards(() => measuring.stop());
    return { measuring, begun, told, lines };
  }

  it('begins at once, and once more after a wish that came meanwhile, however many came', async () => {
    const { measuring, begun, told } = start();
    await until('the first', () => begun.length === 1);
    measuring.ask();
    measuring.ask();
    begun[0]!.resolve({ startedAtMs: 1, gpus: [] });
    await until('the second', () => begun.length === 2);
    expect(told).toEqual([1]);
    begun[1]!.resolve({ startedAtMs: 2, gpus: [] });
    await until('its end', () => told.length === 2);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(begun).toHaveLength(2);
  });

  it('has begun when a wish returns that comes long after the last one', async () => {
    const { measuring, begun, told } = start();
    begun[0]!.resolve({ startedAtMs: 1, gpus: [] });
    await until('its end', () => told.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 60));
    measuring.ask();
    expect(begun).toHaveLength(2);
  });

  it('tries again after a failure, and complains once', async () => {
    const { begun, told, lines } = start();
    await until('the first', () => begun.length === 1);
    begun[0]!.reject(new Error('hangs'));
    await until('the second', () => begun.length === 2);
    begun[1]!.reject(new Error('hangs'));
    await until('the third', () => begun.length === 3);
    begun[2]!.resolve({ startedAtMs: 3, gpus: [] });
    await until('success', () => told.length === 1);
    expect(lines.map(({ level }) => level)).toEqual(['warn', 'info']);
  });
});

describe('a measurement kept beside the weights', () => {
  it('is there for the next agent, the last of many, with nothing left over', async () => {
    const models = folder();
    const { log } = keptLog();
    const keeper = createMeasurementKeeper(models, log);
    for (let n = 1; n <= 20; n++) keeper.keep('abc', 'NVIDIA-A40', { awakeBytes: n, residueBytes: null });
    keeper.keep('abc', 'Tesla-T4', { awakeBytes: 7, residueBytes: 3 });
    await keeper.settled();
    expect(await readKeptMeasurement(models, 'abc', 'NVIDIA-A40', log)).toEqual({
      awakeBytes: 20,
      residueBytes: null,
    });
    expect(await readKeptMeasurement(models, 'abc', 'Tesla-T4', log)).toEqual({
      awakeBytes: 7,
      residueBytes: 3,
    });
    expect(readdirSync(join(models, '.greenthread/measurements')).sort()).toEqual([
      'abc-NVIDIA-A40.json',
      'abc-Tesla-T4.json',
    ]);
  });

  it('costs a line, no more, where nothing can be written', async () => {
    const models = join(folder(), 'file');
    writeFileSync(models, '');
    const { log, lines } = keptLog();
    const keeper = createMeasurementKeeper(models, log);
    keeper.keep('abc', 'NVIDIA-A40', { awakeBytes: 1, residueBytes: null });
    keeper.keep('../abc', 'NVIDIA-A40', { awakeBytes: 1, residueBytes: null });
    await keeper.settled();
    expect(lines).toHaveLength(2);
    expect(readFileSync(models, 'utf8')).toBe('');
  });

  it('is none where a link, a folder or too much lies', async () => {
    const models = folder();
    const { log } = keptLog();
    const kept = join(models, '.greenthread/measurements');
    mkdirSync(join(kept, 'folder-A40.json'), { recursive: true });
    writeFileSync(join(models, 'secret'), '{"v":1,"awakeBytes":1}');
    symlinkSync(join(models, 'secret'), join(kept, 'link-A40.json'));
    writeFileSync(join(kept, 'long-A40.json'), `{"v":1,"awakeBytes":1}${' '.repeat(5_000)}`);
    for (const hash of ['folder', 'link', 'long', 'absent'])
      expect(await readKeptMeasurement(models, hash, 'A40', log)).toBeNull();
  });
});
