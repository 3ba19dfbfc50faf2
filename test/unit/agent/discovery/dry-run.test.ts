import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { dryRun } from '../../../../agent/dry-run.ts';
import { createRunSmi } from '../../../../agent/observe/nvidia-smi/run.ts';
import { fakeSmi, fixturePath } from './fake-nvidia-smi.ts';

const run = promisify(execFile);
const main = fileURLToPath(new URL('../../../../agent/main.ts', import.meta.url));
const mib = 2 ** 20;

interface Document {
  metadata?: { name: string };
  spec?: { uuid: string };
  status?: { product?: string; memory?: object; health?: string; healthReason?: string };
  health?: string;
  healthReason?: string;
}
const documentsOf = (yaml: string) => parseAllDocuments(yaml).map((document) => document.toJS() as Document);

/** The agent itself, with an nvidia-smi of our own first on PATH. */
async function agent(script: string, env: Record<string, string> = { NODE_NAME: 'gpu-worker-1' }) {
  using smi = fakeSmi(script);
  const { PATH } = process.env;
  const result = await run(process.execPath, [main, '--once', '--dry-run'], {
    env: { PATH: `${smi.folder}:${PATH}`, ...env },
  }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }) => ({
      code: code as number,
      stdout: stdout as string,
      stderr: stderr as string,
    }),
  );
  return { ...result, documents: documentsOf(result.stdout) };
}

/** Product, UUID and total, used, free MiB of each captured answer. */
const products: Record<string, [string, string, number, number, number]> = {
  'a10g.xml': ['NVIDIA-A10G', 'GPU-9a9a6c50-2a47-2f51-a902-b82c3b127e94', 23028, 22, 22569],
  'gtx-1660-ti.xml': ['Graphics-Device', 'GPU-304a277d-3545-63b8-3a36-dfde3c992989', 5912, 0, 5912],
  'quadro-p2000-v12.xml': ['Quadro-P2000', 'GPU-396caaed-39ca-3199-2e68-717cdb786ec6', 5120, 1, 5051],
  'rtx-3060-v12.xml': [
    'NVIDIA-GeForce-RTX-3060',
    'GPU-d6889ff6-2523-9142-ca3c-1ca3f396a625',
    12288,
    116,
    11806,
  ],
  'rtx-3080-v12.xml': [
    'NVIDIA-GeForce-RTX-3080',
    'GPU-19d6d965-2acc-f646-00f8-4c76979aabb4',
    10240,
    1128,
    8938,
  ],
  'rtx-3080-v13.xml': [
    'NVIDIA-GeForce-RTX-3080',
    'GPU-19d6d965-2acc-f646-00f8-4c76979aabb4',
    10240,
    9184,
    660,
  ],
  'tesla-t4.xml': ['Tesla-T4', 'GPU-d37e67a5-91dd-3774-a5cb-99096249601a', 15360, 1032, 13939],
};

describe('agent/main.ts --once --dry-run', () => {
  it('knows every captured answer', () => {
    expect(readdirSync(fixturePath('')).sort()).toEqual(Object.keys(products));
  });

  it('prints the GPU of the nvidia-smi on PATH', async () => {
    const { code, documents, stderr } = await agent(`exec cat '${fixturePath('rtx-3080-v13.xml')}'`);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(documents).toMatchObject([{ kind: 'GPU', spec: { uuid: products['rtx-3080-v13.xml']![1] } }]);
  });

  it('asks for NODE_NAME in one clear sentence', async () => {
    const { code, stdout, stderr } = await agent('exit 1', {});
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^NODE_NAME is not set: .*\n$/);
  });
});

/** The same function in this process, so that a hanging nvidia-smi need not use up its whole deadline. */
async function printed(script: string, timeoutMs = 5_000) {
  using smi = fakeSmi(script);
  let yaml = '';
  const code = await dryRun({
    nodeName: 'n1',
    write: (text) => {
      yaml += text;
    },
    complain: () => expect.unreachable(),
    run: createRunSmi(smi.path),
    timeoutMs,
  });
  return { code, documents: documentsOf(yaml) };
}

describe('a captured answer', () => {
  it.each(Object.entries(products))(
    'prints the GPU of %s',
    async (file, [product, uuid, total, used, free]) => {
      const { code, documents } = await printed(`exec cat '${fixturePath(file)}'`);
      expect(code).toBe(0);
      expect(documents).toMatchObject([
        {
          apiVersion: 'greenthread.ai/v1alpha1',
          kind: 'GPU',
          metadata: { name: 'gpu-n1-0' },
          spec: { nodeName: 'n1', index: 0, uuid },
          status: {
            product,
            memory: { totalBytes: total * mib, usedBytes: used * mib, freeBytes: free * mib },
            mode: 'idle',
            health: 'Healthy',
          },
        },
      ]);
    },
  );
});

describe('an answer that is no good', () => {
  it('truncated behind the UUID is that GPU, Unknown, without memory', async () => {
    const { code, documents } = await printed(`head -c 9000 '${fixturePath('tesla-t4.xml')}'`);
    expect(code).toBe(0);
    expect(documents).toMatchObject([
      {
        spec: { uuid: products['tesla-t4.xml']![1] },
        status: { product: 'Tesla-T4', health: 'Unknown', healthReason: 'OutputTruncated' },
      },
    ]);
    expect(documents[0]!.status).not.toHaveProperty('memory');
  });

  it.each([
    ['truncated before it', `head -c 300 '${fixturePath('tesla-t4.xml')}'`, 'Unknown', 'OutputTruncated'],
    ['empty', 'true', 'Unknown', 'OutputEmpty'],
    ['hanging', 'exec sleep 60', 'Unknown', 'ProbeTimeout'],
    [
      'of a driver that is not loaded',
      'echo "couldn\'t communicate with the NVIDIA driver"; exit 9',
      'Unhealthy',
      'DriverNotLoaded',
    ],
    ['of a node without GPUs', 'echo "No devices were found"; exit 6', 'Unhealthy', 'Missing'],
  ])('%s is no GPU, but its reason is told', async (_, script, health, healthReason) => {
    const { code, documents } = await printed(script, script.includes('sleep') ? 200 : undefined);
    expect(code).toBe(1);
    expect(documents).toMatchObject([{ nodeName: 'n1', health, healthReason }]);
  });

  it('because of a lost GPU is the others, and the lost one by its bus id', async () => {
    const lost =
      'Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost.  Reboot the system';
    const { code, documents } = await printed(`
      case "$*" in
        -L) echo '${lost}'; echo 'GPU 1: Tesla T4 (UUID: ${products['tesla-t4.xml']![1]})' ;;
        *-i*) exec cat '${fixturePath('tesla-t4.xml')}' ;;
        *) echo '${lost}'; exit 15 ;;
      esac`);
    expect(code).toBe(0);
    expect(documents).toMatchObject([
      { metadata: { name: 'gpu-n1-1' }, status: { health: 'Healthy' } },
      { busId: '0000:0B:00.0', health: 'Unhealthy', healthReason: 'GpuLost' },
    ]);
  });
});
