import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ownBytesOf, readMeminfo } from '../../../../agent/decide/staging/memory-texts.ts';
import { podNotes } from '../../../../agent/decide/staging/pod-notes.ts';
import { isOf, parseWeights } from '../../../../agent/decide/staging/weights-name.ts';
import { hostMemory } from '../../../../agent/observe/pool/host-memory.ts';
import { lookAtForm, readHead } from '../../../../agent/observe/pool/weights-form.ts';
import { imagesFolder } from '../../../../proto/names.ts';
import { gthreadFolder } from '../../../../proto/weights.ts';
import { commit, key, uid, weights } from './facts.ts';
import { temporaryFolder, writeForm } from './form-on-disk.ts';

describe('the name of weights', () => {
  it('is the folder that the converter publishes', () => {
    const text = gthreadFolder('org/m1', commit(1));
    expect(text).toBe(weights(1));
    expect(parseWeights(text)).toEqual({ weights: text, model: 'org--m1', commit: commit(1), key: key(1) });
    expect(isOf(parseWeights(text)!, { modelName: 'org/m1', commit: commit(1) })).toBe(true);
    expect(isOf(parseWeights(text)!, { modelName: 'org/m2', commit: commit(1) })).toBe(false);
    expect(isOf(parseWeights(text)!, { modelName: 'org/m1', commit: commit(2) })).toBe(false);
  });

  it.each([
    '',
    `../${commit(1)}.gthread-1`,
    `.hidden/${commit(1)}.gthread-1`,
    `a/b/${commit(1)}.gthread-1`,
    `a/${commit(1)}.gthread-2`,
    `a/${commit(1)}`,
    `a/main.gthread-1`,
    `${'x'.repeat(300)}/${commit(1)}.gthread-1`,
    `a/${commit(1)}.gthread-1\n`,
  ])('is not %j', (text) => {
    expect(parseWeights(text)).toBeNull();
  });
});

describe('a pod that loads the gthread form', () => {
  const object = (annotations: Record<string, string>, more: object = {}) => ({
    metadata: {
      name: 'a',
      namespace: 'n',
      uid: uid(1),
      labels: { 'greenthread.ai/model': 'm' },
      annotations,
      ...more,
    },
  });
  const notes = {
    'greenthread.ai/weights': weights(1),
    'greenthread.ai/weights-pinned': 'true',
    'greenthread.ai/engine-hash': 'h1',
    'greenthread.ai/gpu-uuids': 'GPU-a,GPU-b',
  };

  it('is read from its annotations', () => {
    expect(podNotes(object(notes))).toEqual({
      podUid: uid(1),
      name: 'a',
      replica: 'n/m/0',
      weights: weights(1),
      pinned: true,
      engineHash: imagesFolder('n', 'h1'),
      ranks: 2,
      deleting: false,
    });
  });

  it.each([
    ['names no weights', object({})],
    [
      'names weights that lead elsewhere',
      object({ ...notes, 'greenthread.ai/weights': `../../etc/${commit(1)}.gthread-1` }),
    ],
    ['has ended', { ...object(notes), status: { phase: 'Succeeded' } }],
    ['is not of a Model', object(notes, { labels: {} })],
  ])('is none that %s', (_what, pod) => {
    expect(podNotes(pod)).toBeNull();
  });

  it('is pinned by the word true alone, and has one GPU at least', () => {
    const of = { ...notes, 'greenthread.ai/weights-pinned': 'false', 'greenthread.ai/gpu-uuids': '' };
    expect(podNotes(object(of))).toMatchObject({ pinned: false, ranks: 1 });
    const { 'greenthread.ai/weights-pinned': _, ...unsaid } = of;
    expect(podNotes(object(unsaid))?.pinned).toBe(false);
  });

  it('has images of its own namespace, whatever its hash says', () => {
    const folder = (namespace: string) => podNotes(object(notes, { namespace }))!.engineHash!;
    expect(folder('team-b')).not.toBe(folder('team-a'));
    expect(folder('team-a')).toBe(imagesFolder('team-a', 'h1'));
    expect(folder('team-a')).toMatch(/^[0-9a-f]{40}$/);
  });

  it('has no images when its hash is no name', () => {
    expect(podNotes(object({ ...notes, 'greenthread.ai/engine-hash': '../x' }))?.engineHash).toBeNull();
  });
});

describe('host memory', () => {
  const meminfo = 'MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n';

  it('is what the kernel says', () => {
    expect(readMeminfo(meminfo)).toEqual({ totalBytes: 16384 * 1024, availableBytes: 8192 * 1024 });
    expect(readMeminfo('MemTotal: 1 kB')).toBeNull();
    expect(readMeminfo('MemAvailable: 1 kB')).toBeNull();
  });

  it.each([
    ['max', '5', '', null],
    ['1000x', '5', '', null],
    ['x1000', '5', '', null],
    ['1000\n', 'what', '', 1000],
    ['1000', '400', 'anon 100\nfile 300\ninactive_file 50\nactive_file 150\n', 800],
    ['1000', '1200', 'inactive_file 0\n', 0],
    ['1000', '100', 'active_file 500\n', 1000],
  ])('leaves the agent of %s with %s taken: %s', (max, current, stat, bytes) => {
    expect(ownBytesOf({ max, current, stat })).toBe(bytes);
  });

  it('is read from its files, where there are control groups of version 2 with their limit', () => {
    const root = `${temporaryFolder()}/`;
    expect(hostMemory(root)).toBeNull();
    mkdirSync(join(root, 'proc'));
    writeFileSync(join(root, 'proc/meminfo'), meminfo);
    expect(hostMemory(root)?.ownBytes).toBeNull();
    mkdirSync(join(root, 'sys/fs/cgroup'), { recursive: true });
    writeFileSync(join(root, 'sys/fs/cgroup/memory.max'), `${1024 ** 3}\n`);
    writeFileSync(join(root, 'sys/fs/cgroup/memory.current'), '0\n');
    expect(hostMemory(root)?.ownBytes).toBe(768 * 1024 ** 2);
  });
});

describe('the form on disk', () => {
  const name = parseWeights(weights(1))!;

  it('is found with its size, and its manifest believed', async () => {
    const models = temporaryFolder();
    expect(await lookAtForm(models, name)).toEqual({ missing: true });
    const { manifest } = writeForm(models, 1, 2);
    expect(await lookAtForm(models, name)).toEqual({ bytes: manifest.bytes });
    expect((await readHead(models, name)).bytes).toBe(manifest.bytes);
  });

  it('that cannot be read says so', async () => {
    const models = temporaryFolder();
    mkdirSync(join(models, weights(1), 'manifest.pb'), { recursive: true });
    expect(await lookAtForm(models, name)).toMatchObject({ fault: expect.stringMatching(/no file.*delete/) });
  });

  it('of other weights, or of another length, is not believed', async () => {
    const models = temporaryFolder();
    const { folder, bytes } = writeForm(models, 1, 2);
    const other = parseWeights(weights(2))!;
    mkdirSync(join(models, 'org--m2'));
    const { cpSync } = await import('node:fs');
    cpSync(folder, join(models, weights(2)), { recursive: true });
    await expect(readHead(models, other)).rejects.toThrow(/is of org\/m1@.*delete .*org--m2/);
    writeFileSync(join(folder, 'weights'), bytes.subarray(1));
    await expect(readHead(models, name)).rejects.toThrow(/bytes, not .*delete .*next conversion/);
    writeFileSync(join(folder, 'manifest.pb'), 'junk');
    await expect(readHead(models, name)).rejects.toThrow(/manifest\.pb.*delete/);
  });
});
