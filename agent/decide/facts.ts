/**
 * Facts about the node's GPUs as plain data: what observe/ read, before anybody judged it. Unknown is null, never 0.
 */
import type { XidReading } from './xid.ts';

/** One GPU as one probe of the driver saw it. */
export interface GpuReading {
  uuid: string;
  /** Position in the driver's listing: an index is not an identity, `uuid` is. */
  index: number;
  /** The marketing name, such as `NVIDIA A40`. */
  name: string;
  /** PCI bus id as the driver prints it, `00000000:05:00.0`. */
  busId: string | null;
  driver: string | null;
  totalBytes: number | null;
  usedBytes: number | null;
  freeBytes: number | null;
  reservedBytes: number | null;
  utilizationRatio: number | null;
  temperatureCelsius: number | null;
  powerWatts: number | null;
  migEnabled: boolean | null;
  /** The driver's own advice, normalised: `None`, `Reset`, `Reboot`, `Drain P2P`, `Drain and Reset`. */
  recoveryAction: string | null;
  remapPending: boolean | null;
  remapFailure: boolean | null;
  /** Retired pages wait for a reboot (boards before Ampere). */
  retirementPending: boolean | null;
  /** Uncorrectable ECC errors since the driver was loaded. */
  eccUncorrectable: number | null;
  /** Repairs that a reset would carry out, and damage that none would. */
  repairPending: boolean | null;
  unrepairable: boolean | null;
  /** More uncorrectable SRAM errors than the vendor lets a board have. */
  sramThresholdExceeded: boolean | null;
  /** The hardware itself slows the clocks down: heat, or the power brake. */
  thermalSlowdown: boolean | null;
  /** Degrees left until the board slows down for heat. */
  temperatureMarginCelsius: number | null;
  /** NVSwitch fabric: `Completed` is ready; null where there is none. */
  fabricState: string | null;
  /** Texts that stood where a value should: `Unknown Error`, `GPU is lost`. Signs of a sick board. */
  anomalies: string[];
}

/** One process holding memory on one GPU; `bytes` null where the driver would not say. */
export interface ProcessReading {
  gpuUuid: string;
  pid: number;
  bytes: number | null;
}

/** Why a probe brought nothing, or less than it should. */
export interface ProbeFault {
  /** CamelCase, as GPU.status.healthReason: `ProbeTimeout`, `NoDriver`, `DriverNotLoaded`, `DriverMismatch`, `GpuLost`, … */
  reason: string;
  /** What to do about it, in a sentence. */
  message: string;
  /** The board it is about; null: all of them, unless `uuid` names one. */
  busId: string | null;
  /** The GPU it is about, where it was asked for by name. */
  uuid?: string;
}

/** The outcome of one probe: what was read, and what went wrong. */
export interface Probe {
  /** Monotonic ms when the driver was asked: memory that moved later is not in here. */
  startedAtMs: number;
  gpus: GpuReading[];
  faults: ProbeFault[];
  /** What the boards reported in the kernel log since the machine started; absent where it cannot be read. */
  xids?: readonly XidReading[];
}

/** Memory of one GPU, quickly measured, with the processes' bytes summed by pod. */
export interface GpuMeasurement {
  uuid: string;
  totalBytes: number;
  usedBytes: number;
  freeBytes: number;
  /** Bytes of each model pod's processes here, by pod UID. */
  byPod: Record<string, number>;
  /** Bytes of processes that belong to no model pod; what `usedBytes` holds beyond all processes is the arbiter's to add. */
  foreignBytes: number;
  /** Pods with a process here whose memory the driver would not say: their bytes are in nobody's sum. */
  unmeasuredPods?: string[];
  /** What else the same quick call told; absent or null where unknown. */
  utilizationRatio?: number | null;
  temperatureCelsius?: number | null;
  powerWatts?: number | null;
}
