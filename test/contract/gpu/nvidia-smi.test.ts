/** The simulated nvidia-smi against what real ones printed, and its faults. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { GpuNode, python, until } from '../gpu-node.ts';

const fixtures = fileURLToPath(new URL('../../fixtures/nvidia-smi', import.meta.url));

/** Every element's path, once, without what only processes or pages bring. */
function elements(xml: string): string[] {
  expect(XMLValidator.validate(xml)).toBe(true);
  const paths = new Set<string>();
  const walk = (node: unknown, path: string): void => {
    if (Array.isArray(node)) for (const each of node) walk(each, path);
    else if (typeof node === 'object' && node !== null) {
      for (const [name, child] of Object.entries(node)) {
        paths.add(`${path}/${name}`);
        walk(child, `${path}/${name}`);
      }
    }
  };
  walk(new XMLParser().parse(xml), '');
  return [...paths].filter((path) => !path.includes('/process_info')).sort();
}

const nodes: GpuNode[] = [];
const create = async (...flags: string[]): Promise<GpuNode> => {
  const node = await GpuNode.create(...flags);
  nodes.push(node);
  return node;
};
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.destroy()));
});

describe('nvidia-smi -q -x', () => {
  it.each([
    ['gtx-1660-ti', '418.43', 'gtx-1660-ti.xml'],
    ['a10g', '515.105.01', 'a10g.xml'],
    ['t4', '515.105.01', 'tesla-t4.xml'],
    ['quadro-p2000', '525.125.06', 'quadro-p2000-v12.xml'],
    ['rtx-3080', '536.40', 'rtx-3080-v12.xml'],
    ['rtx-3060', '570.124.04', 'rtx-3060-v12.xml'],
    ['rtx-3080', '595.58.03', 'rtx-3080-v13.xml'],
  ])('prints for %s under driver %s the elements of %s', async (type, driver, file) => {
    const node = await create('--gpus', `${type}:1`, '--driver', driver);
    const real = readFileSync(join(fixtures, file), 'utf8');
    const { stdout, code } = await node.smi('-q', '-x');
    expect(code).toBe(0);
    expect(elements(stdout)).toEqual(elements(real));
    const memory = (xml: string) => new XMLParser().parse(xml).nvidia_smi_log.gpu.fb_memory_usage;
    expect(memory(stdout).total).toBe(memory(real).total);
    expect(stdout.match(/<!DOCTYPE.*/)?.[0]).toBe(real.match(/<!DOCTYPE.*/)?.[0]);
  });

  it('gives each dialect its own schema', async () => {
    for (const dialect of ['v11', 'v12', 'v13']) {
      const node = await create('--gpus', 'a40:2,t4:1', '--dialect', dialect);
      const { stdout } = await node.smi('-q', '-x');
      expect(stdout).toContain(`nvsmi_device_${dialect}.dtd`);
      const log = new XMLParser().parse(stdout).nvidia_smi_log;
      expect(log.attached_gpus).toBe(3);
      expect(log.gpu.map((gpu: { product_name: string }) => gpu.product_name)).toEqual([
        'NVIDIA A40',
        'NVIDIA A40',
        'Tesla T4',
      ]);
      expect(log.gpu[0].remapped_rows.remapped_row_pending).toBe('No');
    }
  });
});

