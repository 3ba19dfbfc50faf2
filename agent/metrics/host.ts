/** The node's host memory, where sleepers' weights lie, as Prometheus sees it. */
import { Gauge, type Registry } from 'prom-client';
import memory from 'systeminformation/lib/memory.js';

/** Reading it takes some milliseconds; scrapes that come sooner see the same figures, ms. */
const ageMsMax = 10_000;

export function registerHostMetrics(registry: Registry): void {
  let readAtMs = Number.NEGATIVE_INFINITY;
  let reading: ReturnType<typeof memory.mem>;
  const read = () => {
    if (performance.now() - readAtMs > ageMsMax) {
      readAtMs = performance.now();
      reading = memory.mem();
    }
    return reading;
  };
  const gauge = (field: 'total' | 'available', help: string) =>
    new Gauge({
      name: `gthread_agent_host_memory_${field}_bytes`,
      help,
      registers: [registry],
      async collect() {
        this.set((await read())[field]);
      },
    });
  gauge('total', 'Host memory of the node.');
  gauge('available', 'Host memory that programs can still take without swapping.');
}
