/** The pool of weights in host memory, as Prometheus sees it. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { Eviction, Refusal } from '../decide/staging/words.ts';

/** From a small model on a fast disk to a large one on a slow one, seconds. */
const secondsBuckets = [0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320];

export interface PoolFigures {
  staged: number;
  image: number;
  writing: number;
  promised: number;
  bound: number;
}

export interface PoolMetrics {
  show(figures: PoolFigures): void;
  /** @param seconds of a staging from its first read to its end, `bytes` read meanwhile */
  ended(outcome: 'whole' | 'stopped' | 'failed', seconds: number, bytes: number): void;
  evicted(eviction: Eviction): void;
  refused(reason: Refusal['reason']): void;
  adopted(): void;
}

export function createPoolMetrics(registry: Registry): PoolMetrics {
  const registers = [registry];
  const bytes = new Gauge({
    name: 'gthread_agent_pool_bytes',
    help: 'Host memory in the pool: staged weights, images of engines, images that pods write or are about to (promised), and its bound.',
    labelNames: ['kind'],
    registers,
  });
  const seconds = new Histogram({
    name: 'gthread_agent_staging_duration_seconds',
    help: 'From the first read of a staging to its end.',
    labelNames: ['outcome'],
    buckets: secondsBuckets,
    registers,
  });
  const staged = new Counter({
    name: 'gthread_agent_staged_bytes_total',
    help: 'Bytes read from disk into the pool.',
    registers,
  });
  const evictions = new Counter({
    name: 'gthread_agent_pool_evictions_total',
    help: 'Staged weights and images that left the pool.',
    labelNames: ['kind'],
    registers,
  });
  const evictedBytes = new Counter({
    name: 'gthread_agent_pool_evicted_bytes_total',
    help: 'Their bytes.',
    labelNames: ['kind'],
    registers,
  });
  const refusals = new Counter({
    name: 'gthread_agent_staging_refused_total',
    help: 'Weights that engines read from disk, because they were not staged, and boots that wait for room.',
    labelNames: ['reason'],
    registers,
  });
  const images = new Counter({
    name: 'gthread_agent_pool_images_linked_total',
    help: 'Images that engines wrote and that were linked for all engines of their hash.',
    registers,
  });
  return {
    show(figures) {
      for (const [kind, value] of Object.entries(figures)) bytes.set({ kind }, value);
    },
    ended(outcome, took, read) {
      seconds.observe({ outcome }, took);
      staged.inc(read);
    },
    evicted({ kind, bytes: gone }) {
      evictions.inc({ kind });
      evictedBytes.inc({ kind }, gone);
    },
    refused: (reason) => refusals.inc({ reason }),
    adopted: () => images.inc(),
  };
}
