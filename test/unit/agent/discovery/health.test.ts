import { describe, expect, it } from 'vitest';
import type { GpuReading, Probe, ProbeFault } from '../../../../agent/decide/facts.ts';
import {
  type HealthMemory,
  judge,
  ofFault,
  rememberGpus,
  sameBoard,
} from '../../../../agent/decide/health.ts';
import { identityOnly } from '../../../../agent/observe/nvidia-smi/xml.ts';

const uuid = 'GPU-a';
const busId = '00000000:0B:00.0';
const well: GpuReading = {
  ...identityOnly({ uuid, index: 0, name: 'NVIDIA A40', busId }),
  totalBytes: 1,
  recoveryAction: 'None',
};
const other: GpuReading = { ...well, uuid: 'GPU-b', index: 1, busId: '00000000:0C:00.0' };
const probe = (gpus: GpuReading[], ...faults: Partial<ProbeFault>[]): Probe => ({
  startedAtMs: 0,
  gpus,
  faults: faults.map((fault) => ({ reason: 'ProbeFailed', message: 'why', busId: null, ...fault })),
});
const sick = (signs: Partial<GpuReading>): Probe => probe([{ ...well, ...signs }]);
const good = probe([well]);

/** The verdicts on one GPU after each probe in turn, as `Health Reason`. */
function verdicts(probes: Probe[], memory: HealthMemory = {}, of = uuid): string[] {
  let now = memory;
  return probes.map((next) => {
    now = judge(now, next).memory;
    const { health, reason } = now[of]!.verdict;
    return reason ? `${health} ${reason}` : health;
  });
}

describe('a first reading', () => {
  it.each<[string, Partial<GpuReading>, string, boolean]>([
    ['that shows nothing wrong', {}, 'Healthy', true],
    ['of an old driver that knows no advice', { recoveryAction: null, eccUncorrectable: 0 }, 'Healthy', true],
    ['with errors that a newer driver has weighed', { eccUncorrectable: 5 }, 'Healthy', true],
    [
      'with errors that nobody weighed',
      { recoveryAction: null, eccUncorrectable: 1 },
      'Unhealthy UncorrectableEcc',
      false,
    ],
    ['with advice to reset', { recoveryAction: 'Reset' }, 'Unhealthy ResetRequired', false],
    ['with advice to reboot', { recoveryAction: 'Reboot' }, 'Unhealthy RebootRequired', false],
    ['with advice to drain peers', { recoveryAction: 'Drain P2P' }, 'Unhealthy DrainP2P', false],
    ['with advice to drain', { recoveryAction: 'Drain and Reset' }, 'Degraded DrainAndReset', true],
    ['with a failed remap', { remapFailure: true, remapPending: true }, 'Unhealthy RowRemapFailure', false],
    ['with a remap to come', { remapPending: true }, 'Degraded RowRemapPending', true],
    ['with pages to retire', { retirementPending: true }, 'Degraded PageRetirementPending', true],
    ['with a repair to come', { repairPending: true }, 'Degraded RepairPending', true],
    ['with damaged memory', { unrepairable: true }, 'Unhealthy UnrepairableMemory', false],
    ['with worn SRAM', { sramThresholdExceeded: true }, 'Unhealthy SramThresholdExceeded', false],
    ['in MIG mode', { migEnabled: true }, 'Degraded MIGUnsupported', false],
    ['of a fabric that starts', { fabricState: 'In Progress' }, 'Degraded FabricNotReady', true],
    ['of a fabric that is ready', { fabricState: 'Completed' }, 'Healthy', true],
    ['of a field that is an error', { anomalies: ['ERR!'] }, 'Degraded UnreadableFields', true],
    ['of a board that is lost', { anomalies: ['GPU is lost'] }, 'Unhealthy GpuLost', false],
    ['without memory', { totalBytes: null }, 'Unknown MemoryUnreadable', false],
    [
      'of a board that is lost, in other words',
      { anomalies: ['x', '[gpu is lost!]'] },
      'Unhealthy GpuLost',
      false,
    ],
    ['with advice nobody knows', { recoveryAction: 'Pray' }, 'Healthy', true],
    ['hot only now', { thermalSlowdown: true, temperatureMarginCelsius: 2 }, 'Healthy', true],
  ])('%s is believed at once', (_, signs, expected, usable) => {
    expect(verdicts([sick(signs)])).toEqual([expected]);
    const { verdict } = judge({}, sick(signs)).memory[uuid]!;
    expect(verdict.usable).toBe(usable);
    // A sentence for people, unless there is nothing to say.
    expect(verdict.message).toMatch(expected === 'Healthy' ? /^$/ : /^\S+ .{20}/);
  });
});

