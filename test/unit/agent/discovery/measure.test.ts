import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { parseGpuRows, parseProcessRows } from '../../../../agent/observe/nvidia-smi/csv.ts';
import { createMeasure, MeasureError } from '../../../../agent/observe/nvidia-smi/measure.ts';
import type { RunSmi, SmiOutput } from '../../../../agent/observe/nvidia-smi/run.ts';
import { type Owner, ownerOf, podOfCgroup } from '../../../../agent/observe/process-pods.ts';
import { output } from './fake-nvidia-smi.ts';

const mib = 2 ** 20;

describe('the quick query', () => {
  it('reads figures without units, and null in every spelling', () => {
    expect(
      parseGpuRows(
        'GPU-a, 49140, 4, 48542, 65, 34, 31.20\nGPU-b, 5912, 0, 5912, [N/A], [Not Supported], [Unknown Error]\n',
      ),
    ).toEqual([
      {
        uuid: 'GPU-a',
        totalBytes: 49140 * mib,
        usedBytes: 4 * mib,
        freeBytes: 48542 * mib,
        utilizationRatio: 0.65,
        temperatureCelsius: 34,
        powerWatts: 31.2,
      },
      {
        uuid: 'GPU-b',
        totalBytes: 5912 * mib,
        usedBytes: 0,
        freeBytes: 5912 * mib,
        utilizationRatio: null,
        temperatureCelsius: null,
        powerWatts: null,
      },
    ]);
  });

  it.each([
    ['nothing', ''],
    ['a row that breaks off', 'GPU-a, 49140, 4'],
    ['a sentence', 'No devices were found'],
  ])('does not take %s for an answer', (_, text) => {
    expect(() => parseGpuRows(text)).toThrow(SyntaxError);
  });

  it('takes no processes for an answer, and a process of unknown size', () => {
    expect(parseProcessRows('\n')).toEqual([]);
    expect(parseProcessRows('GPU-a, 42, 1024\nGPU-a, 43, [N/A]\n')).toEqual([
      { gpuUuid: 'GPU-a', pid: 42, bytes: 1024 * mib },
      { gpuUuid: 'GPU-a', pid: 43, bytes: null },
    ]);
    expect(() => parseProcessRows('GPU-a, 42')).toThrow(SyntaxError);
  });
});

const uid = '2f1c9b0e-7a64-4c39-9d0c-5b8f0a3e1d77';
const under = uid.replaceAll('-', '_');
const container = 'a'.repeat(64);

describe('a control group', () => {
  it.each([
    [
      'systemd',
      `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${under}.slice/cri-containerd-${container}.scope`,
    ],
    ['systemd, Guaranteed', `0::/kubepods.slice/kubepods-pod${under}.slice/crio-${container}.scope`],
    ['cgroupfs', `0::/kubepods/burstable/pod${uid}/${container}`],
    [
      'nested',
      `0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort-pod${under}.slice/cri-containerd-${container}.scope`,
    ],
    [
      'old containerd',
      `0::/system.slice/containerd.service/kubepods-burstable-pod${under}.slice:cri-containerd:${container}`,
    ],
    ['with a deeper leaf', `0::/kubepods/burstable/pod${uid}/${container}/init`],
    [
      'in a private namespace',
      `0::/../../kubepods-burstable-pod${under}.slice/cri-containerd-${container}.scope`,
    ],
    ['version 1', `12:memory:/user.slice\n11:cpu:/kubepods/besteffort/pod${uid}/${container}\n`],
    [
      'of a cluster inside a pod',
      `0::/kubepods/pod00000000-0000-0000-0000-000000000000/${container}/kubepods/pod${uid}/${container}`,
    ],
  ])('tells the pod: %s', (_, text) => {
    expect(podOfCgroup(text)).toBe(uid);
  });

  it('tells a static pod, whose UID has no dashes', () => {
    expect(podOfCgroup(`0::/kubepods/pod${'0a'.repeat(16)}/${container}`)).toBe('0a'.repeat(16));
  });

  it.each(['0::/', '0::/system.slice/sshd.service', '0::/user.slice/podman-1234.scope', ''])(
    'tells of no pod: %s',
    (text) => {
      expect(podOfCgroup(text)).toBeNull();
    },
  );

  it('is read from procfs; a process that has ended is gone, not a stranger', async () => {
    const proc = mkdtempSync(join(tmpdir(), 'greenthread-proc-'));
    try {
      mkdirSync(join(proc, '7'));
      writeFileSync(join(proc, '7', 'cgroup'), `0::/kubepods/burstable/pod${uid}/${container}\n`);
      mkdirSync(join(proc, '8'));
      writeFileSync(join(proc, '8', 'cgroup'), '0::/init.scope\n');
      expect(await ownerOf(7, proc)).toEqual({ podUid: uid });
      expect(await ownerOf(8, proc)).toBe('outside');
      expect(await ownerOf(9, proc)).toBe('gone');
    } finally {
      rmSync(proc, { recursive: true });
    }
  });
});

