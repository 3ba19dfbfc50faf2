/** The runtime wrapper: what it adds to an OCI bundle, and that runc gets its command line unchanged. */
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, GpuNode } from '../gpu-node.ts';

let node: GpuNode;
beforeAll(async () => {
  node = await GpuNode.create('--gpus', 'a40:2');
});
afterAll(() => node.destroy());

interface Mount {
  destination: string;
  source: string;
  options: string[];
}

const own: Mount = { destination: '/proc', source: 'proc', options: [] };

/** Creates a container with an environment; runc is a script that writes down its arguments. */
async function create(
  env: string[],
  command = 'create',
): Promise<{ answer: Answer; mounts: Mount[]; log: string; runc: string }> {
  const bundle = mkdtempSync(join(node.folder, 'bundle-'));
  const at = (name: string) => join(bundle, name);
  const config = { ociVersion: '1.2.0', process: { env }, mounts: [own], hooks: { keep: ['me'] } };
  writeFileSync(at('config.json'), JSON.stringify(config));
  writeFileSync(at('runc'), `#!/bin/sh\necho "$@" > ${at('called')}\n`);
  chmodSync(at('runc'), 0o755);
  const args = [
    '--root',
    '/r',
    '--log',
    at('log.json'),
    '--log-format',
    'json',
    command,
    '--bundle',
    bundle,
    'id',
  ];
  const answer = await node.call('nvidia-container-runtime', args, { NVRT_RUNC: at('runc') });
  const after = JSON.parse(readFileSync(at('config.json'), 'utf8'));
  expect(after.hooks).toEqual(config.hooks);
  const text = (name: string) => (existsSync(at(name)) ? readFileSync(at(name), 'utf8') : '');
  return { answer, mounts: after.mounts, log: text('log.json'), runc: text('called') };
}

describe('nvidia-container-runtime', () => {
  const folder = (i: number) => ({
    destination: `/run/gpu-sim/${node.uuids[i]}`,
    source: join(node.gpus, node.uuids[i]!),
  });
  const smi = { destination: '/usr/bin/nvidia-smi' };

  it.each([
    ['by UUID', () => `${node.uuids[1]}`, () => [smi, folder(1)]],
    ['by several UUIDs', () => node.uuids.join(','), () => [smi, folder(0), folder(1)]],
    ['by index', () => '0', () => [smi, folder(0)]],
    ['all', () => 'all', () => [smi, folder(0), folder(1)]],
    ['none', () => 'none', () => []],
    ['void', () => 'void', () => []],
  ])('mounts GPUs %s', async (_, devices, expected) => {
    const { answer, mounts, runc } = await create(['A=b', `NVIDIA_VISIBLE_DEVICES=${devices()}`]);
    expect(answer.code).toBe(0);
    expect(mounts[0]).toEqual(own);
    expect(mounts.slice(1)).toMatchObject(expected());
    expect(runc).toMatch(/^--root \/r --log .*log\.json --log-format json create --bundle .* id\n$/);
  });

  it('mounts nothing into a container that asks for no GPU', async () => {
    expect((await create(['A=b'])).mounts).toEqual([own]);
  });

  it('mounts nvidia-smi read-only, and leaves it out without the utility capability', async () => {
    const devices = `NVIDIA_VISIBLE_DEVICES=${node.uuids[0]}`;
    expect((await create([devices])).mounts[1]!.options).toContain('ro');
    const without = await create([devices, 'NVIDIA_DRIVER_CAPABILITIES=compute']);
    expect(without.mounts.slice(1)).toMatchObject([folder(0)]);
  });

  it('brings libraries in where a container computes', async () => {
    const libraries = mkdtempSync(join(node.folder, 'libraries-'));
    symlinkSync(libraries, join(node.gpus, 'libraries'));
    const devices = `NVIDIA_VISIBLE_DEVICES=${node.uuids[0]}`;
    const inside = { destination: '/usr/local/gpu-sim', source: libraries };
    expect((await create([devices])).mounts.slice(1)).toMatchObject([inside, smi, folder(0)]);
    const looking = await create([devices, 'NVIDIA_DRIVER_CAPABILITIES=utility']);
    expect(looking.mounts.slice(1)).toMatchObject([smi, folder(0)]);
    unlinkSync(join(node.gpus, 'libraries'));
  });

  it('touches the bundle on create alone', async () => {
    const { mounts, runc } = await create([`NVIDIA_VISIBLE_DEVICES=${node.uuids[0]}`], 'start');
    expect(mounts).toEqual([own]);
    expect(runc).toContain(' start ');
  });

  it.each([['GPU-00000000-0000-0000-0000-000000000000'], ['7'], ['../etc']])(
    'refuses the device %s in the log that containerd reads, and does not start runc',
    async (device) => {
      const { answer, log, runc } = await create([`NVIDIA_VISIBLE_DEVICES=${device}`]);
      expect(answer.code).toBe(1);
      expect(JSON.parse(log)).toEqual({
        level: 'error',
        msg: `nvidia-container-cli: device error: ${device}: unknown device`,
      });
      expect(runc).toBe('');
    },
  );
});