describe('a change', () => {
  it('for the worse needs two readings', () => {
    expect(verdicts([good, sick({ remapFailure: true }), sick({ remapFailure: true })])).toEqual([
      'Healthy',
      'Healthy',
      'Unhealthy RowRemapFailure',
    ]);
  });

  it('for the worse is forgotten after one good reading', () => {
    const bad = sick({ remapPending: true });
    expect(verdicts([good, bad, good, bad, good])).toEqual(Array(5).fill('Healthy'));
  });

  it('for the better needs three readings in a row', () => {
    const bad = sick({ recoveryAction: 'Reboot' });
    expect(verdicts([bad, good, good, bad, good, good, good])).toEqual([
      ...Array(6).fill('Unhealthy RebootRequired'),
      'Healthy',
    ]);
  });

  it('of the reason alone shows at once', () => {
    expect(verdicts([sick({ remapPending: true }), sick({ repairPending: true })])).toEqual([
      'Degraded RowRemapPending',
      'Degraded RepairPending',
    ]);
  });

  it('to lost is believed at once', () => {
    const lost = probe([other], { reason: 'GpuLost', busId: '0000:0b:00.0' });
    expect(verdicts([probe([well, other]), lost])).toEqual(['Healthy', 'Unhealthy GpuLost']);
    expect(verdicts([probe([well, other]), lost], {}, 'GPU-b')).toEqual(['Healthy', 'Healthy']);
  });

  it('that waits to be believed asks for a probe soon', () => {
    const { memory } = judge({}, good);
    expect(judge(memory, good).unsettled).toBe(false);
    expect(judge(memory, sick({ remapPending: true })).unsettled).toBe(true);
    const two = judge({}, probe([well, other])).memory;
    expect(judge(two, probe([{ ...well, remapPending: true }, other])).unsettled).toBe(true);
  });

  it('for the worse by two different complaints is believed with the last', () => {
    expect(verdicts([good, sick({ remapPending: true }), sick({ remapFailure: true })])).toEqual([
      'Healthy',
      'Healthy',
      'Unhealthy RowRemapFailure',
    ]);
  });

  it('for the better and one for the worse do not add up', () => {
    const limps = sick({ remapPending: true });
    const lost = sick({ remapFailure: true });
    expect(verdicts([limps, good, good, lost, good, lost, lost])).toEqual([
      ...Array(6).fill('Degraded RowRemapPending'),
      'Unhealthy RowRemapFailure',
    ]);
  });

  it.each([
    ['is hot', { thermalSlowdown: true }, 'Degraded HardwareSlowdown'],
    ['is 5 degrees from its limit', { temperatureMarginCelsius: 5 }, 'Degraded HardwareSlowdown'],
    ['is 6 degrees from it', { temperatureMarginCelsius: 6 }, 'Healthy'],
    ['does not tell', { temperatureMarginCelsius: null, thermalSlowdown: null }, 'Healthy'],
  ])('for heat is none in a board that %s', (_what, signs, expected) => {
    expect(verdicts(Array(5).fill(sick(signs))).at(-1)).toBe(expected);
  });

  it('for heat is said with the remedy', () => {
    let memory: HealthMemory = {};
    for (let times = 0; times < 4; times++) memory = judge(memory, sick({ thermalSlowdown: true })).memory;
    expect(memory[uuid]!.verdict.message).toMatch(/heat.*check its cooling/);
    expect(memory[uuid]!.slowdowns).toEqual([true, true, true, true]);
    for (let times = 0; times < 4; times++) memory = judge(memory, good).memory;
    expect(memory[uuid]!.slowdowns).toHaveLength(5);
  });

  it('for heat needs three of five readings, and two to believe them', () => {
    const hot = sick({ thermalSlowdown: true });
    expect(verdicts([good, hot, good, hot, good, hot, hot])).toEqual([
      ...Array(6).fill('Healthy'),
      'Degraded HardwareSlowdown',
    ]);
    expect(verdicts([good, hot, good, good, hot, good, good, hot, good])).toEqual(Array(9).fill('Healthy'));
  });
});

