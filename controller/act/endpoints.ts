/** What operators and the kubelet ask over HTTP: /metrics, /healthz, /readyz. */
import fastify, { type FastifyInstance } from 'fastify';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Effect } from '../decide/effects.ts';

/** Largest request that is read, bytes: nobody sends any body here. */
const bodyBytesMax = 1024;

export interface ControllerMetrics {
  planned(seconds: number, effects: number): void;
  performed(effect: Effect, result: 'ok' | 'failed'): void;
  registry: Registry;
}

/** @param read asked at each scrape */
export function createMetrics(read: {
  isLeader(): boolean;
  watchAgeSeconds(): Iterable<[string, number]>;
  phases(): Iterable<[string, number]>;
}): ControllerMetrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const plan = new Histogram({
    name: 'gthread_controller_plan_duration_seconds',
    help: 'Time of one plan over the whole snapshot.',
    buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1],
    registers,
  });
  const effects = new Counter({
    name: 'gthread_controller_effects_total',
    help: 'Writes to the API server by type, kind and result.',
    labelNames: ['type', 'kind', 'result'],
    registers,
  });
  new Gauge({
    name: 'gthread_controller_leading',
    help: '1 on the replica that acts.',
    registers,
    collect() {
      this.set(read.isLeader() ? 1 : 0);
    },
  });
  new Gauge({
    name: 'gthread_controller_watch_age_seconds',
    help: 'Time since the API server was last heard on a watch.',
    labelNames: ['kind'],
    registers,
    collect() {
      this.reset();
      for (const [kind, seconds] of read.watchAgeSeconds()) this.set({ kind }, seconds);
    },
  });
  new Gauge({
    name: 'gthread_controller_models',
    help: 'Models by phase.',
    labelNames: ['phase'],
    registers,
    collect() {
      this.reset();
      for (const [phase, count] of read.phases()) this.set({ phase }, count);
    },
  });
  return {
    registry,
    planned: (seconds) => plan.observe(seconds),
    performed: (effect, result) => effects.inc({ type: effect.type, kind: effect.kind, result }),
  };
}

/** @param isSynced answers /readyz: every list is complete */
export async function serveEndpoints(
  registry: Registry,
  isSynced: () => boolean,
  listen: { host: string; port: number },
): Promise<FastifyInstance> {
  const server = fastify({ bodyLimit: bodyBytesMax, logger: false, forceCloseConnections: true });
  server.get('/healthz', async () => 'ok\n');
  server.get('/readyz', async (_request, reply) => {
    if (isSynced()) return 'ok\n';
    return reply.code(503).send('lists are not complete yet\n');
  });
  server.get('/metrics', async (_request, reply) =>
    reply.type(registry.contentType).send(await registry.metrics()),
  );
  await server.listen(listen);
  return server;
}
