import { describe, expect, it, vi } from 'vitest';
import type { GpuReading, Probe } from '../../../../agent/decide/facts.ts';
import { judge } from '../../../../agent/decide/health.ts';
import { countXid, type XidReading, xidOf, xidReadingsMax } from '../../../../agent/decide/xid.ts';
import { followKernelLog, messageOf } from '../../../../agent/observe/kernel-log.ts';
import { identityOnly } from '../../../../agent/observe/nvidia-smi/xml.ts';
import { createLog } from '../../../../platform/log.ts';

describe('a record of the kernel log', () => {
  it.each([
    ['6,1234,5678,-;usb 1-1: new device\n SUBSYSTEM=usb\n', 'usb 1-1: new device'],
    ['4,9,1,-,caller=T1;a\\x0ab; c', 'a\nb; c'],
    ['garbage', null],
    ['', null],
  ])('has its message read: %j', (record, message) => {
    expect(messageOf(record)).toBe(message);
  });
});

describe('a message of the driver', () => {
  it.each<[string, ReturnType<typeof xidOf>]>([
    [
      'NVRM: Xid (PCI:0000:05:00): 79, pid=1, name=x, GPU has fallen off the bus.',
      { busId: '0000:05:00', xid: 79, coded: true },
    ],
    ['NVRM: Xid (0000:03:00): 14, Channel 00000001', { busId: '0000:03:00', xid: 14, coded: true }],
    ['NVRM: Xid (PCI:0000:B3:00.0): 48, DBE', { busId: '0000:B3:00', xid: 48, coded: true }],
    ['NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.', { busId: '0000:18:00', xid: 79, coded: false }],
    [
      'NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: installed in this system has\nNVRM: fallen off the bus and is not responding',
      { busId: '0000:b3:00', xid: 79, coded: false },
    ],
    ['NVRM: Xid (PCI:00000000:05:00): 12345, x', { busId: '00000000:05:00', xid: 12_345, coded: true }],
    ['NVRM: Xid (PCI:0000:05:00): 123456', null],
    ['NVRM: Xid (PCI:0000:05:00.12): 79', null],
    ['NVRM: Xid (PCI:000:05:00): 79', null],
    ['NVRM: GPU 0000:18:00.0: GPU is fine', null],
    ['GPU 0000:18:00.0: GPU has fallen off the bus.', null],
    ['NVRM: loading NVIDIA UNIX x86_64 Kernel Module', null],
    ['someone: Xid (PCI:0000:05:00): 79', null],
  ])('tells a code: %s', (message, found) => {
    expect(xidOf(message)).toEqual(found);
  });

  it('is counted by board and code; one board leaves the bus once', () => {
    const lines = [
      'NVRM: Xid (PCI:0000:05:00): 31, pid=1',
      'NVRM: Xid (PCI:0000:05:00): 31, pid=2',
      'NVRM: Xid (PCI:0000:06:00): 31, pid=3',
      'NVRM: Xid (PCI:0000:05:00): 79, gone',
      'NVRM: GPU 0000:05:00.0: GPU has fallen off the bus.',
      'other',
      'NVRM: Xid (PCI:0000:06:00): 31, pid=3',
    ];
    expect(lines.reduce(countXid, [] as readonly XidReading[])).toEqual([
      { busId: '0000:05:00', xid: 31, count: 2 },
      { busId: '0000:06:00', xid: 31, count: 2 },
      { busId: '0000:05:00', xid: 79, count: 1 },
    ]);
  });

  it('of another code of the same board, or of another board without a code, is counted anew', () => {
    const lines = [
      'NVRM: Xid (PCI:0000:05:00): 31, a',
      'NVRM: GPU 0000:05:00.0: GPU has fallen off the bus.',
      'NVRM: GPU 0000:06:00.0: GPU has fallen off the bus.',
      'NVRM: GPU 0000:06:00.0: GPU has fallen off the bus.',
    ];
    expect(lines.reduce(countXid, [] as readonly XidReading[])).toEqual([
      { busId: '0000:05:00', xid: 31, count: 1 },
      { busId: '0000:05:00', xid: 79, count: 1 },
      { busId: '0000:06:00', xid: 79, count: 1 },
    ]);
  });

  it('is remembered up to the bound', () => {
    const nearly = Array.from({ length: xidReadingsMax - 1 }, (_, xid) => ({
      busId: '0000:01:00',
      xid,
      count: 1,
    }));
    expect(countXid(nearly, 'NVRM: Xid (PCI:0000:05:00): 79, gone')).toHaveLength(xidReadingsMax);
  });

  it('beyond what is remembered is dropped', () => {
    const full = Array.from({ length: xidReadingsMax }, (_, xid) => ({ busId: '0000:01:00', xid, count: 1 }));
    expect(countXid(full, 'NVRM: Xid (PCI:0000:05:00): 79, gone')).toBe(full);
  });
});

