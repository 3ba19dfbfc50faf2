import { describe, expect, it } from 'vitest';
import { parseQuery } from '../../../../agent/observe/nvidia-smi/xml.ts';
import { fixture } from './fake-nvidia-smi.ts';

const mib = 2 ** 20;

/** Read off the files by eye: product, UUID, driver, total, used and free MiB, W, °C. */
const captured: [string, string, string, string, number[], number, number][] = [
  [
    'a10g.xml',
    'NVIDIA A10G',
    '9a9a6c50-2a47-2f51-a902-b82c3b127e94',
    '515.105.01',
    [23028, 22, 22569],
    25.58,
    17,
  ],
  [
    'gtx-1660-ti.xml',
    'Graphics Device',
    '304a277d-3545-63b8-3a36-dfde3c992989',
    '418.43',
    [5912, 0, 5912],
    8.93,
    40,
  ],
  [
    'quadro-p2000-v12.xml',
    'Quadro P2000',
    '396caaed-39ca-3199-2e68-717cdb786ec6',
    '525.125.06',
    [5120, 1, 5051],
    4.61,
    34,
  ],
  [
    'rtx-3060-v12.xml',
    'NVIDIA GeForce RTX 3060',
    'd6889ff6-2523-9142-ca3c-1ca3f396a625',
    '570.124.04',
    [12288, 116, 11806],
    11.63,
    42,
  ],
  [
    'rtx-3080-v12.xml',
    'NVIDIA GeForce RTX 3080',
    '19d6d965-2acc-f646-00f8-4c76979aabb4',
    '536.40',
    [10240, 1128, 8938],
    22.78,
    31,
  ],
  [
    'rtx-3080-v13.xml',
    'NVIDIA GeForce RTX 3080',
    '19d6d965-2acc-f646-00f8-4c76979aabb4',
    '595.58.03',
    [10240, 9184, 660],
    142.33,
    27,
  ],
  [
    'tesla-t4.xml',
    'Tesla T4',
    'd37e67a5-91dd-3774-a5cb-99096249601a',
    '515.105.01',
    [15360, 1032, 13939],
    26.78,
    40,
  ],
];

describe('a captured answer of nvidia-smi -q -x', () => {
  it.each(captured)('is read: %s', (file, name, uuid, driver, memory, powerWatts, temperatureCelsius) => {
    const { gpus, faults } = parseQuery(fixture(file));
    expect(faults).toEqual([]);
    expect(gpus).toHaveLength(1);
    const [totalBytes, usedBytes, freeBytes] = memory.map((figure) => figure * mib);
    expect(gpus[0]).toMatchObject({
      uuid: `GPU-${uuid}`,
      index: 0,
      name,
      driver,
      totalBytes,
      usedBytes,
      freeBytes,
      powerWatts,
      temperatureCelsius,
      thermalSlowdown: false,
      anomalies: [],
    });
  });

  it('leaves null what a driver does not say, under every spelling of it', () => {
    const [gpu] = parseQuery(fixture('gtx-1660-ti.xml')).gpus;
    expect(gpu).toMatchObject({
      reservedBytes: null,
      migEnabled: null,
      recoveryAction: null,
      remapPending: null,
      retirementPending: null,
      eccUncorrectable: null,
      fabricState: null,
    });
    // 570 prints a sentence where the two older flags stood, and the newer field beside it.
    expect(parseQuery(fixture('rtx-3060-v12.xml')).gpus[0]!.recoveryAction).toBe('None');
    // 536 has the flags alone.
    expect(parseQuery(fixture('rtx-3080-v12.xml')).gpus[0]!.recoveryAction).toBe('None');
  });
});

/** The newest dialect with some elements replaced: `[element, text]`, first occurrence. */
function altered(file: string, ...changes: [string, string][]): string {
  return changes.reduce((xml, [name, text]) => {
    const pattern = new RegExp(`<${name}>[^<]*</${name}>`);
    expect(xml).toMatch(pattern);
    return xml.replace(pattern, `<${name}>${text}</${name}>`);
  }, fixture(file));
}

