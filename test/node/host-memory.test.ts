import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GpuStatus } from '../../api/gpu.ts';
import { type ApiServer, collections, createApiServer } from '../../hack/one-node/api-server.ts';
import { certificateIn } from '../../hack/one-node/certificate.ts';
import { annotations } from '../../proto/names.ts';
import { weights } from '../unit/agent/staging/facts.ts';
import { writeForm } from '../unit/agent/staging/form-on-disk.ts';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

const pageBytes = 2 * 2 ** 20;
const pages = 4;
/** One image fits, two do not. */
const poolMB = 12;
const folder = mkdtempSync(join(tmpdir(), 'gt-host-memory-'));
const { keyFile, certificateFile } = certificateIn(folder);
let api: ApiServer;
let world: NodeWorld;

beforeAll(async () => {
  api = await createApiServer({
    key: readFileSync(keyFile, 'utf8'),
    cert: readFileSync(certificateFile, 'utf8'),
  });
  world = await createNodeWorld('a40:1', { api: { server: api, certificateFile }, poolMB });
  await world.startAgent();
});
afterAll(async () => {
  await world?.close();
  api?.close();
  rmSync(folder, { recursive: true });
});

function addPod(model: string, n: number): Promise<Pod> {
  writeForm(world.modelsDir, n, pages);
  return world.addPod(model, {
    share: 0.3,
    settings: { sleep: { idleTimeoutMs: 300 } },
    simulation: { bootSeconds: 0.3, wakeBaseMs: 20 },
    annotations: { [annotations.weights]: weights(n), [annotations.engineHash]: `hash${n}` },
  });
}

/** As the plug-in of an engine does, which the simulated one lacks. */
function writeImage({ podUid }: Pod): void {
  const own = join(world.poolDir, 'pods', podUid);
  mkdirSync(own, { recursive: true });
  const bytes = Buffer.alloc(pages * pageBytes);
  bytes.write('GTIMAGE1');
  writeFileSync(join(own, `${'a'.repeat(16)}-${'b'.repeat(16)}.image`), bytes);
}

const statusOf = async (pod: Pod) =>
  (await world.status(pod)) as { state: string; bootReady: boolean; reason?: string; message?: string };
const isHeld = async (pod: Pod): Promise<boolean> => (await statusOf(pod)).reason === 'NoRoomForImage';

/** What the controller reads. */
function shownOf(model: string): string {
  const gpu = api.get(collections.gpus, 'gpu-n1-0') as unknown as { status?: GpuStatus } | undefined;
  return gpu?.status?.occupants?.find((occupant) => occupant.model === model)?.message ?? '';
}

describe('a boot without host memory for its image', () => {
  it('waits beside a model that goes on, says why, outlives the agent, and boots once that model is gone', async () => {
    const red = await addPod('red', 1);
    await until('red to have booted', async () => (await statusOf(red)).bootReady);
    writeImage(red);
    const blue = await addPod('blue', 2);
    await until('blue to be held', () => isHeld(blue));
    expect((await statusOf(blue)).message).toMatch(/raise storage\.pinnedMemoryMB/);
    await until('the Event', () => api.events.some(({ reason }) => reason === 'NoRoomForImage'));

    await world.killAgent();
    await world.startAgent();
    await until('red to sleep', async () => (await statusOf(red)).state === 'sleeping');
    await until('blue to be held still', () => isHeld(blue));
    expect(await world.chat(red, 'nonce-1')).toMatchObject({ status: 200 });
    await until('the GPU to show it', () => shownOf('blue').includes('raise storage.pinnedMemoryMB'));

    api.remove(collections.pods, 'red-0-abcde');
    await until('blue to have booted', async () => (await statusOf(blue)).bootReady);
    expect(world.violations()).toEqual([]);
  });
});
