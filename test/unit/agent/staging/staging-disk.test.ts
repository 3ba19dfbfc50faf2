/** The agent's staging as a whole: pods come, boot, write images, go; the agent is begun anew in between. */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Registry } from 'prom-client';
import { afterEach, describe, expect, it } from 'vitest';
import { imageMagic } from '../../../../agent/decide/staging/images.ts';
import type { BootRoom } from '../../../../agent/decide/staging/words.ts';
import { type Staging, startStaging } from '../../../../agent/staging.ts';
import { imagesFolder } from '../../../../proto/names.ts';
import { cleanUp, folder, keptLog, podUid, until } from '../runtime/until.ts';
import { key, weights } from './facts.ts';
import { writeForm } from './form-on-disk.ts';

const page = 2 * 1024 * 1024;
const name = `${'a'.repeat(16)}-${'b'.repeat(16)}.image`;
const running: Staging[] = [];

afterEach(async () => {
  for (const staging of running.splice(0)) await staging.close();
  await cleanUp();
});

const object = (n: number, more: Record<string, string> = {}) => ({
  metadata: {
    name: `m${n}-0`,
    namespace: 'default',
    uid: podUid(n),
    labels: { 'greenthread.ai/model': `m${n}` },
    annotations: {
      'greenthread.ai/weights': weights(n),
      'greenthread.ai/engine-hash': `hash${n}`,
      'greenthread.ai/gpu-uuids': 'GPU-1',
      ...more,
    },
  },
});

function node(poolBytes: number | null = null) {
  const root = folder();
  const poolDir = join(root, 'pool');
  const modelsDir = join(root, 'models');
  const { log, lines } = keptLog();
  const told: { podUid: string; reason: string; message: string }[] = [];
  const alive = new Set<string>();
  const rooms = new Map<string, BootRoom>();
  const begin = (bound = poolBytes) => {
    const registry = new Registry();
    rooms.clear();
    const staging = startStaging({
      poolDir,
      modelsDir,
      poolBytes: bound,
      alive: (uid) => alive.has(uid),
      explain: (effect) => void told.push(effect),
      onBoots(boots) {
        rooms.clear();
        for (const boot of boots) rooms.set(boot.podUid, boot);
      },
      onLost: () => {},
      registry,
      log,
      nowMs: () => performance.now(),
    });
    running.push(staging);
    const list = (...objects: ReturnType<typeof object>[]) => {
      alive.clear();
      for (const { metadata } of objects) alive.add(metadata.uid);
      staging.listed(objects);
    };
    return { staging, list, metrics: () => registry.metrics() };
  };
  const progress = (n: number): number | null => {
    const path = join(poolDir, 'staged', key(n), 'progress');
    return existsSync(path) ? Number(readFileSync(path).readBigUInt64LE(8)) : null;
  };
  const filled = (n: number): number => {
    const path = join(poolDir, 'staged', key(n), 'progress');
    return existsSync(path) ? Number(readFileSync(path).readBigUInt64LE(0)) : 0;
  };
  const said = (reason: string) => told.find((each) => each.reason === reason);
  const held = (n: number) => rooms.get(podUid(n))?.held?.reason ?? null;
  const writeImage = (n: number, pages: number): void => {
    const own = join(poolDir, 'pods', podUid(n));
    mkdirSync(own, { recursive: true });
    const bytes = Buffer.alloc(pages * page);
    bytes.write(imageMagic);
    writeFileSync(join(own, name), bytes);
  };
  const imageOf = (n: number): string => join(poolDir, 'images', imagesFolder('default', `hash${n}`));
  const at = { root, poolDir, modelsDir, lines, told, alive, rooms };
  return { ...at, said, begin, progress, filled, held, writeImage, imageOf };
}

const asked = (n: number) => ({
  type: 'asked' as const,
  podUid: podUid(n),
  uuids: [],
  bytes: 1,
  restarts: 0,
});

