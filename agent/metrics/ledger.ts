/** The arbiter's books, the watches and this process, as Prometheus sees them; figures of the moment of the scrape. */
import { Gauge, type Registry } from 'prom-client';

/** One GPU's books, bytes. */
export interface Books {
  uuid: string;
  capacityBytes: number;
  reservedBytes: number;
  residueBytes: number;
  foreignBytes: number;
  roomBytes: number;
}

/**
 * @param read the books as the next decision would see them
 * @param watchAges ms since each watch last heard of the API server
 */
export function registerLedgerMetrics(
  registry: Registry,
  read: () => readonly Books[],
  watchAges: () => Record<string, number | null>,
): void {
  new Gauge({
    name: 'gthread_agent_ledger_bytes',
    help: 'Books of a GPU by kind: capacity, reserved (awake, waking, booting), residue of sleepers, foreign, room.',
    labelNames: ['uuid', 'kind'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { uuid, capacityBytes, reservedBytes, residueBytes, foreignBytes, roomBytes } of read()) {
        this.set({ uuid, kind: 'capacity' }, capacityBytes);
        this.set({ uuid, kind: 'reserved' }, reservedBytes);
        this.set({ uuid, kind: 'residue' }, residueBytes);
        this.set({ uuid, kind: 'foreign' }, foreignBytes);
        this.set({ uuid, kind: 'room' }, roomBytes);
      }
    },
  });
  new Gauge({
    name: 'gthread_agent_watch_age_seconds',
    help: 'Since the API server was last heard on a watch; no series before it first was.',
    labelNames: ['watch'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [watch, ageMs] of Object.entries(watchAges()))
        if (ageMs !== null) this.set({ watch }, ageMs / 1_000);
    },
  });
  new Gauge({
    name: 'process_resident_memory_bytes',
    help: 'Resident memory of the agent.',
    registers: [registry],
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
}
