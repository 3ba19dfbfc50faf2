/** The rounds of GPU work: full probes, quick measurements, publishing and metrics, each in its own time. */
import type { Registry } from 'prom-client';
import type { GpuOccupant } from '#api/gpu.ts';
import type { Log } from '#platform/log.ts';
import type { GpuPublisher } from './act/publish-gpus.ts';
import type { GpuFact } from './decide/arbiter/words.ts';
import { type GpuObject, productName } from './decide/gpu-resources.ts';
import { createGpuMetrics } from './metrics/gpus.ts';
import { createNodeGpus } from './node-gpus.ts';
import { followKernelLog } from './observe/kernel-log.ts';
import { type Measurement, type Measuring, startMeasuring } from './observe/measuring.ts';
import { createMeasure } from './observe/nvidia-smi/measure.ts';
import { probe } from './observe/nvidia-smi/probe.ts';
import { startProbing } from './observe/nvidia-smi/probing.ts';
import type { RunSmi } from './observe/nvidia-smi/run.ts';
import type { Owner } from './observe/process-pods.ts';

/** Changes within this are published together, ms. */
const publishAfterMs = 50;

export interface GpuRoundsParts {
  node: string;
  run: RunSmi;
  /** To which pod a process belongs; by its control group unless given. */
  owner?: ((pid: number) => Promise<Owner>) | undefined;
  isModelPod(podUid: string): boolean;
  model(podUid: string): { namespace: string; model: string } | null;
  occupants(): Record<string, GpuOccupant[]>;
  /** After every full probe: the GPUs there are. */
  onGpus(gpus: GpuFact[]): void;
  onMeasured(measurement: Measurement): void;
  registry: Registry;
  log: Log;
}

export interface GpuRounds {
  /** A measurement that starts from now on. */
  measure(): void;
  /** Something that is published may have changed. */
  changed(): void;
  /** From now on GPU resources are written. */
  publishWith(publisher: GpuPublisher): void;
  /** The GPU resources of this node, as the API server has them. */
  listed(resources: readonly GpuObject[]): void;
  /** As the label nvidia.com/gpu.product spells it; null when not known. */
  product(uuid: string): string | null;
  /** Shows what is known now, for a scrape. */
  showMetrics(): void;
  /** null once this node's GPUs are published, else why not. */
  unpublished(): string | null;
  stop(): void;
}

export function startGpuRounds(parts: GpuRoundsParts): GpuRounds {
  const { run, owner, isModelPod, log } = parts;
  const gpus = createNodeGpus(parts.node);
  const metrics = createGpuMetrics(parts.registry);
  let publisher: GpuPublisher | null = null;
  let publishTimer: NodeJS.Timeout | undefined;
  let stopped = false;
  let measurable = true;

  const publish = (): void => {
    publishTimer = undefined;
    gpus.occupied(parts.occupants());
    const desired = publisher ? gpus.desired() : null;
    if (desired) publisher?.want(desired, gpus.existing());
  };
  const changed = (): void => {
    if (!stopped) publishTimer ??= setTimeout(publish, publishAfterMs);
  };

  const probing = startProbing(
    () => probe(run, { known: gpus.known() }),
    (seen, durationMs) => {
      metrics.asked('full', { durationMs, good: seen.faults.length === 0, unixMs: Date.now() });
      const next = gpus.probed(seen);
      parts.onGpus(gpus.facts());
      changed();
      return next;
    },
    log,
  );

  const kernelLog = followKernelLog((message) => {
    if (gpus.logged(message).changed) probing.ask();
  }, log);

  const quick = createMeasure({ run, isModelPod, ...(owner && { owner }) });
  async function measure(): Promise<Measurement> {
    const startedAtMs = performance.now();
    const asked = (good: boolean) =>
      metrics.asked('quick', { durationMs: performance.now() - startedAtMs, good, unixMs: Date.now() });
    try {
      const measurement = { startedAtMs, gpus: await quick() };
      asked(true);
      // Well again after a fault of the driver: nobody should wait for the next round.
      if (!measurable) probing.ask();
      measurable = true;
      return measurement;
    } catch (error) {
      asked(false);
      gpus.measured(null);
      // A full probe tells what is wrong; once is enough until it is well again.
      if (measurable) probing.ask();
      measurable = false;
      throw error;
    }
  }
  const measuring: Measuring = startMeasuring(
    measure,
    (measurement) => {
      // A GPU that vanished or came back: its health is looked at now, not at the next round.
      if (gpus.measured(measurement.gpus).changed) probing.ask();
      parts.onMeasured(measurement);
      changed();
    },
    log,
  );

  return {
    measure: measuring.ask,
    changed,
    publishWith(given) {
      publisher?.stop();
      publisher = given;
      changed();
    },
    listed(resources) {
      if (gpus.listed(resources).unsettled) probing.ask();
      changed();
    },
    product(uuid) {
      const gpu = gpus.known().find((known) => known.uuid === uuid);
      return gpu ? productName(gpu.name) : null;
    },
    showMetrics() {
      const view = gpus.view();
      if (view) metrics.show({ ...view, model: parts.model });
    },
    unpublished() {
      if (!gpus.view()) return 'the GPUs have not been looked at yet';
      if (!publisher || !gpus.desired()) return 'the API server has not been reached yet';
      return publisher.settled() ? null : 'the GPU resources are not written yet';
    },
    stop() {
      stopped = true;
      clearTimeout(publishTimer);
      probing.stop();
      kernelLog.stop();
      measuring.stop();
      publisher?.stop();
    },
  };
}