describe('an element of the answer', () => {
  it.each<[string, string, [string, string][], object]>([
    [
      'advice to reset',
      'rtx-3080-v13.xml',
      [['gpu_recovery_action', 'GPU Reset']],
      { recoveryAction: 'Reset' },
    ],
    [
      'advice to reboot',
      'rtx-3080-v13.xml',
      [['gpu_recovery_action', 'Node Reboot']],
      { recoveryAction: 'Reboot' },
    ],
    [
      'advice to drain',
      'rtx-3060-v12.xml',
      [['gpu_recovery_action', 'Drain and Reset']],
      { recoveryAction: 'Drain and Reset' },
    ],
    [
      'an older flag for a reset',
      'rtx-3080-v12.xml',
      [['reset_required', 'Yes']],
      { recoveryAction: 'Reset' },
    ],
    [
      'an older flag for a drain',
      'rtx-3080-v12.xml',
      [['drain_and_reset_recommended', 'Yes']],
      { recoveryAction: 'Drain and Reset' },
    ],
    [
      'a pending row remap',
      'a10g.xml',
      [['remapped_row_pending', 'Yes']],
      { remapPending: true, remapFailure: false },
    ],
    ['a failed row remap', 'a10g.xml', [['remapped_row_failure', 'Yes']], { remapFailure: true }],
    ['pages to retire', 'tesla-t4.xml', [['pending_retirement', 'Yes']], { retirementPending: true }],
    ['uncorrectable errors', 'tesla-t4.xml', [['dram_uncorrectable', '3']], { eccUncorrectable: 3 }],
    ['a repair to come', 'rtx-3080-v13.xml', [['tpc_repair_pending', 'Yes']], { repairPending: true }],
    ['damage', 'rtx-3080-v13.xml', [['unrepairable_memory', 'Yes']], { unrepairable: true }],
    [
      'too many SRAM errors',
      'rtx-3080-v13.xml',
      [['sram_threshold_exceeded', 'Yes']],
      { sramThresholdExceeded: true },
    ],
    [
      'heat',
      'rtx-3080-v13.xml',
      [['clocks_event_reason_hw_thermal_slowdown', 'Active']],
      { thermalSlowdown: true },
    ],
    [
      'heat, as older drivers say it',
      'a10g.xml',
      [['clocks_throttle_reason_hw_thermal_slowdown', 'Active']],
      { thermalSlowdown: true },
    ],
    ['a margin', 'rtx-3080-v13.xml', [['gpu_temp_tlimit', '-3 C']], { temperatureMarginCelsius: -3 }],
    ['MIG', 'rtx-3080-v13.xml', [['current_mig', 'Enabled']], { migEnabled: true }],
    [
      'a driver with a note',
      'rtx-3080-v13.xml',
      [['driver_version', '610.57 [Deprecated; will be removed]']],
      { driver: '610.57' },
    ],
    [
      'no memory figures',
      'rtx-3080-v13.xml',
      [
        ['total', 'N/A'],
        ['free', '[Not Supported]'],
      ],
      { totalBytes: null, freeBytes: null, anomalies: [] },
    ],
    ['memory in GiB', 'rtx-3080-v13.xml', [['total', '10 GiB']], { totalBytes: 10 * 2 ** 30 }],
    [
      'a sick sensor',
      'rtx-3080-v13.xml',
      [['gpu_temp', 'Unknown Error']],
      { temperatureCelsius: null, anomalies: ['Unknown Error'] },
    ],
    [
      'a lost board',
      'rtx-3080-v13.xml',
      [['gpu_util', 'GPU is lost']],
      { utilizationRatio: null, anomalies: ['GPU is lost'] },
    ],
  ])('is understood: %s', (_, file, changes, expected) => {
    expect(parseQuery(altered(file, ...changes)).gpus[0]).toMatchObject(expected);
  });

  it('sums the double-bit errors of Pascal and older', () => {
    const xml = fixture('quadro-p2000-v12.xml').replace(
      /(<volatile>[\s\S]*?<double_bit>[\s\S]*?<total>)[^<]*/,
      '$12',
    );
    expect(parseQuery(xml).gpus[0]!.eccUncorrectable).toBe(2);
  });

  it('takes the kernel driver from its newer name', () => {
    const xml = fixture('rtx-3080-v13.xml').replace(
      '<cuda_version>',
      '<kmd_version>610.57</kmd_version><cuda_version>',
    );
    expect(parseQuery(xml).gpus[0]!.driver).toBe('610.57');
  });
});

describe('several GPUs', () => {
  const block = (xml: string, uuid: string) =>
    xml
      .slice(xml.indexOf('<gpu '), xml.indexOf('</gpu>') + 6)
      .replace(/<uuid>.*<\/uuid>/, `<uuid>${uuid}</uuid>`);
  const t4 = fixture('tesla-t4.xml');
  const two = t4.replace('</gpu>', `</gpu>${block(t4, 'GPU-2')}`);

  it('have the index of their place', () => {
    expect(parseQuery(two).gpus.map(({ uuid, index }) => [uuid, index])).toEqual([
      ['GPU-d37e67a5-91dd-3774-a5cb-99096249601a', 0],
      ['GPU-2', 1],
    ]);
  });

  it('are read up to where the answer breaks off; the broken one keeps its identity alone', () => {
    const { gpus, faults } = parseQuery(two.slice(0, two.indexOf('<fb_memory_usage>', two.indexOf('GPU-2'))));
    expect(gpus.map(({ uuid, totalBytes }) => [uuid, totalBytes])).toEqual([
      ['GPU-d37e67a5-91dd-3774-a5cb-99096249601a', 15360 * mib],
      ['GPU-2', null],
    ]);
    expect(faults).toMatchObject([{ reason: 'OutputTruncated', uuid: 'GPU-2' }]);
  });
});

describe('an answer that is none', () => {
  it.each([
    ['nothing', '', 'OutputEmpty'],
    ['white space', ' \n', 'OutputEmpty'],
    ['the first bytes of a document', '<?xml version="1.0" ?>\n<!DOC', 'OutputTruncated'],
    ['a document without any GPU in full', fixture('a10g.xml').slice(0, 250), 'OutputTruncated'],
    ['a sentence', 'hello', 'OutputUnreadable'],
    ['mismatched tags', '<nvidia_smi_log><gpu id="1"></nvidia_smi_log>', 'OutputUnreadable'],
    ['a listing of no GPU', '<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>', 'Missing'],
  ])('has a reason: %s', (_, text, reason) => {
    const { gpus, faults } = parseQuery(text);
    expect(gpus).toEqual([]);
    expect(faults).toMatchObject([{ reason, busId: null }]);
  });

  it('never throws, wherever a captured one is cut, and never invents memory', () => {
    const xml = fixture('a10g.xml');
    const end = xml.indexOf('</nvidia_smi_log>');
    for (let length = 0; length < end; length += 97) {
      const { gpus, faults } = parseQuery(xml.slice(0, length));
      expect(faults.length, `cut at ${length}`).toBe(1);
      for (const gpu of gpus) expect([null, 23028 * mib], `cut at ${length}`).toContain(gpu.totalBytes);
    }
  });
});
