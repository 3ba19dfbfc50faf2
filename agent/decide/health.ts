/**
 * Whether a GPU can be trusted, from what probes read. Signs that a board is lost count at once; everything else has to be
 * seen twice before it gets worse, and a sick board is well again after three good readings.
 *
 * The signs and what they mean: NVIDIA's GPU debug guidelines, the A100 memory error management guide (row remapping), the
 * manual page of nvidia-smi (recovery action).
 */
import type { HealthState } from '#api/gpu.ts';
import type { GpuReading, Probe, ProbeFault } from './facts.ts';
import { weighXids, type XidReading } from './xid.ts';

export interface Verdict {
  health: HealthState;
  /** CamelCase; empty while Healthy. */
  reason: string;
  /** A sentence with the remedy, without figures that move; empty while Healthy. */
  message: string;
  /** Models may work here: MIG-partitioned boards are well and still of no use. */
  usable: boolean;
}

/** What has to be remembered of one GPU between probes. */
export interface GpuHealth {
  verdict: Verdict;
  /** Read but not believed yet; `readings` in a row. */
  candidate: { verdict: Verdict; readings: number } | null;
  /** Whether the hardware slowed itself down, in the last readings, newest last. */
  slowdowns: boolean[];
  busId: string | null;
}

/** By UUID. Plain data: it survives nothing but is rebuilt from the GPU resources and the first probe. */
export type HealthMemory = Record<string, GpuHealth>;

/** Readings in a row before a GPU gets worse, and before it is well again. */
const readingsToWorsen = 2;
const readingsToRecover = 3;
/** The hardware slows down in this many of the last readings: not a passing peak. */
const slowdownWindow = 5;
const slowdownsMin = 3;
/** Degrees below the limit from which on a board counts as too hot. */
const temperatureMarginMin = 5;

/** Worst last; a GPU of which nothing is known may be lost, so it stands behind one that is known to limp. */
const severity: HealthState[] = ['Healthy', 'Degraded', 'Unknown', 'Unhealthy'];
const rank = (verdict: Verdict) => severity.indexOf(verdict.health);

/** The reason of a GPU that no probe has told of. */
const unread = 'NotProbed';

const healthy: Verdict = { health: 'Healthy', reason: '', message: '', usable: true };
const degraded = (reason: string, message: string): Verdict => ({
  health: 'Degraded',
  reason,
  message,
  usable: true,
});
const unhealthy = (reason: string, message: string): Verdict => ({
  health: 'Unhealthy',
  reason,
  message,
  usable: false,
});
const unknown = (reason: string, message: string): Verdict => ({
  health: 'Unknown',
  reason,
  message,
  usable: false,
});

/** Of a GPU known by its resource alone. */
export const notProbed = unknown(unread, 'the agent has not looked at this GPU yet');

/** Faults that say something about the board; all others only say that nothing could be learned. */
const faultVerdicts: Record<string, (reason: string, message: string) => Verdict> = {
  GpuLost: unhealthy,
  ResetRequired: unhealthy,
  Missing: unhealthy,
  DriverNotLoaded: unhealthy,
  PowerCablesMissing: unhealthy,
  InterruptFault: degraded,
  InforomCorrupt: degraded,
};
/** What a fault alone says of the GPU it is about. */
export const ofFault = ({ reason, message }: ProbeFault): Verdict =>
  (faultVerdicts[reason] ?? unknown)(reason, message);

/** Believed at once: nothing works on such a board, or the driver was asked more than once already. */
const believedAtOnce = new Set(['GpuLost', 'ResetRequired', 'ProbeTimeout', 'FatalXid']);

const recoveries: Record<string, Verdict> = {
  Reset: unhealthy(
    'ResetRequired',
    'the driver wants the GPU reset: end its processes, then nvidia-smi --gpu-reset',
  ),
  Reboot: unhealthy('RebootRequired', 'the driver wants the node rebooted'),
  'Drain P2P': unhealthy('DrainP2P', 'the driver wants GPUs that talk peer to peer drained and reset'),
  'Drain and Reset': degraded(
    'DrainAndReset',
    'the driver wants the GPU reset once its work is done: place nothing new on it',
  ),
};