describe('a GPU that is not listed', () => {
  const both = probe([well, other]);
  it('is Missing after two good listings without it', () => {
    expect(verdicts([both, probe([other]), probe([other])])).toEqual([
      'Healthy',
      'Healthy',
      'Unhealthy Missing',
    ]);
  });

  it('comes back after three listings with it', () => {
    const gone = probe([other]);
    expect(verdicts([both, gone, gone, both, both, both]).slice(2)).toEqual([
      'Unhealthy Missing',
      'Unhealthy Missing',
      'Unhealthy Missing',
      'Healthy',
    ]);
  });

  it.each([
    ['DriverNotLoaded', 'Unhealthy'],
    ['Missing', 'Unhealthy'],
    ['DriverMismatch', 'Unknown'],
    ['NoDriver', 'Unknown'],
    ['DeviceAccessLost', 'Unknown'],
    ['OutputTruncated', 'Unknown'],
    ['OutputEmpty', 'Unknown'],
    ['SomethingNobodyKnows', 'Unknown'],
  ])('because of %s is %s from the second time on, and every other with it', (reason, health) => {
    const failed = probe([], { reason });
    for (const of of [uuid, 'GPU-b']) {
      expect(verdicts([both, failed, failed], {}, of)).toEqual(['Healthy', 'Healthy', `${health} ${reason}`]);
    }
  });

  it('keeps its verdict while only another board is complained of', () => {
    const lost = probe([], { reason: 'GpuLost', busId: '0000:0C:00.0' });
    expect(verdicts([both, lost, lost])).toEqual(['Healthy', 'Healthy', 'Healthy']);
  });

  it('or that hangs alone is judged by its own fault', () => {
    const hangs = probe([identityOnly(well), other], { reason: 'ProbeTimeout', uuid });
    // nvidia-smi was asked twice before it says so.
    expect(verdicts([both, hangs])).toEqual(['Healthy', 'Unknown ProbeTimeout']);
    expect(verdicts([both, hangs], {}, 'GPU-b')).toEqual(['Healthy', 'Healthy']);
  });
});

describe('a fault', () => {
  it.each([
    ['GpuLost', 'Unhealthy', false],
    ['ResetRequired', 'Unhealthy', false],
    ['Missing', 'Unhealthy', false],
    ['DriverNotLoaded', 'Unhealthy', false],
    ['PowerCablesMissing', 'Unhealthy', false],
    ['InterruptFault', 'Degraded', true],
    ['InforomCorrupt', 'Degraded', true],
    ['ProbeTimeout', 'Unknown', false],
  ])('%s says of its board: %s', (reason, health, usable) => {
    const fault = { reason, message: 'what to do', busId };
    expect(ofFault(fault)).toEqual({ health, reason, message: 'what to do', usable });
    expect(verdicts([probe([well], { reason, busId })])).toEqual([`${health} ${reason}`]);
    expect(verdicts([probe([well], { reason, uuid })])).toEqual([`${health} ${reason}`]);
    expect(verdicts([probe([well], { reason, busId: other.busId })])).toEqual(['Healthy']);
    expect(verdicts([probe([well], { reason, uuid: other.uuid })])).toEqual(['Healthy']);
  });

  it('that is worse hides one that is less', () => {
    const both = probe([well], { reason: 'InforomCorrupt', busId }, { reason: 'GpuLost', busId });
    expect(verdicts([both])).toEqual(['Unhealthy GpuLost']);
  });

  it.each(['ResetRequired', 'GpuLost', 'ProbeTimeout'])('%s is believed at once', (reason) => {
    expect(verdicts([good, probe([well], { reason, busId })])[1]).toMatch(new RegExp(`${reason}$`));
  });

  it.each(['DriverNotLoaded', 'InterruptFault'])('%s is believed the second time', (reason) => {
    expect(verdicts([good, probe([well], { reason, busId })])[1]).toBe('Healthy');
  });
});

describe('a board', () => {
  it.each([
    ['0000:0B:00.0', '00000000:0b:00.0', true],
    ['00000000:0B:00.0', '00000000:0B:00.0', true],
    ['0000:0B:00.0', '0000:0C:00.0', false],
    ['000a:0b:00.0', '0000000A:0B:00.0', true],
    ['0001:0B:00.0', '00000000:0B:00.0', false],
    ['00010000:0B:00.0', '0000:0B:00.0', true],
    [null, '0000:0B:00.0', false],
    ['0000:0B:00.0', null, false],
    [null, null, false],
  ])('%s and %s are one: %s', (a, b, same) => {
    expect(sameBoard(a, b)).toBe(same);
  });
});