/** Answers by the first argument's query, in turn or always the same. */
function scripted(answers: { gpu: SmiOutput[]; apps: SmiOutput[]; list?: SmiOutput }) {
  const calls: string[] = [];
  const taken = { gpu: 0, apps: 0 };
  const run: RunSmi = async (args) => {
    calls.push(args.filter((arg) => !arg.startsWith('--format')).join(' '));
    if (args[0] === '-L') return answers.list ?? output('', { exitCode: 255 });
    const kind = args[0]!.startsWith('--query-gpu') ? 'gpu' : 'apps';
    return answers[kind][Math.min(taken[kind]++, answers[kind].length - 1)]!;
  };
  return { run, calls };
}
const gpuRow = (uuid: string, used = 100) => `${uuid}, 1000, ${used}, ${1000 - used}, 0, 30, 10\n`;
const owners: Record<number, Owner> = {
  1: { podUid: 'ours' },
  2: { podUid: 'ours' },
  3: { podUid: 'theirs' },
  4: 'outside',
  5: 'gone',
};
const parts = {
  isModelPod: (podUid: string) => podUid === 'ours',
  owner: async (pid: number) => owners[pid]!,
};

describe('a measurement', () => {
  it('sums the processes of a pod by GPU, and all strangers', async () => {
    const apps = 'GPU-a, 1, 10\nGPU-a, 2, 20\nGPU-a, 3, 30\nGPU-a, 4, 40\nGPU-a, 5, 50\nGPU-b, 2, 7\n';
    const { run } = scripted({ gpu: [output(gpuRow('GPU-a') + gpuRow('GPU-b'))], apps: [output(apps)] });
    expect(await createMeasure({ run, ...parts })()).toMatchObject([
      {
        uuid: 'GPU-a',
        usedBytes: 100 * mib,
        freeBytes: 900 * mib,
        byPod: { ours: 30 * mib },
        foreignBytes: 70 * mib,
      },
      { uuid: 'GPU-b', byPod: { ours: 7 * mib }, foreignBytes: 0 },
    ]);
  });

  it('names a pod whose memory the driver will not say, instead of counting it as 0', async () => {
    const { run } = scripted({ gpu: [output(gpuRow('GPU-a'))], apps: [output('GPU-a, 1, [N/A]\n')] });
    expect(await createMeasure({ run, ...parts })()).toMatchObject([{ byPod: {}, unmeasuredPods: ['ours'] }]);
  });

  it('leaves out a GPU whose memory is unknown', async () => {
    const gpu = output(`GPU-x, [N/A], [N/A], [N/A], 0, 30, 10\n${gpuRow('GPU-a')}`);
    const { run } = scripted({ gpu: [gpu], apps: [output('')] });
    expect((await createMeasure({ run, ...parts })()).map(({ uuid }) => uuid)).toEqual(['GPU-a']);
  });

  it.each<[string, SmiOutput, SmiOutput, string]>([
    ['no GPU rows', output(''), output(''), 'OutputEmpty'],
    ['a broken row', output('GPU-a, 10'), output(''), 'OutputUnreadable'],
    [
      'processes that cannot be told',
      output(gpuRow('GPU-a')),
      output('No devices were found', { exitCode: 6 }),
      'Missing',
    ],
    ['no answer in time', output('', { outcome: 'timed-out', exitCode: null }), output(''), 'ProbeTimeout'],
  ])('fails as a whole with %s', async (_, gpu, apps, reason) => {
    const { run } = scripted({ gpu: [gpu], apps: [apps] });
    const failure = await createMeasure({ run, ...parts })().catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(MeasureError);
    expect((failure as MeasureError).fault.reason).toBe(reason);
  });

  it('asks only those that are listed once a lost board has spoilt the call', async () => {
    const lost = output('Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost', {
      exitCode: 15,
    });
    const list = output('GPU 1: Tesla T4 (UUID: GPU-b)\n');
    const { run, calls } = scripted({ gpu: [lost, output(gpuRow('GPU-b'))], apps: [lost, output('')], list });
    const measure = createMeasure({ run, ...parts });
    expect((await measure()).map(({ uuid }) => uuid)).toEqual(['GPU-b']);
    calls.length = 0;
    await measure();
    expect(calls.every((call) => call.endsWith('-i GPU-b'))).toBe(true);
    expect(calls).toHaveLength(2);
  });

  it('keeps ready what is asked again and again, and no question to a single board', async () => {
    const lost = output('Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost', {
      exitCode: 15,
    });
    const kept: string[] = [];
    const list = output('GPU 1: Tesla T4 (UUID: GPU-b)\n');
    const { run } = scripted({ gpu: [lost, output(gpuRow('GPU-b'))], apps: [lost, output('')], list });
    const measure = createMeasure({
      ...parts,
      run: (args, timeoutMs, again) => {
        if (again) kept.push(args.slice(2).join(' '));
        return run(args, timeoutMs);
      },
    });
    await measure();
    expect(kept).toEqual(['', '']);
    await measure();
    expect(kept).toEqual(['', '', '-i GPU-b', '-i GPU-b']);
  });

  it('that hangs over one GPU is of the others from then on', async () => {
    let hangs = false;
    const calls: string[] = [];
    const run: RunSmi = async (args) => {
      const which = args[args.indexOf('-i') + 1]!;
      const named = args.includes('-i') ? which.split(',') : ['GPU-a', 'GPU-b'];
      calls.push(args.includes('-i') ? which : 'all');
      if (args[0] === '-L' || (hangs && named.includes('GPU-a')))
        return output('', { outcome: 'timed-out', exitCode: null });
      return output(args[0]!.startsWith('--query-gpu') ? named.map((uuid) => gpuRow(uuid)).join('') : '');
    };
    const measure = createMeasure({ run, ...parts });
    expect(await measure()).toHaveLength(2);
    hangs = true;
    expect((await measure()).map(({ uuid }) => uuid)).toEqual(['GPU-b']);
    calls.length = 0;
    expect((await measure()).map(({ uuid }) => uuid)).toEqual(['GPU-b']);
    expect(calls).toEqual(['GPU-b', 'GPU-b']);
  });

  it('tries all GPUs again after a while, and nobody waits for that', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      const lost = output('Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost', {
        exitCode: 15,
      });
      let sick = true;
      const run: RunSmi = async (args) => {
        if (args[0] === '-L') return output('GPU 1: Tesla T4 (UUID: GPU-b)\n');
        if (sick && !args.includes('-i')) return lost;
        const rows = args.includes('-i') ? gpuRow('GPU-b') : gpuRow('GPU-a') + gpuRow('GPU-b');
        return output(args[0]!.startsWith('--query-gpu') ? rows : '');
      };
      const measure = createMeasure({ run, ...parts });
      expect(await measure()).toHaveLength(1);
      sick = false;
      expect(await measure()).toHaveLength(1);
      vi.advanceTimersByTime(31_000);
      await measure();
      await vi.waitUntil(async () => (await measure()).length === 2);
    } finally {
      vi.useRealTimers();
    }
  });

  it('is one at a time; all who come meanwhile share the next, which begins after they came', async () => {
    let running = 0;
    let most = 0;
    let begun = 0;
    const gate: PromiseWithResolvers<void>[] = [];
    const run: RunSmi = async (args) => {
      if (!args[0]!.startsWith('--query-gpu')) return output('');
      begun += 1;
      most = Math.max(most, ++running);
      const own = Promise.withResolvers<void>();
      gate.push(own);
      await own.promise;
      running -= 1;
      return output(gpuRow('GPU-a', begun));
    };
    const measure = createMeasure({ run, ...parts });
    const first = measure();
    const later = [measure(), measure(), measure()];
    expect(begun).toBe(1);
    gate[0]!.resolve();
    expect((await first)[0]!.usedBytes).toBe(1 * mib);
    while (gate.length < 2) await new Promise((done) => setImmediate(done));
    gate[1]!.resolve();
    const shared = await Promise.all(later);
    expect(shared.map((gpus) => gpus[0]!.usedBytes)).toEqual(Array(3).fill(2 * mib));
    expect([begun, most]).toEqual([2, 1]);
  });

  it('that fails does not stop the next', async () => {
    const { run } = scripted({ gpu: [output(''), output(gpuRow('GPU-a'))], apps: [output('')] });
    const measure = createMeasure({ run, ...parts });
    const [first, second] = await Promise.allSettled([measure(), measure()]);
    expect([first.status, second.status]).toEqual(['rejected', 'fulfilled']);
  });
});
