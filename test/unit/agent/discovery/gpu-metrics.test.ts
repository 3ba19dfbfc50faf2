import { Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import type { GpuMeasurement, Probe } from '../../../../agent/decide/facts.ts';
import { desiredGpus } from '../../../../agent/decide/gpu-resources.ts';
import { judge } from '../../../../agent/decide/health.ts';
import { createGpuMetrics } from '../../../../agent/metrics/gpus.ts';
import { identityOnly, parseQuery } from '../../../../agent/observe/nvidia-smi/xml.ts';
import { fixture } from './fake-nvidia-smi.ts';

const t4 = parseQuery(fixture('tesla-t4.xml')).gpus[0]!;
const lost = identityOnly({ uuid: 'GPU-lost', index: 1, name: 'NVIDIA A40', busId: '00000000:0B:00.0' });
const probe: Probe = {
  startedAtMs: 0,
  gpus: [{ ...t4, uuid: 'GPU-t4' }, lost],
  faults: [{ reason: 'GpuLost', message: 'reboot', busId: '0000:0B:00.0' }],
};
const measured: GpuMeasurement[] = [
  {
    uuid: 'GPU-t4',
    totalBytes: 1000,
    usedBytes: 400,
    freeBytes: 600,
    byPod: { 'uid-1': 100, 'uid-2': 50, 'uid-gone': 7 },
    foreignBytes: 20,
    utilizationRatio: 0.5,
  },
];
const desired = desiredGpus({
  nodeName: 'n1',
  probe,
  health: judge({}, probe).memory,
  measured,
  occupants: {},
  existing: [],
});
const model = (podUid: string) => (podUid === 'uid-gone' ? null : { namespace: 'team-a', model: 'llama' });

/** Series without HELP and TYPE, and without the histogram's buckets. */
const series = async (registry: Registry) =>
  (await registry.metrics()).split('\n').filter((line) => line !== '' && !/^#|_bucket/.test(line));

describe('the metrics of GPUs', () => {
  it('are exactly these: nothing unknown, no pids, one health of four', async () => {
    const registry = new Registry();
    const metrics = createGpuMetrics(registry);
    metrics.show({ desired, probe, measured, model, xids: [{ uuid: 'GPU-t4', xid: 31, count: 2 }] });
    metrics.asked('full', { durationMs: 400, good: false, unixMs: 1_000 });
    metrics.asked('quick', { durationMs: 50, good: true, unixMs: 1_700_000_000_000 });
    expect(await series(registry)).toMatchInlineSnapshot(`
      [
        "gthread_agent_gpu_info{uuid="GPU-t4",gpu="gpu-n1-0",node="n1",index="0",product="Tesla-T4",driver="515.105.01",pci_bus_id="00000000:00:1E.0"} 1",
        "gthread_agent_gpu_info{uuid="GPU-lost",gpu="gpu-n1-1",node="n1",index="1",product="NVIDIA-A40",driver="",pci_bus_id="00000000:0B:00.0"} 1",
        "gthread_agent_gpu_memory_total_bytes{uuid="GPU-t4"} 1000",
        "gthread_agent_gpu_memory_used_bytes{uuid="GPU-t4"} 400",
        "gthread_agent_gpu_memory_free_bytes{uuid="GPU-t4"} 600",
        "gthread_agent_gpu_utilization_ratio{uuid="GPU-t4"} 0.5",
        "gthread_agent_gpu_temperature_celsius{uuid="GPU-t4"} 40",
        "gthread_agent_gpu_power_watts{uuid="GPU-t4"} 26.78",
        "gthread_agent_gpu_health{uuid="GPU-t4",state="Healthy"} 1",
        "gthread_agent_gpu_health{uuid="GPU-t4",state="Degraded"} 0",
        "gthread_agent_gpu_health{uuid="GPU-t4",state="Unhealthy"} 0",
        "gthread_agent_gpu_health{uuid="GPU-t4",state="Unknown"} 0",
        "gthread_agent_gpu_health{uuid="GPU-lost",state="Healthy"} 0",
        "gthread_agent_gpu_health{uuid="GPU-lost",state="Degraded"} 0",
        "gthread_agent_gpu_health{uuid="GPU-lost",state="Unhealthy"} 1",
        "gthread_agent_gpu_health{uuid="GPU-lost",state="Unknown"} 0",
        "gthread_agent_gpu_process_memory_bytes{uuid="GPU-t4",namespace="team-a",model="llama",foreign="false"} 150",
        "gthread_agent_gpu_process_memory_bytes{uuid="GPU-t4",model="",namespace="",foreign="true"} 27",
        "gthread_agent_gpu_probe_duration_seconds_sum{query="full"} 0.4",
        "gthread_agent_gpu_probe_duration_seconds_count{query="full"} 1",
        "gthread_agent_gpu_probe_duration_seconds_sum{query="quick"} 0.05",
        "gthread_agent_gpu_probe_duration_seconds_count{query="quick"} 1",
        "gthread_agent_gpu_probe_last_success_timestamp_seconds{query="quick"} 1700000000",
        "gthread_agent_gpu_xid_errors_total{uuid="GPU-t4",xid="31"} 2",
      ]
    `);
  });

  it('forget what is not known any more', async () => {
    const registry = new Registry();
    const metrics = createGpuMetrics(registry);
    metrics.show({ desired, probe, measured, model, xids: [{ uuid: 'GPU-t4', xid: 31, count: 2 }] });
    metrics.show({ desired: [], probe: { ...probe, gpus: [] }, measured: null, model, xids: [] });
    expect(await series(registry)).toEqual([]);
  });
});
