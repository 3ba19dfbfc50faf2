/** The simulated GPUs: real bytes, the one judge of over-commit. */
import type { GpuMeasurement } from '../../agent/decide/facts.ts';
import type { SimEngine } from './engine.ts';

export class SimGpu {
  readonly index: number;
  readonly uuid: string;
  readonly totalBytes: number;
  strangerBytes = 0;
  usable = true;
  present = true;
  /** Bytes of each engine, ended ones included until the driver has cleared them. */
  held = new Map<SimEngine, number>();

  constructor(index: number, totalBytes: number) {
    this.index = index;
    this.uuid = `GPU-${index}`;
    this.totalBytes = totalBytes;
  }

  enginesBytes(except: SimEngine | null): number {
    let bytes = 0;
    for (const [engine, held] of this.held) if (engine !== except) bytes += held;
    return bytes;
  }

  get freeBytes(): number {
    return Math.max(0, this.totalBytes - this.strangerBytes - this.enginesBytes(null));
  }

  measure(): GpuMeasurement {
    const byPod: Record<string, number> = {};
    for (const [engine, bytes] of this.held) byPod[engine.pod] = (byPod[engine.pod] ?? 0) + bytes;
    const { uuid, totalBytes, freeBytes, strangerBytes } = this;
    return {
      uuid,
      totalBytes,
      usedBytes: totalBytes - freeBytes,
      freeBytes,
      byPod,
      foreignBytes: strangerBytes,
    };
  }
}
