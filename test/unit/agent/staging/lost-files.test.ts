/** Files that pods load and that the disk does not hold any more: seen, told, and seen to be back. */
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { filesOf, lookAgainMs, withLostFiles } from '../../../../agent/decide/staging/lost-files.ts';
import { createLostFiles } from '../../../../agent/lost-files.ts';
import type { GpuOccupant } from '../../../../api/gpu.ts';
import { annotations } from '../../../../proto/names.ts';
import { commit, uid, weights } from './facts.ts';
import { temporaryFolder, writeForm } from './form-on-disk.ts';

const upstream = (n: number): string => `org--m${n}/${commit(n)}`;
const object = (n: number, notes: Record<string, string>, more: object = {}) => ({
  metadata: {
    name: `m${n}-0`,
    namespace: 'default',
    uid: uid(n),
    labels: { 'greenthread.ai/model': `m${n}` },
    annotations: notes,
    ...more,
  },
});
const auto = (n: number) => object(n, { [annotations.files]: upstream(n) });
const gthread = (n: number) =>
  object(n, { [annotations.files]: upstream(n), [annotations.weights]: weights(n) });

describe('the files of a pod', () => {
  it('are the upstream ones, and the form where it loads one', () => {
    expect(filesOf(auto(1))).toEqual({ podUid: uid(1), paths: [upstream(1)] });
    expect(filesOf(gthread(1))?.paths).toEqual([upstream(1), weights(1)]);
    expect(filesOf(object(1, { [annotations.weights]: weights(1) }))?.paths).toEqual([
      upstream(1),
      weights(1),
    ]);
  });

  it.each([
    object(1, {}),
    object(1, { [annotations.files]: `../../etc/${commit(1)}` }),
    object(1, { [annotations.files]: 'org--m1/main' }),
    object(1, { [annotations.files]: upstream(1) }, { deletionTimestamp: '2026-01-01T00:00:00Z' }),
  ])('are none of $metadata', (pod) => {
    expect(filesOf(pod)).toBeNull();
  });
});

function node() {
  const modelsDir = temporaryFolder();
  const clock = { nowMs: 1_000 };
  const changes: string[] = [];
  const files = createLostFiles({
    modelsDir,
    nowMs: () => clock.nowMs,
    changed: (path) => void changes.push(path),
  });
  const fetch = (n: number): void => {
    mkdirSync(join(modelsDir, upstream(n)), { recursive: true });
    writeFileSync(join(modelsDir, upstream(n), '.greenthread.json'), '{}');
  };
  const remove = (path: string): void => rmSync(join(modelsDir, path), { recursive: true });
  return { modelsDir, clock, changes, files, fetch, remove };
}

describe('files on the disk', () => {
  it('that are there are not lost; that go are, since the look that did not find them', async () => {
    const { clock, changes, files, fetch, remove } = node();
    fetch(1);
    files.listed([auto(1)]);
    await files.look();
    expect(files.of(uid(1))).toBeNull();
    remove(upstream(1));
    clock.nowMs += lookAgainMs;
    await files.look();
    const lost = { path: upstream(1), state: 'Missing', sinceMs: clock.nowMs };
    expect(files.of(uid(1))).toMatchObject(lost);
    expect(files.of(uid(1))?.message).toMatch(/is not on this node's disk/);
    clock.nowMs += 2_000;
    await files.look();
    expect(files.of(uid(1))).toMatchObject(lost);
    expect(changes).toEqual([upstream(1)]);
    fetch(1);
    await files.look();
    expect(files.of(uid(1))).toBeNull();
    expect(changes).toEqual([upstream(1), upstream(1)]);
  });

  it('are lost to all pods that load them, and to no other', async () => {
    const { modelsDir, files, fetch } = node();
    fetch(1);
    fetch(2);
    writeForm(modelsDir, 2, 1);
    const second = { ...gthread(1), metadata: { ...gthread(1).metadata, uid: uid(3) } };
    files.listed([gthread(1), second, gthread(2)]);
    await files.look();
    expect(files.of(uid(1))).toMatchObject({ path: weights(1), state: 'Missing' });
    expect(files.of(uid(3))).toEqual(files.of(uid(1)));
    expect(files.of(uid(2))).toBeNull();
    files.listed([]);
    expect(files.of(uid(1))).toBeNull();
    expect(files.has(weights(1))).toBe(false);
  });

  it('that cannot be looked at are not said to be missing', async () => {
    const { modelsDir, clock, files, remove } = node();
    // A link to itself stands for a disk that answers with an error.
    symlinkSync('org--m1', join(modelsDir, 'org--m1'));
    files.listed([auto(1)]);
    await files.look();
    expect(files.of(uid(1))).toBeNull();
    remove('org--m1');
    clock.nowMs += lookAgainMs;
    await files.look();
    expect(files.of(uid(1))?.state).toBe('Missing');
  });

  it('that are damaged stay so until others are written in their place, or they read well again', async () => {
    const { modelsDir, clock, files, fetch } = node();
    fetch(1);
    const { folder } = writeForm(modelsDir, 1, 1);
    files.listed([gthread(1)]);
    await files.damaged(weights(1), 'chunk 3 is wrong');
    const since = clock.nowMs;
    const damaged = { path: weights(1), state: 'Damaged', message: 'chunk 3 is wrong', sinceMs: since };
    expect(files.of(uid(1))).toMatchObject(damaged);
    clock.nowMs += lookAgainMs;
    await files.look();
    await files.damaged(weights(1), 'chunk 4 is wrong');
    expect(files.of(uid(1))).toMatchObject(damaged);
    rmSync(folder, { recursive: true });
    writeForm(modelsDir, 1, 2);
    await files.look();
    expect(files.of(uid(1))).toBeNull();
    await files.damaged(weights(1), 'chunk 5 is wrong');
    files.sound(weights(1));
    expect(files.of(uid(1))).toBeNull();
  });
});

it('an occupant tells what its pod has lost, by the wall clock and in a bounded text', () => {
  const occupant = { podUid: uid(1), state: 'waiting' } as GpuOccupant;
  const other = { podUid: uid(2), state: 'serving' } as GpuOccupant;
  const lost = {
    path: upstream(1),
    state: 'Missing' as const,
    message: 'x'.repeat(2_000),
    sinceMs: 7,
    identity: null,
  };
  const told = withLostFiles(
    { 'GPU-a': [occupant, other] },
    (podUid) => (podUid === uid(1) ? lost : null),
    (ms) => `at ${ms}`,
  );
  expect(told['GPU-a']).toEqual([
    {
      ...occupant,
      lostFiles: { path: upstream(1), state: 'Missing', since: 'at 7', message: 'x'.repeat(1_024) },
    },
    other,
  ]);
});