/** Every sign in a reading, with what it means. */
const signs: [(gpu: GpuReading) => boolean, Verdict][] = [
  [
    ({ anomalies }) => anomalies.some((text) => /GPU is lost/i.test(text)),
    unhealthy('GpuLost', 'the driver lost the GPU: reboot the node'),
  ],
  [
    ({ remapFailure }) => remapFailure === true,
    unhealthy('RowRemapFailure', 'a faulty memory row could not be replaced: have the board exchanged'),
  ],
  [
    ({ unrepairable }) => unrepairable === true,
    unhealthy('UnrepairableMemory', 'memory is damaged beyond repair: have the board exchanged'),
  ],
  [
    ({ sramThresholdExceeded }) => sramThresholdExceeded === true,
    unhealthy('SramThresholdExceeded', 'too many uncorrectable SRAM errors: have the board exchanged'),
  ],
  [
    // Newer drivers weigh these errors themselves and advise by the recovery action.
    ({ eccUncorrectable, recoveryAction }) => (eccUncorrectable ?? 0) > 0 && recoveryAction === null,
    unhealthy('UncorrectableEcc', 'uncorrectable memory errors since the driver was loaded: reset the GPU'),
  ],
  [
    ({ migEnabled }) => migEnabled === true,
    {
      ...degraded('MIGUnsupported', 'MIG mode is on: switch it off (nvidia-smi -mig 0) to use this GPU'),
      usable: false,
    },
  ],
  [
    ({ remapPending }) => remapPending === true,
    degraded('RowRemapPending', 'a faulty memory row is replaced at the next reset of the GPU'),
  ],
  [
    ({ retirementPending }) => retirementPending === true,
    degraded('PageRetirementPending', 'faulty memory pages are retired at the next reboot'),
  ],
  [
    ({ repairPending }) => repairPending === true,
    degraded('RepairPending', 'a repair is carried out at the next reset of the GPU'),
  ],
  [
    ({ fabricState }) => fabricState !== null && fabricState !== 'Completed',
    degraded('FabricNotReady', 'the NVSwitch fabric is not ready: see nvidia-fabricmanager'),
  ],
  [
    ({ anomalies }) => anomalies.length > 0,
    degraded('UnreadableFields', 'nvidia-smi cannot read all of this GPU: see dmesg'),
  ],
];

const worst = (verdicts: Verdict[]): Verdict =>
  verdicts.reduce((most, verdict) => (rank(verdict) > rank(most) ? verdict : most), healthy);

/** `0000:0B:00.0` and `00000000:0b:00.0` are one board. */
export const sameBoard = (a: string | null, b: string | null): boolean =>
  a !== null && b !== null && shortBus(a) === shortBus(b);
const shortBus = (busId: string): string => busId.toUpperCase().replace(/^[0-9A-F]{4}(?=[0-9A-F]{4}:)/, '');

const slowsDown = (gpu: GpuReading): boolean =>
  gpu.thermalSlowdown === true ||
  (gpu.temperatureMarginCelsius !== null && gpu.temperatureMarginCelsius <= temperatureMarginMin);

/**
 * What XIDs say of a board. Drivers that give a recovery action have weighed them already, and take it back after a reset;
 * with older ones a fatal XID stands until the machine starts anew.
 */
function xidVerdicts(gpu: GpuReading, xids: readonly XidReading[]): Verdict[] {
  if (gpu.recoveryAction !== null) return [];
  const { fatal, limping } = weighXids(xids.filter(({ busId }) => sameBoard(`${busId}.0`, gpu.busId)));
  if (fatal.length > 0) {
    return [
      unhealthy('FatalXid', `XID ${fatal.join(', ')} since the node started: see dmesg, reboot the node`),
    ];
  }
  if (limping.length === 0) return [];
  return [degraded('Xid', `XID ${limping.join(', ')} since the node started: see dmesg, reset the GPU`)];
}

/** What one reading and the faults about that board say, without debounce. */
function readingVerdict(
  gpu: GpuReading,
  slowdowns: boolean[],
  faults: ProbeFault[],
  xids: readonly XidReading[],
): Verdict {
  const recovery = gpu.recoveryAction === null ? undefined : recoveries[gpu.recoveryAction];
  const verdicts = [
    ...faults.map(ofFault),
    ...(recovery ? [recovery] : []),
    ...xidVerdicts(gpu, xids),
    ...signs.filter(([seen]) => seen(gpu)).map(([, verdict]) => verdict),
  ];
  if (slowdowns.filter(Boolean).length >= slowdownsMin) {
    verdicts.push(
      degraded('HardwareSlowdown', 'the GPU slows down for heat or lack of power: check its cooling'),
    );
  }
  // Faults explain better why there is no memory to see; without one this stands for itself.
  if (gpu.totalBytes === null) {
    verdicts.push(unknown('MemoryUnreadable', 'nvidia-smi does not say how much memory this GPU has'));
  }
  return worst(verdicts);
}

