/** Measurements that outlive their pods: read once for each pod that comes, kept when the arbiter says so. */
import type { Log } from '#platform/log.ts';
import { createMeasurementKeeper } from './act/keep-measurement.ts';
import type { ArbiterEffect, ArbiterEvent, PodFact } from './decide/arbiter/words.ts';
import type { Untimed } from './decide/launcher-line.ts';
import { readKeptMeasurement } from './observe/kept-measurements.ts';

export interface Memory {
  /** Pods or products became known: what was not asked for yet is read. */
  look(pods: Iterable<PodFact>): void;
  keep(effect: Extract<ArbiterEffect, { type: 'remember' }>, pod: PodFact | undefined): void;
  /** Resolves when nothing is left to write. */
  settled(): Promise<void>;
}

/** @param parts.product of a GPU by its UUID; null when not known yet */
export function createMemory(parts: {
  modelsDir: string;
  product(uuid: string): string | null;
  post(event: Untimed<ArbiterEvent>): void;
  log: Log;
}): Memory {
  const { modelsDir, log } = parts;
  const keeper = createMeasurementKeeper(modelsDir, log);
  let asked = new Set<string>();

  /** Engine hash and product, by which measurements are kept; null while one is not known. */
  const keyOf = ({ engineHash, uuids }: PodFact): { engineHash: string; product: string } | null => {
    const product = uuids[0] === undefined ? null : parts.product(uuids[0]);
    return engineHash && product ? { engineHash, product } : null;
  };

  const read = async (podUid: string, engineHash: string, product: string): Promise<void> => {
    const kept = await readKeptMeasurement(modelsDir, engineHash, product, log);
    if (kept) parts.post({ type: 'remembered', podUid, ...kept });
  };

  return {
    look(pods) {
      const still = new Set<string>();
      for (const pod of pods) {
        const key = keyOf(pod);
        if (!key) continue;
        still.add(pod.podUid);
        if (!asked.has(pod.podUid)) void read(pod.podUid, key.engineHash, key.product);
      }
      asked = still;
    },
    keep({ awakeBytes, residueBytes }, pod) {
      const key = pod ? keyOf(pod) : null;
      if (key) keeper.keep(key.engineHash, key.product, { awakeBytes, residueBytes });
    },
    settled: keeper.settled,
  };
}
