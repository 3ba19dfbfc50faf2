import { describe, expect, it, vi } from 'vitest';
import { faultsOf } from '../../../../agent/observe/nvidia-smi/faults.ts';
import { parseList } from '../../../../agent/observe/nvidia-smi/list.ts';
import { probe } from '../../../../agent/observe/nvidia-smi/probe.ts';
import { createRunSmi } from '../../../../agent/observe/nvidia-smi/run.ts';
import { fakeSmi, fixture, fixturePath, output } from './fake-nvidia-smi.ts';

const t4 = 'GPU-d37e67a5-91dd-3774-a5cb-99096249601a';
const handle = 'Unable to determine the device handle for';
const lostText = `${handle} GPU 0000:0B:00.0: GPU is lost.  Reboot the system to recover this GPU`;

describe('what nvidia-smi complains of', () => {
  it.each<[string, Parameters<typeof output>, string, string | null]>([
    [
      'a mismatch',
      [
        'Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124',
        { exitCode: 18 },
      ],
      'DriverMismatch',
      null,
    ],
    [
      'no driver loaded',
      [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure …",
        { exitCode: 9 },
      ],
      'DriverNotLoaded',
      null,
    ],
    ['no devices', ['No devices were found', { exitCode: 6 }], 'Missing', null],
    [
      'a board that does not answer',
      [`${handle} GPU 0000:0B:00.0: Unknown Error`, { exitCode: 255 }],
      'GpuLost',
      '0000:0B:00.0',
    ],
    ['a lost board', [lostText, { exitCode: 15 }], 'GpuLost', '0000:0B:00.0'],
    [
      'a lost board, without the space',
      [`${handle} GPU0000:0B:00.0: GPU is lost`, { exitCode: 15 }],
      'GpuLost',
      '0000:0B:00.0',
    ],
    [
      'a board that waits for a reset',
      [`${handle} GPU 0000:0B:00.0: GPU requires reset`, { exitCode: 16 }],
      'ResetRequired',
      '0000:0B:00.0',
    ],
    [
      'closed devices',
      ['Failed to initialize NVML: Unknown Error', { exitCode: 255 }],
      'DeviceAccessLost',
      null,
    ],
    [
      'another start failure',
      ['Failed to initialize NVML: Out of memory', { exitCode: 20 }],
      'NVMLFailed',
      null,
    ],
    [
      'a sentence on standard error',
      ['', { exitCode: 9, stderr: "couldn't communicate with the NVIDIA driver" }],
      'DriverNotLoaded',
      null,
    ],
    [
      'a corrupt infoROM beside a good answer',
      [`${fixture('a10g.xml')}\nWARNING: infoROM is corrupted at gpu 0000:00:1E.0`, { exitCode: 14 }],
      'InforomCorrupt',
      '0000:00:1E.0',
    ],
    ['only a code', ['', { exitCode: 12 }], 'NoDriver', null],
    ['only a code of a lost GPU', ['', { exitCode: 15 }], 'GpuLost', null],
    ['a code that nobody knows', ['something odd', { exitCode: 77 }], 'ProbeFailed', null],
    ['a shell that finds nothing', ['', { outcome: 'not-found', exitCode: null }], 'NoDriver', null],
    ['a signal', ['', { outcome: 'killed', exitCode: null }], 'ProbeFailed', null],
  ])('has a reason: %s', (_, printed, reason, busId) => {
    const faults = faultsOf(output(...printed));
    expect(faults).toMatchObject([{ reason, busId }]);
    expect(faults[0]!.message.length).toBeGreaterThan(10);
  });

  it('is nothing for a good answer, whatever stands inside the document', () => {
    expect(faultsOf(output(fixture('a10g.xml').replace('17 C', 'No devices were found')))).toEqual([]);
  });
});

describe('a listing', () => {
  it('gives the true places of the GPUs that are left', () => {
    const text = `${handle} gpu 0000:02:00.0: GPU is lost\nGPU 1: NVIDIA A40 (UUID: GPU-b)\n  MIG 1g.5gb Device 0: (UUID: MIG-x)\nGPU 2: Tesla T4 (UUID: GPU-c)\n`;
    expect(parseList(text)).toEqual([
      { index: 1, name: 'NVIDIA A40', uuid: 'GPU-b' },
      { index: 2, name: 'Tesla T4', uuid: 'GPU-c' },
    ]);
  });
});

/** Probes by a shell script. */
async function probeBy(script: string, options: Parameters<typeof probe>[1] = {}) {
  using smi = fakeSmi(script);
  const result = await probe(createRunSmi(smi.path), options);
  return { ...result, calls: smi.calls() };
}
const reasons = ({ faults }: { faults: { reason: string }[] }) => faults.map(({ reason }) => reason);