/** What a probe says of a GPU that it does not list; null: nothing, the last verdict stands. */
function absenceVerdict(state: GpuHealth, uuid: string, probe: Probe, known: HealthMemory): Verdict | null {
  const { faults } = probe;
  const own = faults.filter((fault) => fault.uuid === uuid || sameBoard(fault.busId, state.busId));
  if (own.length > 0) return worst(own.map(ofFault));
  const general = faults.filter((fault) => fault.busId === null && fault.uuid === undefined);
  if (general.length > 0) return worst(general.map(ofFault));
  // After a restart the bus id is not known: a lost board that is nobody else's is this one.
  const boards = [...probe.gpus, ...Object.values(known)];
  const strange = faults.filter(
    (fault) => fault.busId !== null && !boards.some(({ busId }) => sameBoard(busId, fault.busId)),
  );
  if (state.busId === null && strange.length > 0) return worst(strange.map(ofFault));
  if (probe.gpus.length === 0) return null;
  return unhealthy(
    'Missing',
    'the driver no longer lists this GPU: see dmesg, reboot the node or check the board',
  );
}

/** One step of the debounce. */
function believe(state: GpuHealth, seen: Verdict): Pick<GpuHealth, 'verdict' | 'candidate'> {
  const { verdict } = state;
  const settled = { verdict: seen, candidate: null };
  if (rank(seen) === rank(verdict)) return settled;
  const worse = rank(seen) > rank(verdict);
  if (worse && believedAtOnce.has(seen.reason)) return settled;
  // Two different complaints in a row are two bad readings; good readings count on their own.
  const same = state.candidate && rank(state.candidate.verdict) > rank(verdict) === worse;
  const readings = (same ? state.candidate!.readings : 0) + 1;
  if (readings >= (worse ? readingsToWorsen : readingsToRecover)) return settled;
  return { verdict, candidate: { verdict: seen, readings } };
}

/**
 * GPUs known from an earlier life by their resources: they may be missing. Their first reading is believed as it is, unless
 * they were Unhealthy or Degraded: a restart of the agent heals nothing.
 */
export function rememberGpus(
  memory: HealthMemory,
  known: readonly {
    uuid: string;
    health?: HealthState | undefined;
    reason?: string | undefined;
    message?: string | undefined;
  }[],
): HealthMemory {
  const next = { ...memory };
  for (const { uuid, health = 'Unknown', reason = '', message = '' } of known) {
    const state = health === 'Unhealthy' || health === 'Degraded' ? health : 'Unknown';
    next[uuid] ??= {
      verdict:
        state === 'Unknown'
          ? notProbed
          : { health: state, reason, message, usable: state === 'Degraded' && reason !== 'MIGUnsupported' },
      candidate: null,
      slowdowns: [],
      busId: null,
    };
  }
  return next;
}

/**
 * Takes a probe in.
 * @returns `memory` for the next call (its `verdict`s are what to publish); `unsettled` when a change waits for further
 *   readings, so that the next probe should come soon
 */
export function judge(memory: HealthMemory, probe: Probe): { memory: HealthMemory; unsettled: boolean } {
  const next: HealthMemory = {};
  const readings = new Map(probe.gpus.map((gpu) => [gpu.uuid, gpu]));
  for (const uuid of new Set([...Object.keys(memory), ...readings.keys()])) {
    const gpu = readings.get(uuid);
    const before = memory[uuid];
    const busId = gpu?.busId ?? before?.busId ?? null;
    const slowdowns = [...(before?.slowdowns ?? []), ...(gpu ? [slowsDown(gpu)] : [])].slice(-slowdownWindow);
    const about = probe.faults.filter((fault) => fault.uuid === uuid || sameBoard(fault.busId, busId));
    const seen = gpu
      ? readingVerdict(gpu, slowdowns, about, probe.xids ?? [])
      : absenceVerdict(before!, uuid, probe, memory);
    // One listing without a GPU is not enough to call it gone, not even after a restart.
    const first = before === undefined || (before.verdict.reason === unread && seen?.reason !== 'Missing');
    const believed =
      seen === null
        ? { verdict: before!.verdict, candidate: before!.candidate }
        : first
          ? { verdict: seen, candidate: null }
          : believe(before, seen);
    next[uuid] = { ...believed, slowdowns, busId };
  }
  return { memory: next, unsettled: Object.values(next).some(({ candidate }) => candidate !== null) };
}
