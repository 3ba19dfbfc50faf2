/** gthread_sidecar_*: what this front door measured (docs/front-door.md). */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { State } from '#proto/link.ts';
import { demandOf, type Gate } from './decide/gate.ts';
import { shownState, shownStates } from './decide/status.ts';

const transitionBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320];

/** The status of a request whose client left before an answer began (nginx's number). */
export const clientLeftStatus = 499;

export interface Metrics {
  /** A request ended. */
  answered(status: number): void;
  /** A request began to wait; `joined` one whose wake others had asked for already. */
  held(joined: boolean): void;
  /** The agent told a new state; `before` held until now. */
  told(before: State, after: State, atMs: number, inFlight: number): void;
  barrier(atMs: number): void;
  /** Our families, then the engine's. */
  text(engine: string): Promise<string>;
}

const sleepsAfter = (state: State['state']): boolean =>
  state === 'SLEEPING' || state === 'PENDING' || state === 'WAKING';

function families(registry: Registry) {
  const registers = [registry];
  return {
    requests: new Counter({
      name: 'gthread_sidecar_requests_total',
      help: 'Requests for inference routes, by HTTP status; 499: the client left before an answer began.',
      labelNames: ['status'],
      registers,
    }),
    deduplications: new Counter({
      name: 'gthread_sidecar_wake_deduplications_total',
      help: 'Requests that joined a wake another request had asked for.',
      registers,
    }),
    barrierTimeouts: new Counter({
      name: 'gthread_sidecar_preemption_barrier_timeouts_total',
      help: 'Barriers that ended with requests still in flight, which were frozen.',
      registers,
    }),
    preemptions: new Counter({
      name: 'gthread_sidecar_preemptions_total',
      help: 'Preemptions this model took part in, as the agent said: victim gave way, waiter was made room for.',
      labelNames: ['role'],
      registers,
    }),
    wake: new Histogram({
      name: 'gthread_sidecar_wake_duration_seconds',
      help: 'From the first word of a wake or boot until requests may pass.',
      buckets: transitionBuckets,
      registers,
    }),
    sleep: new Histogram({
      name: 'gthread_sidecar_sleep_duration_seconds',
      help: 'From the barrier until the model sleeps, draining included.',
      buckets: transitionBuckets,
      registers,
    }),
  };
}

const awakeStates: readonly State['state'][] = ['SERVING', 'DEACTIVATING'];

interface Observed {
  gate: Gate;
  gpuUuids: readonly string[];
  /** Milliseconds of the clock that the gate's events carry. */
  now: () => number;
}

function gauges(registry: Registry, { gate, gpuUuids, now }: Observed): void {
  const registers = [registry];
  new Gauge({
    name: 'gthread_sidecar_state',
    help: '1 for the state that holds, else 0.',
    labelNames: ['state'],
    registers,
    collect() {
      const holds = shownState(gate);
      for (const state of shownStates) this.set({ state }, state === holds ? 1 : 0);
    },
  });
  const vram = (of: (bytes: number) => number) =>
    function collect(this: Gauge<'gpu'>): void {
      gpuUuids.forEach((gpu, at) => {
        this.set({ gpu }, of(gate.told.vramBytes?.[at] ?? 0));
      });
    };
  new Gauge({
    name: 'gthread_sidecar_gpu_memory_reserved_bytes',
    help: 'What the model takes of this GPU while awake: reserved until measured; 0 before the agent knows.',
    labelNames: ['gpu'],
    registers,
    collect: vram((bytes) => bytes),
  });
  new Gauge({
    name: 'gthread_sidecar_gpu_memory_serving_bytes',
    help: 'The same while the model may serve or finishes what runs, else 0.',
    labelNames: ['gpu'],
    registers,
    collect: vram((bytes) => (awakeStates.includes(gate.told.state) ? bytes : 0)),
  });
  new Gauge({
    name: 'gthread_sidecar_queue_depth',
    help: 'Requests that wait for the model.',
    registers,
    collect() {
      this.set(demandOf(gate, now()).queued);
    },
  });
  new Gauge({
    name: 'gthread_sidecar_in_flight_requests',
    help: 'Requests sent to the engine whose answer is not complete.',
    registers,
    collect() {
      this.set(gate.inFlight.size);
    },
  });
}

export function createMetrics(observed: Observed): Metrics {
  const registry = new Registry();
  const own = families(registry);
  gauges(registry, observed);
  for (const role of ['victim', 'waiter']) own.preemptions.inc({ role }, 0);
  let wakeSinceMs: number | null = null;
  let barrierSinceMs: number | null = null;
  return {
    answered: (status) => own.requests.inc({ status }),
    held: (joined) => {
      if (joined) own.deduplications.inc();
    },
    barrier: (atMs) => {
      barrierSinceMs ??= atMs;
    },
    told: (before, after, atMs, inFlight) => {
      if (after.state === 'WAKING') wakeSinceMs ??= atMs;
      else {
        if (after.state === 'SERVING' && wakeSinceMs !== null) own.wake.observe((atMs - wakeSinceMs) / 1000);
        wakeSinceMs = null;
      }
      if (before.state === 'DEACTIVATING' && sleepsAfter(after.state)) {
        if (barrierSinceMs !== null) own.sleep.observe((atMs - barrierSinceMs) / 1000);
        if (inFlight > 0) own.barrierTimeouts.inc();
        if (after.gaveWay) own.preemptions.inc({ role: 'victim' });
      }
      if (after.state === 'WAKING' && before.state !== 'WAKING' && after.tookRoom)
        own.preemptions.inc({ role: 'waiter' });
      if (after.state !== 'DEACTIVATING') barrierSinceMs = null;
    },
    text: async (engine) => {
      const ours = await registry.metrics();
      return engine === '' ? ours : `${ours}${ours.endsWith('\n') ? '' : '\n'}${engine}\n`;
    },
  };
}