describe('a probe', () => {
  it('is one call when all is well', async () => {
    const { gpus, faults, calls } = await probeBy(`exec cat '${fixturePath('tesla-t4.xml')}'`);
    expect(gpus.map(({ uuid }) => uuid)).toEqual([t4]);
    expect(faults).toEqual([]);
    expect(calls).toEqual(['-q -x']);
  });

  it('asks GPU by GPU when a lost one spoils the answer, and keeps the true index', async () => {
    const result = await probeBy(`
      case "$*" in
        '-q -x') echo '${lostText}'; exit 15 ;;
        -L) echo '${lostText}'; echo 'GPU 1: Tesla T4 (UUID: ${t4})' ;;
        '-q -x -i ${t4}') exec cat '${fixturePath('tesla-t4.xml')}' ;;
        *) exit 2 ;;
      esac`);
    expect(result.calls).toEqual(['-q -x', '-L', `-q -x -i ${t4}`]);
    expect(result.gpus).toMatchObject([{ uuid: t4, index: 1, totalBytes: 15360 * 2 ** 20 }]);
    expect(result.faults).toMatchObject([{ reason: 'GpuLost', busId: '0000:0B:00.0' }]);
  });

  it('keeps the name of a listed GPU that does not answer by itself either', async () => {
    const { gpus, faults } = await probeBy(`
      case "$*" in
        -L) echo 'GPU 0: Tesla T4 (UUID: ${t4})' ;;
        *) head -c 500 '${fixturePath('tesla-t4.xml')}' ;;
      esac`);
    expect(gpus).toMatchObject([{ uuid: t4, index: 0, name: 'Tesla T4', totalBytes: null }]);
    expect(faults).toMatchObject([{ reason: 'OutputTruncated', uuid: t4 }]);
  });

  it.each([
    ['nothing', 'true', ['OutputEmpty']],
    ['half a document', `head -c 9000 '${fixturePath('tesla-t4.xml')}'`, ['OutputTruncated']],
    [
      'a complaint of the driver',
      'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18',
      ['DriverMismatch'],
    ],
    ['a code', 'exit 127', ['NoDriver']],
    ['its own end by a signal', 'kill -9 $$', ['ProbeFailed']],
    ['more than is read', 'exec yes', ['OutputTooLong']],
  ])('that brings %s says why', async (_, script, expected) => {
    const result = await probeBy(script);
    expect(reasons(result)).toEqual(expected);
    for (const gpu of result.gpus) expect(gpu.totalBytes).toBeNull();
  });

  it('without nvidia-smi says NoDriver', async () => {
    expect(reasons(await probe(createRunSmi('/nowhere/nvidia-smi')))).toEqual(['NoDriver']);
  });

  it('that hangs is killed, tried once more, and says ProbeTimeout', async () => {
    const { calls, ...result } = await probeBy('exec sleep 60', { timeoutMs: 150 });
    expect(reasons(result)).toEqual(['ProbeTimeout']);
    expect(calls).toEqual(['-q -x', '-q -x']);
  });

  it('that hangs over one of several known GPUs still reads the others', async () => {
    const known = [
      { uuid: t4, index: 3, name: 'Tesla T4' },
      { uuid: 'GPU-hangs', index: 4, name: 'NVIDIA A40' },
    ];
    const { gpus, faults } = await probeBy(
      `case "$*" in
        '-q -x -i ${t4}') exec cat '${fixturePath('tesla-t4.xml')}' ;;
        *) exec sleep 60 ;;
      esac`,
      { known, timeoutMs: 800 },
    );
    expect(gpus).toMatchObject([
      { uuid: t4, index: 3, totalBytes: 15360 * 2 ** 20 },
      { uuid: 'GPU-hangs', index: 4, name: 'NVIDIA A40', totalBytes: null },
    ]);
    expect(faults).toMatchObject([{ reason: 'ProbeTimeout', uuid: 'GPU-hangs' }]);
  });
});

describe('a call that does not even die', () => {
  it('is left behind; the same is not started again until it ends, others are', async () => {
    // One that ignores its kill signal stands for one that the driver holds in the kernel.
    using smi = fakeSmi(`
      [ "$*" = -L ] && echo fine && exit 0
      [ -e "$0.hung" ] && exit 0
      trap '' TERM
      touch "$0.hung"
      exec sleep 2`);
    const run = createRunSmi(smi.path, 'SIGTERM');
    const sick = ['-q', '-x'];
    expect(await run(sick, 500)).toMatchObject({ outcome: 'timed-out' });
    expect(await run(sick, 500)).toMatchObject({ outcome: 'timed-out' });
    expect(smi.calls()).toEqual(['-q -x']);
    expect(await run(['-L'], 5_000)).toMatchObject({ outcome: 'exited', stdout: 'fine' });
    await vi.waitUntil(async () => (await run(sick, 5_000)).outcome === 'exited', { timeout: 9_000 });
    expect(smi.calls()).toEqual(['-q -x', '-L', '-q -x']);
  });

  it('but whose child keeps its output open is not waited for either', async () => {
    using smi = fakeSmi('sleep 3 & exit 0');
    expect(await createRunSmi(smi.path)(['-L'], 50)).toMatchObject({ outcome: 'timed-out' });
  });
});
