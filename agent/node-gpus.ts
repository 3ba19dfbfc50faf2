/**
 * All that is known of this node's GPUs, in one place: probes, health, measurements, occupants and the resources that exist
 * come in; the wanted resources, the arbiter's facts and the metrics' view go out. Plain bookkeeping over decide/.
 */
import type { GpuOccupant } from '#api/gpu.ts';
import type { GpuFact } from './decide/arbiter/words.ts';
import type { GpuMeasurement, Probe } from './decide/facts.ts';
import { type DesiredGpu, desiredGpus, type GpuObject } from './decide/gpu-resources.ts';
import { type HealthMemory, judge, notProbed, rememberGpus, sameBoard } from './decide/health.ts';
import { countXid, type XidReading } from './decide/xid.ts';

export interface NodeGpus {
  /** A full probe. @returns whether the next should come soon, for `startProbing` */
  probed(probe: Probe): { unsettled: boolean };
  /**
   * A quick measurement; null: it failed, what was measured before says nothing about now.
   * @returns whether other GPUs answered than the time before: then a probe should come now
   */
  measured(gpus: readonly GpuMeasurement[] | null): { changed: boolean };
  /**
   * The GPU resources of this node as the watch has them; not before it has listed them all.
   * @returns whether one of them is of a GPU that no probe has looked for: then the next should come now
   */
  listed(resources: readonly GpuObject[]): { unsettled: boolean };
  /**
   * One message of the kernel log.
   * @returns whether a board reported a code that it had not before: then a probe should come now
   */
  logged(message: string): { changed: boolean };
  /** By UUID, from the arbiter's state. */
  occupied(occupants: Readonly<Record<string, readonly GpuOccupant[]>>): void;

  /** GPUs with a place in the listing and a name, for a probe that has to ask one by one. */
  known(): { uuid: string; index: number; name: string }[];
  /** For the arbiter: every GPU whose memory was ever read, the vanished ones as not usable. */
  facts(): GpuFact[];
  /** For the publisher; null until there was a probe and the resources were listed: an index might be given twice. */
  desired(): DesiredGpu[] | null;
  existing(): readonly GpuObject[];
  /** For the metrics: null until there was a probe. */
  view(): {
    desired: DesiredGpu[];
    probe: Probe;
    measured: readonly GpuMeasurement[] | null;
    /** Of boards whose GPU is known. */
    xids: { uuid: string; xid: number; count: number }[];
  } | null;
}

export function createNodeGpus(nodeName: string): NodeGpus {
  let probe: Probe | null = null;
  let health: HealthMemory = {};
  let measured: readonly GpuMeasurement[] | null = null;
  let resources: readonly GpuObject[] | null = null;
  let xids: readonly XidReading[] = [];
  /** UUIDs of the last measurement that brought any. */
  let answered: string | null = null;
  let occupants: Readonly<Record<string, readonly GpuOccupant[]>> = {};
  /** The last name, place and size of every GPU ever read. */
  const names = new Map<string, { uuid: string; index: number; name: string; totalBytes: number | null }>();

  const wanted = (seen: Probe): DesiredGpu[] =>
    desiredGpus({ nodeName, probe: seen, health, measured, occupants, existing: resources ?? [] });

  const xidsByUuid = () =>
    Object.entries(health).flatMap(([uuid, board]) =>
      xids
        .filter(({ busId }) => sameBoard(`${busId}.0`, board.busId))
        .map(({ xid, count }) => ({ uuid, xid, count })),
    );

  return {
    probed(reading) {
      const seen: Probe = { ...reading, xids };
      probe = seen;
      for (const { uuid, index, name, totalBytes } of seen.gpus) {
        names.set(uuid, { uuid, index, name, totalBytes: totalBytes ?? names.get(uuid)?.totalBytes ?? null });
      }
      const judged = judge(health, seen);
      health = judged.memory;
      return { unsettled: judged.unsettled };
    },
    measured(gpus) {
      measured = gpus;
      if (gpus === null) return { changed: false };
      const before = answered;
      answered = gpus
        .map(({ uuid }) => uuid)
        .sort()
        .join(' ');
      return { changed: before !== null && before !== answered };
    },
    listed(all) {
      resources = all;
      health = rememberGpus(
        health,
        all
          .filter(({ spec }) => spec.nodeName === nodeName)
          .map(({ spec, status }) => ({
            uuid: spec.uuid,
            health: status?.health,
            reason: status?.healthReason,
            message: status?.healthMessage,
          })),
      );
      return { unsettled: Object.values(health).some(({ verdict }) => verdict === notProbed) };
    },
    logged(message) {
      const before = xids;
      xids = countXid(xids, message);
      return { changed: xids.length > before.length };
    },
    occupied(all) {
      occupants = all;
    },
    known: () => [...names.values()],
    facts() {
      return [...names.values()].flatMap(({ uuid, index, totalBytes }) => {
        const bytes = measured?.find((gpu) => gpu.uuid === uuid)?.totalBytes ?? totalBytes;
        if (bytes === null) return [];
        return [{ uuid, index, totalBytes: bytes, usable: health[uuid]?.verdict.usable ?? false }];
      });
    },
    desired: () => (probe && resources ? wanted(probe) : null),
    existing: () => resources ?? [],
    view: () => (probe ? { desired: wanted(probe), probe, measured, xids: xidsByUuid() } : null),
  };
}
