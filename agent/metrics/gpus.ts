/**
 * The GPUs as Prometheus sees them. Labels: `uuid` alone, everything else by a join on `gthread_agent_gpu_info`; no pids. What
 * is unknown has no series, never a 0.
 */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { HealthState } from '#api/gpu.ts';
import type { GpuMeasurement, GpuReading, Probe } from '../decide/facts.ts';
import type { DesiredGpu } from '../decide/gpu-resources.ts';

/** Every one is named, so that a state the API adds cannot be forgotten here. */
const healthStates = Object.keys({
  Healthy: 0,
  Degraded: 0,
  Unhealthy: 0,
  Unknown: 0,
} satisfies Record<HealthState, number>);

export interface GpuMetricsView {
  desired: readonly DesiredGpu[];
  /** The last full probe. */
  probe: Probe;
  /** The last quick measurement; null when it failed. */
  measured: readonly GpuMeasurement[] | null;
  /** Codes in the kernel log since the machine started. */
  xids: readonly { uuid: string; xid: number; count: number }[];
  /** Whose a pod is; null for one that is not known any more. */
  model(podUid: string): { namespace: string; model: string } | null;
}

export interface GpuMetrics {
  /** Shows what is known now in place of what was. */
  show(view: GpuMetricsView): void;
  /**
   * One call of nvidia-smi, for its duration and the time of the last good one.
   * @param query `full`: the probe that health is judged by; `quick`: the measurement of memory
   * @param result.unixMs wall clock, ms
   */
  asked(query: 'full' | 'quick', result: { durationMs: number; good: boolean; unixMs: number }): void;
}

/** From a warm CSV query to the deadline, seconds. */
const durationBuckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20];

export function createGpuMetrics(registry: Registry): GpuMetrics {
  const gauge = <T extends string>(name: string, help: string, labelNames: readonly T[]) =>
    new Gauge({
      name: `gthread_agent_gpu_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [registry],
    });

  const info = gauge('info', 'A GPU of this node; always 1.', [
    'uuid',
    'gpu',
    'node',
    'index',
    'product',
    'driver',
    'pci_bus_id',
  ]);
  const byUuid = {
    totalBytes: gauge('memory_total_bytes', 'Memory of the GPU.', ['uuid']),
    usedBytes: gauge('memory_used_bytes', 'Memory in use, as the driver says.', ['uuid']),
    freeBytes: gauge('memory_free_bytes', 'Memory that is free, as the driver says.', ['uuid']),
    utilizationRatio: gauge('utilization_ratio', 'Share of the last sample in which a kernel ran, 0 to 1.', [
      'uuid',
    ]),
    temperatureCelsius: gauge('temperature_celsius', 'Temperature of the GPU.', ['uuid']),
    powerWatts: gauge('power_watts', 'Power that the GPU draws.', ['uuid']),
  };
  const health = gauge('health', 'Health of the GPU: 1 for the state it is in, 0 for the others.', [
    'uuid',
    'state',
  ]);
  const processes = gauge(
    'process_memory_bytes',
    'Memory of processes, summed by model; foreign: of all that belong to no model.',
    ['uuid', 'model', 'namespace', 'foreign'],
  );
  const duration = new Histogram({
    name: 'gthread_agent_gpu_probe_duration_seconds',
    help: 'How long nvidia-smi took, by query: full or quick.',
    labelNames: ['query'],
    buckets: durationBuckets,
    registers: [registry],
  });
  const lastSuccess = gauge(
    'probe_last_success_timestamp_seconds',
    'When nvidia-smi last told all that was asked, by query: full or quick.',
    ['query'],
  );
  const xidErrors = new Counter({
    name: 'gthread_agent_gpu_xid_errors_total',
    help: 'XIDs that the GPU reported in the kernel log since the node started, as far as that reaches back.',
    labelNames: ['uuid', 'xid'],
    registers: [registry],
  });
  const shown = [xidErrors, info, health, processes, ...Object.values(byUuid)];

  function showProcesses(gpu: GpuMeasurement, model: GpuMetricsView['model']): void {
    let foreignBytes = gpu.foreignBytes;
    for (const [podUid, bytes] of Object.entries(gpu.byPod)) {
      const owner = model(podUid);
      // Replicas of one model on one GPU share a series.
      if (owner) processes.inc({ uuid: gpu.uuid, ...owner, foreign: 'false' }, bytes);
      else foreignBytes += bytes;
    }
    processes.set({ uuid: gpu.uuid, model: '', namespace: '', foreign: 'true' }, foreignBytes);
  }

  function showGpu(
    { name, spec, status }: DesiredGpu,
    reading: GpuReading | undefined,
    quick: GpuMeasurement | undefined,
  ): void {
    const { uuid, nodeName: node, index } = spec;
    const { product = '', driver = '' } = status;
    info.set({ uuid, gpu: name, node, index, product, driver, pci_bus_id: reading?.busId ?? '' }, 1);
    for (const state of healthStates) health.set({ uuid, state }, status.health === state ? 1 : 0);
    for (const [field, metric] of Object.entries(byUuid)) {
      const key = field as keyof typeof byUuid;
      const value = quick?.[key] ?? reading?.[key] ?? null;
      if (value !== null) metric.set({ uuid }, value);
    }
  }

  return {
    show({ desired, probe, measured, xids, model }) {
      for (const metric of shown) metric.reset();
      for (const gpu of desired) {
        const same = ({ uuid }: { uuid: string }) => uuid === gpu.spec.uuid;
        const quick = measured?.find(same);
        showGpu(gpu, probe.gpus.find(same), quick);
        if (quick) showProcesses(quick, model);
      }
      for (const { uuid, xid, count } of xids) xidErrors.inc({ uuid, xid }, count);
    },
    asked(query, { durationMs, good, unixMs }) {
      duration.observe({ query }, durationMs / 1_000);
      if (good) lastSuccess.set({ query }, unixMs / 1_000);
    },
  };
}