describe('nvidia-smi', () => {
  let node: GpuNode;
  const lost = /GPU0000:11:00\.0: GPU is lost\. {2}Reboot the system to recover this GPU/;
  beforeAll(async () => {
    node = await create('--gpus', 'a40:2,t4:1');
  });
  afterEach(async () => {
    await node.set('all', 'fault=', 'recoveryAction=None', 'xml=null');
  });

  it('names the same GPUs on every run', async () => {
    const again = await create('--gpus', 'a40:2,t4:1');
    expect(again.uuids).toEqual(node.uuids);
    expect((await node.smi('-L')).stdout).toBe(
      node.uuids
        .map((uuid, i) => `GPU ${i}: ${['NVIDIA A40', 'NVIDIA A40', 'Tesla T4'][i]} (UUID: ${uuid})\n`)
        .join(''),
    );
  });

  it('answers a query with units, headers and null spellings as asked', async () => {
    const query = '--query-gpu=index,uuid,memory.total,fan.speed,gpu_recovery_action';
    const full = await node.smi(query, '--format=csv', '-i', node.uuids[0]!);
    expect(full.stdout).toBe(
      `index, uuid, memory.total [MiB], fan.speed [%], gpu_recovery_action\n0, ${node.uuids[0]}, 49140 MiB, [N/A], None\n`,
    );
    const bare = await node.smi(query, '--format=csv,noheader,nounits', '-i', '0');
    expect(bare.stdout).toBe(`0, ${node.uuids[0]}, 49140, [N/A], None\n`);
  });

  it.each([
    [
      'a field that no driver knows',
      ['--query-gpu=memory.total,nonsense', '--format=csv'],
      2,
      'Field "nonsense" is not a valid field to query.',
    ],
    ['an option it has not', ['--nonsense'], 2, 'Invalid combination of input arguments'],
    ['a GPU that is not there', ['-q', '-x', '-i', 'GPU-0'], 6, 'No devices were found'],
  ])('refuses %s', async (_, args, code, text) => {
    const answer = await node.smi(...args);
    expect(answer.code).toBe(code);
    expect(answer.stdout).toContain(text);
  });

  it('refuses a field that this driver does not have yet', async () => {
    const old = await create('--gpus', 't4:1', '--dialect', 'v11');
    expect((await old.smi('--query-gpu=gpu_recovery_action', '--format=csv')).code).toBe(2);
  });

  it.each([
    ['lost', 15, lost],
    ['unknown-error', 255, /Unable to determine the device handle for GPU0000:11:00\.0: Unknown Error/],
    ['driver-mismatch', 18, /Driver\/library version mismatch\nNVML library version: 595/],
    ['driver-not-loaded', 9, /couldn't communicate with the NVIDIA driver/],
    ['empty', 0, /^$/],
  ])('shows the fault %s with exit code %i', async (fault, code, text) => {
    await node.set(1, `fault=${fault}`);
    const answer = await node.smi('-q', '-x');
    expect(answer.code).toBe(code);
    expect(answer.stdout).toMatch(text);
  });

  it('still lists and reads the other GPUs when one is lost', async () => {
    await node.set(1, 'fault=lost');
    const { stdout, code } = await node.smi('-L');
    expect(code).toBe(0);
    expect(stdout.split('\n').map((line) => line.slice(0, 6))).toEqual(['GPU 0:', 'Unable', 'GPU 2:', '']);
    expect((await node.smi('-q', '-x', '-i', node.uuids[2]!)).code).toBe(0);
  });

  it('moves indices down when a GPU vanishes', async () => {
    await node.set(0, 'fault=missing');
    const { stdout } = await node.smi('--query-gpu=index,uuid', '--format=csv,noheader');
    expect(stdout).toBe(`0, ${node.uuids[1]}\n1, ${node.uuids[2]}\n`);
  });

  it('says that there is none when all have vanished', async () => {
    await node.set('all', 'fault=missing');
    expect(await node.smi('-q', '-x')).toMatchObject({ code: 6, stdout: 'No devices were found\n' });
  });

  it('does not return while a GPU hangs, and is slow where that is set', async () => {
    await node.set(1, 'fault=hang');
    const hanging = await node.call('nvidia-smi', ['-q', '-x'], {}, 150);
    expect(hanging).toMatchObject({ signal: 'SIGKILL', stdout: '' });
    await node.set(1, 'fault=', 'delayMs=10000');
    expect(await node.call('nvidia-smi', ['-q', '-x'], {}, 150)).toMatchObject({ signal: 'SIGKILL' });
    expect((await node.smi('-q', '-x', '-i', '0')).code).toBe(0);
    await node.set(1, 'delayMs=0');
  });

  it('prints half a document when truncated', async () => {
    await node.set(0, 'fault=truncated');
    const { stdout } = await node.smi('-q', '-x');
    expect(stdout).toContain('<nvidia_smi_log>');
    expect(XMLValidator.validate(stdout)).not.toBe(true);
  });

  it('puts any text into any element', async () => {
    await node.set(0, 'recoveryAction=Drain and Reset', 'xml.fabric/state=In Progress', 'remapFailure=Yes');
    const { stdout } = await node.smi('-q', '-x', '-i', '0');
    expect(stdout).toContain('<gpu_recovery_action>Drain and Reset<');
    expect(stdout).toContain('<state>In Progress<');
    expect(stdout).toContain('<remapped_row_failure>Yes<');
  });

  it('takes no fault and no key that it does not know', async () => {
    await expect(node.set(0, 'fault=lsot')).rejects.toThrow('no such fault');
    await expect(node.set(0, 'falt=lost')).rejects.toThrow('falt');
  });

  it('sees only the GPUs whose folders it sees', async () => {
    const other = await create('--gpus', 't4:1', '--node', 'n2');
    expect((await other.smi('-L')).stdout).toMatch(/^GPU 0: Tesla T4 \(UUID: GPU-[0-9a-f-]{36}\)\n$/);
    expect(other.uuids[0]).not.toBe(node.uuids[0]);
  });
});

describe('video memory', () => {
  it('is held by a process and free the moment it is killed', async () => {
    const node = await create('--gpus', 'a40:2');
    const [before] = await node.used();
    const stranger = await node.stranger(0, '3000');
    expect(await node.processes()).toEqual(new Map([[stranger.pid, 3000]]));
    expect(await node.used()).toEqual([before! + 3000, before]);
    stranger.kill('SIGKILL');
    await new Promise((done) => stranger.once('exit', done));
    expect(await node.used()).toEqual([before, before]);
    expect((await node.processes()).size).toBe(0);
  });

  it('is not given twice', async () => {
    const node = await create('--gpus', 't4:1');
    await node.stranger(0, '14000');
    expect(await node.call('gpu-sim-hold', [node.uuids[0]!, '1000'])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('out of memory'),
    });
  });

  it("counts a real engine's own mappings, its children's too, and follows it through exec", async () => {
    const node = await create('--gpus', 'a40:1');
    const script = [
      'import os, time',
      'x = bytearray(80 << 20)',
      'parent, child = os.getpid(), os.fork() == 0',
      'y = bytearray(40 << 20)',
      'while not child or os.getppid() == parent: time.sleep(0.02)',
    ].join('\n');
    const child = await node.stranger(0, '--anonymous', python, '-c', script);
    await until('its mappings', async () => (await node.processes()).get(child.pid!)! > 150);
    expect((await node.processes()).get(child.pid!)).toBeLessThan(400);
  });

  it('counts of a real vLLM what its workers hold', async () => {
    const node = await create('--gpus', 'a40:1');
    const script = [
      'import os, sys, time',
      'parent, child = os.getpid(), os.fork() == 0',
      'if child: open("/proc/self/comm", "w").write("VLLM::Worker_TP0")',
      'x = bytearray((40 if child else 300) << 20)',
      'while not child or os.getppid() == parent: time.sleep(0.02)',
    ].join('\n');
    const words = ['-c', script, 'vllm.entrypoints.openai.api_server'];
    const child = await node.stranger(0, '--anonymous', python, ...words);
    await until('its worker', async () => (await node.processes()).get(child.pid!)! > 40);
    expect((await node.processes()).get(child.pid!)).toBeLessThan(200);
  });

  it('adds up to the total', async () => {
    const node = await create('--gpus', 'a40:1');
    await node.stranger(0, '1234');
    const { stdout } = await node.smi(
      '--query-gpu=memory.total,memory.reserved,memory.used,memory.free',
      '--format=csv,noheader,nounits',
    );
    const [total, reserved, used, free] = stdout.split(', ').map(Number);
    expect(reserved! + used! + free!).toBe(total);
  });
});