describe('after a restart', () => {
  it.each([
    [{ health: 'Unhealthy', reason: 'GpuLost', message: 'gone' }, false],
    [{ health: 'Degraded', reason: 'RemapPending', message: 'limps' }, true],
    [{ health: 'Degraded', reason: 'MIGUnsupported', message: 'split' }, false],
    [{ health: 'Degraded' }, true],
  ] as const)('what its resource says of a GPU stands: %j, usable: %s', (said, usable) => {
    expect(rememberGpus({}, [{ uuid, ...said }])).toEqual({
      [uuid]: {
        verdict: { reason: '', message: '', ...said, usable },
        candidate: null,
        slowdowns: [],
        busId: null,
      },
    });
  });

  it.each(['Healthy', 'Unknown', undefined] as const)(
    'a GPU that was %s has not been looked at',
    (health) => {
      expect(rememberGpus({}, [{ uuid, health, reason: 'x', message: 'y' }])[uuid]!.verdict).toEqual({
        health: 'Unknown',
        reason: 'NotProbed',
        message: 'the agent has not looked at this GPU yet',
        usable: false,
      });
    },
  );

  it('a board that another GPU is known to be on is not the one that is not listed', () => {
    const known = rememberGpus({}, [{ uuid }]);
    const lost = probe([other], { reason: 'GpuLost', busId: '0000:0C:00.0' });
    expect(verdicts([lost, lost], known)).toEqual(['Unknown NotProbed', 'Unhealthy Missing']);
  });

  it('a fault that names the GPU is its own, one that names another says nothing of it', () => {
    const known = rememberGpus({}, [{ uuid }]);
    expect(verdicts([probe([other], { reason: 'GpuLost', uuid })], known)).toEqual(['Unhealthy GpuLost']);
    const others = probe([other], { reason: 'ProbeTimeout', uuid: 'GPU-c' });
    expect(verdicts([others, others], known)).toEqual(['Unknown NotProbed', 'Unhealthy Missing']);
  });

  it('a lost board is not a GPU whose board is known', () => {
    const lost = probe([other], { reason: 'GpuLost', busId: '0000:0D:00.0' });
    expect(verdicts([probe([well, other]), lost])).toEqual(['Healthy', 'Healthy']);
  });

  it('a GPU that is gone is said to be so, with the remedy', () => {
    const known = rememberGpus({}, [{ uuid, health: 'Degraded', reason: 'x' }]);
    const { memory } = judge(judge(known, probe([other])).memory, probe([other]));
    expect(memory[uuid]!.verdict.message).toMatch(/no longer lists this GPU: see dmesg/);
  });

  it('a listing of nothing says nothing', () => {
    expect(verdicts([probe([])], rememberGpus({}, [{ uuid }]))).toEqual(['Unknown NotProbed']);
    const known = rememberGpus({}, [{ uuid, health: 'Degraded', reason: 'x' }]);
    expect(verdicts([probe([]), probe([]), probe([])], known)).toEqual(Array(3).fill('Degraded x'));
    expect(judge(known, probe([])).memory).toEqual(known);
  });

  it('a GPU that was well is believed as it is read', () => {
    expect(verdicts([good], rememberGpus({}, [{ uuid, health: 'Healthy' }]))).toEqual(['Healthy']);
  });

  it('a GPU that was sick is not well at once', () => {
    const known = rememberGpus({}, [{ uuid, health: 'Unhealthy', reason: 'RebootRequired' }]);
    expect(verdicts([good, good, good], known)).toEqual([
      'Unhealthy RebootRequired',
      'Unhealthy RebootRequired',
      'Healthy',
    ]);
  });

  it('a GPU that is gone is Unknown first, Missing after the second listing', () => {
    const known = rememberGpus({}, [{ uuid, health: 'Healthy' }]);
    expect(verdicts([probe([other]), probe([other])], known)).toEqual([
      'Unknown NotProbed',
      'Unhealthy Missing',
    ]);
  });

  it('a lost board that is nobody else’s is the GPU that is not listed', () => {
    const known = rememberGpus({}, [{ uuid }, { uuid: other.uuid }]);
    const lost = probe([other], { reason: 'GpuLost', busId: '0000:0B:00.0' });
    expect(verdicts([lost], known)).toEqual(['Unhealthy GpuLost']);
  });

  it('what was learned since is not overwritten', () => {
    const { memory } = judge({}, sick({ remapPending: true }));
    expect(rememberGpus(memory, [{ uuid, health: 'Healthy' }])).toEqual(memory);
  });
});