describe('staging on a node', () => {
  it('brings the weights of a pod that came into the pool, and says how long it took', async () => {
    const at = node();
    const { bytes } = writeForm(at.modelsDir, 1, 4);
    const agent = at.begin();
    agent.list(object(1));
    await until('the weights', () => at.progress(1) === 1);
    expect(readFileSync(join(at.poolDir, 'staged', key(1), 'weights')).equals(bytes)).toBe(true);
    await until('the word', () => at.said('Staged'));
    expect(at.said('Staged')).toMatchObject({
      podUid: podUid(1),
      message: expect.stringMatching(/in host memory: 0\.01 GiB of 0\.01 GiB read in/),
    });
    const metrics = await agent.metrics();
    expect(metrics).toContain('gthread_agent_staging_duration_seconds_count{outcome="whole"} 1');
    expect(metrics).toContain(`gthread_agent_staged_bytes_total ${4 * page}`);
    expect(metrics).toContain(`gthread_agent_pool_bytes{kind="staged"} ${4 * page}`);
  });

  it('tells of files that are damaged, then gone, and stages them when they are back', async () => {
    const at = node();
    const { folder: form } = writeForm(at.modelsDir, 1, 2);
    const upstream = join(at.modelsDir, weights(1).replace('.gthread-1', ''));
    mkdirSync(upstream);
    writeFileSync(join(upstream, '.greenthread.json'), '{}');
    truncateSync(join(form, 'weights'), page);
    const agent = at.begin();
    agent.list(object(1));
    await until('the damage', () => agent.staging.lost(podUid(1))?.state === 'Damaged');
    expect(agent.staging.lost(podUid(1))).toMatchObject({
      path: weights(1),
      message: expect.stringMatching(/has 2097152 bytes, not 4194304/),
    });
    rmSync(form, { recursive: true });
    await until('the loss', () => agent.staging.lost(podUid(1))?.state === 'Missing');
    await until('the word', () => at.said('WeightsMissing'));
    writeForm(at.modelsDir, 1, 2);
    await until('the weights', () => at.progress(1) === 1);
    await until('their return', () => agent.staging.lost(podUid(1)) === null);
  });

  it('has the place of a boot made when its grant is given, while another is still under way', async () => {
    const at = node();
    writeForm(at.modelsDir, 1, 24);
    writeForm(at.modelsDir, 2, 2);
    const agent = at.begin();
    agent.list(object(1), object(2));
    agent.staging.heard(asked(1));
    // By then the other form was looked at too: both are asked for at the same time, and this one's bytes come later.
    await until('first bytes', () => at.filled(1) > 0);
    agent.staging.granted(podUid(2));
    expect(at.progress(2)).not.toBeNull();
    // Its loader waits as long as this goes on.
    const path = join(at.poolDir, 'staged', key(2), 'progress');
    utimesSync(path, 1, 1);
    agent.list(object(1), object(2));
    expect(statSync(path).mtimeMs).toBeGreaterThan(1_000);
    await until('both', () => at.progress(1) === 1 && at.progress(2) === 1);
  });

  it('links the image of an engine that is ready, and stages no more for its like', async () => {
    const at = node();
    writeForm(at.modelsDir, 1, 2);
    const own = join(at.poolDir, 'pods', podUid(1));
    const agent = at.begin();
    mkdirSync(own, { recursive: true, mode: 0o750 });
    agent.list(object(1));
    agent.staging.heard(asked(1));
    expect(statSync(own).mode & 0o7777).toBe(0o1777);
    agent.staging.granted(podUid(1));
    await until('the weights', () => at.progress(1) === 1);
    const head = Buffer.alloc(48);
    head.write(imageMagic);
    writeFileSync(join(own, name), head);
    truncateSync(join(own, name), 2 * page);
    agent.staging.heard({ type: 'ready', podUid: podUid(1) });
    expect(existsSync(join(at.poolDir, 'images', imagesFolder('default', 'hash1'), name))).toBe(true);
    rmSync(join(at.poolDir, 'staged', key(1)), { recursive: true });
    agent.list(
      object(1),
      object(2, { 'greenthread.ai/weights': weights(1), 'greenthread.ai/engine-hash': 'hash1' }),
    );
    agent.staging.heard(asked(2));
    expect(at.progress(1)).toBeNull();
    expect(await agent.metrics()).toContain('gthread_agent_pool_images_linked_total 1');
  });

  it('links an image at a later look when it cannot now, and says so once', async () => {
    const at = node();
    const own = join(at.poolDir, 'pods', podUid(1));
    const agent = at.begin();
    agent.list(object(1));
    mkdirSync(own, { recursive: true });
    const head = Buffer.alloc(2 * page);
    head.write(imageMagic);
    writeFileSync(join(own, name), head);
    const inTheWay = join(at.poolDir, 'images', imagesFolder('default', 'hash1'));
    writeFileSync(inTheWay, '');
    agent.list(object(1));
    agent.list(object(1));
    const said = () => at.lines.filter(({ message }) => message === 'an image is not linked').length;
    expect([said(), existsSync(join(inTheWay, name))]).toEqual([1, false]);
    rmSync(inTheWay);
    agent.list(object(1));
    expect([said(), existsSync(join(inTheWay, name))]).toEqual([1, true]);
  });

  it('evicts what nobody uses for what is wanted, and says why', async () => {
    const at = node(22 * page);
    writeForm(at.modelsDir, 1, 4);
    writeForm(at.modelsDir, 2, 10);
    const agent = at.begin();
    agent.list(object(1));
    await until('the first', () => at.progress(1) === 1);
    agent.list(object(2));
    await until('the second', () => at.progress(2) === 1);
    expect(at.progress(1)).toBeNull();
    expect(at.lines.find(({ message }) => message === 'evicted from the pool')).toMatchObject({
      what: key(1),
      bytes: 4 * page,
    });
    expect(await agent.metrics()).toContain('gthread_agent_pool_evictions_total{kind="staged"} 1');
  });

  it('begins nothing before what went for it is free', async () => {
    const at = node(22 * page);
    writeForm(at.modelsDir, 1, 4);
    writeForm(at.modelsDir, 2, 10);
    const agent = at.begin();
    agent.list(object(1));
    await until('the first', () => at.progress(1) === 1);
    agent.list(object(1), object(2));
    await until('no room for the second', () => at.said('NoRoomToStage') !== undefined);
    const begun = () => at.lines.filter(({ message }) => message === 'staging begins').length;
    agent.list(object(2));
    // Its loader finds a place and waits.
    expect([begun(), at.progress(1), at.progress(2)]).toEqual([1, null, 0]);
    await until('the second', () => at.progress(2) === 1);
    expect(begun()).toBe(2);
  });

  it('says once that there is no room', async () => {
    const at = node(3 * page);
    writeForm(at.modelsDir, 1, 4);
    const agent = at.begin();
    agent.list(object(1));
    agent.staging.granted(podUid(1));
    await until('the refusal', () => at.said('NoRoomToStage'));
    agent.staging.heard({ type: 'started', podUid: podUid(1) });
    agent.list(object(1));
    expect(at.told.filter(({ reason }) => reason === 'NoRoomToStage')).toHaveLength(1);
    expect(at.progress(1)).toBeNull();
  });

  it('holds a boot back that has no room for its image, also after its own restart, until there is', async () => {
    const at = node(8 * page);
    writeForm(at.modelsDir, 1, 4);
    writeForm(at.modelsDir, 2, 6);
    let agent = at.begin();
    agent.list(object(1), object(2));
    expect(at.held(1)).toBe('SizeUnknown');
    await until('both looked at', () => at.rooms.size === 2 && at.held(1) === null && at.held(2) === null);
    agent.staging.heard(asked(1));
    agent.staging.heard(asked(2));
    agent.staging.granted(podUid(1));
    expect([at.rooms.has(podUid(1)), at.held(2)]).toEqual([false, 'NoRoomForImage']);
    at.writeImage(1, 4);
    agent.staging.heard({ type: 'ready', podUid: podUid(1) });
    expect(existsSync(at.imageOf(1))).toBe(true);
    agent.list(object(1), object(2));
    expect(at.told.filter(({ reason }) => reason === 'NoRoomForImage')).toEqual([
      expect.objectContaining({
        podUid: podUid(2),
        message: expect.stringMatching(/needs 0\.0 GiB of host memory.*raise storage\.pinnedMemoryMB/),
      }),
    ]);
    await agent.staging.close();

    agent = at.begin();
    agent.list(object(1), object(2));
    await until('the same', () => at.held(2) === 'NoRoomForImage');
    agent.list(object(2));
    expect(at.held(2)).toBeNull();
    agent.staging.heard(asked(2));
    agent.staging.granted(podUid(2));
    expect([existsSync(at.imageOf(1)), at.progress(1), at.rooms.size]).toEqual([false, null, 0]);
  });

  it('holds none back any more once its bound is raised', async () => {
    const at = node();
    writeForm(at.modelsDir, 1, 4);
    const low = at.begin(3 * page);
    low.list(object(1));
    await until('no room', () => at.held(1) === 'NoRoomForImage');
    await low.staging.close();
    at.begin(4 * page).list(object(1));
    await until('room', () => at.rooms.size === 1 && at.held(1) === null);
  });

  it('has the weights of a boot make way for its image where both have no room: it reads the disk', async () => {
    const at = node();
    writeForm(at.modelsDir, 1, 4);
    const first = at.begin(20 * page);
    first.list(object(1));
    await until('the weights', () => at.progress(1) === 1);
    await first.staging.close();
    const agent = at.begin(5 * page);
    agent.list(object(1));
    await until('its room', () => at.rooms.size === 1 && at.held(1) === null);
    agent.staging.heard(asked(1));
    expect(at.progress(1)).toBe(1);
    agent.staging.granted(podUid(1));
    expect(at.progress(1)).toBeNull();
    expect(at.said('NoRoomToStage')?.message).toMatch(/reads it from disk/);
  });

  it('says what is wrong with files, has loaders read the disk, and does not try at once again', async () => {
    const at = node();
    const { folder: form } = writeForm(at.modelsDir, 1, 3);
    writeFileSync(join(form, 'weights'), Buffer.alloc(3 * page));
    const agent = at.begin();
    agent.list(object(1));
    agent.staging.granted(podUid(1));
    await until('the failure', () => at.said('StagingFailed'));
    expect(at.said('StagingFailed')?.message).toMatch(/hash of the manifest.*delete/);
    expect(at.progress(1)).toBe(2);
    agent.list(object(1));
    expect(at.told.filter(({ reason }) => reason === 'StagingFailed')).toHaveLength(1);
    expect(await agent.metrics()).toContain(
      'gthread_agent_staging_duration_seconds_count{outcome="failed"} 1',
    );
  });

  it('goes on after a kill at any moment: what was staged is there, what was begun is ended', async () => {
    const at = node();
    const { bytes } = writeForm(at.modelsDir, 1, 40);
    const first = at.begin();
    first.list(object(1));
    await until('a beginning', () => at.progress(1) !== null);
    await first.staging.close();
    const state = at.progress(1);
    const second = at.begin();
    second.list(object(1));
    await until('the rest', () => at.progress(1) === 1);
    expect([0, 1]).toContain(state);
    expect(readFileSync(join(at.poolDir, 'staged', key(1), 'weights')).equals(bytes)).toBe(true);
  });

  it('does without a pool where none can be made, says so once, and is there when it can', async () => {
    const at = node();
    writeForm(at.modelsDir, 1, 1);
    writeFileSync(at.poolDir, 'in the way');
    const agent = at.begin();
    agent.list(object(1));
    agent.staging.granted(podUid(1));
    agent.list(object(1));
    expect(at.lines.filter(({ message }) => message.includes('pool cannot be made'))).toHaveLength(1);
    rmSync(at.poolDir);
    await until('the weights', () => at.progress(1) === 1);
  });

  it('stages nothing that is not published, until it is', async () => {
    const at = node();
    const agent = at.begin();
    agent.list(object(1));
    agent.staging.granted(podUid(1));
    expect(at.progress(1)).toBeNull();
    writeForm(at.modelsDir, 1, 1);
    await until('the weights', () => at.progress(1) === 1);
  });
});