describe('health', () => {
  const gpu: GpuReading = {
    ...identityOnly({ uuid: 'GPU-a', index: 0, name: 'Tesla T4', busId: '00000000:05:00.0' }),
    totalBytes: 1,
  };
  const health = (xids: XidReading[], rest: Partial<GpuReading> = {}) => {
    const probe: Probe = { startedAtMs: 0, gpus: [{ ...gpu, ...rest }], faults: [], xids };
    const { health: state, reason } = judge({}, probe).memory['GPU-a']!.verdict;
    return reason ? `${state} ${reason}` : state;
  };
  const xid = (code: number, busId = '0000:05:00') => [{ busId, xid: code, count: 1 }];

  it.each([
    [48, 'Unhealthy FatalXid'],
    [119, 'Unhealthy FatalXid'],
    [74, 'Degraded Xid'],
    [999, 'Degraded Xid'],
    [176, 'Degraded Xid'],
    [175, 'Healthy'],
    ...[46, 54, 62, 64, 79, 95, 110, 120, 136, 140, 143, 155, 156, 158, 171, 172].map(
      (code) => [code, 'Unhealthy FatalXid'] as [number, string],
    ),
    ...[94, 109, 144, 145, 146, 147, 148, 149, 150].map((code) => [code, 'Degraded Xid'] as [number, string]),
    [13, 'Healthy'],
    [31, 'Healthy'],
    [43, 'Healthy'],
    [63, 'Healthy'],
    [92, 'Healthy'],
  ])('after XID %i of an older driver', (code, expected) => {
    expect(health(xid(code))).toBe(expected);
  });

  it('names each code once, in order, with the remedy', () => {
    const message = (xids: XidReading[]) =>
      judge({}, { startedAtMs: 0, gpus: [gpu], faults: [], xids }).memory['GPU-a']!.verdict.message;
    expect(message([...xid(79), ...xid(48), ...xid(48), ...xid(119), ...xid(74)])).toBe(
      'XID 48, 79, 119 since the node started: see dmesg, reboot the node',
    );
    expect(message([...xid(150), ...xid(94), ...xid(13)])).toBe(
      'XID 94, 150 since the node started: see dmesg, reset the GPU',
    );
  });

  it('is not touched by another board’s, nor where the driver weighs them itself', () => {
    expect(health(xid(48, '0000:06:00'))).toBe('Healthy');
    expect(health(xid(48), { recoveryAction: 'None' })).toBe('Healthy');
    expect(health(xid(48), { recoveryAction: 'Drain and Reset' })).toBe('Degraded DrainAndReset');
  });

  it('gets worse by a fatal one at once', () => {
    const probe: Probe = { startedAtMs: 0, gpus: [gpu], faults: [], xids: [] };
    const { memory } = judge({}, probe);
    expect(judge(memory, { ...probe, xids: xid(62) }).memory['GPU-a']!.verdict.reason).toBe('FatalXid');
  });
});

describe('following the kernel log', () => {
  const fail = (code: string) => Object.assign(new Error(code), { code });
  /** Answers these in turn, then EAGAIN for ever. */
  function fakeLog(steps: (string | Error)[]) {
    let closed = false;
    return {
      file: {
        async read(buffer: Buffer) {
          const step = steps.shift() ?? fail('EAGAIN');
          if (step instanceof Error) throw step;
          return buffer.write(step);
        },
        async close() {
          closed = true;
        },
      },
      closed: () => closed,
    };
  }
  const silent = createLog('agent', 'error', () => undefined);

  it('tells every record, and goes on behind those that were overwritten', async () => {
    const told: string[] = [];
    const { file, closed } = fakeLog(['1,1,1,-;one\n', fail('EPIPE'), '1,5,1,-;two\n']);
    const follow = followKernelLog(
      (message) => told.push(message),
      silent,
      async () => file,
    );
    await vi.waitUntil(() => told.length === 2);
    expect(told).toEqual(['one', 'two']);
    follow.stop();
    await vi.waitUntil(closed);
  });

  it.each(['ENOENT', 'EPERM'])('that is closed to the agent (%s) is said once', async (code) => {
    const lines: string[] = [];
    const log = createLog('agent', 'info', (line) => void lines.push(line));
    followKernelLog(
      () => undefined,
      log,
      () => Promise.reject(fail(code)),
    );
    await vi.waitUntil(() => lines.length > 0);
    expect(lines).toHaveLength(1);
  });
});
