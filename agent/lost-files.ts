/** Looks for the files that pods load, again and again, one after the other: a disk that hangs keeps one thread, not all. */
import type { PodObject } from './decide/resource-facts.ts';
import { afterLook, filesOf, type Lost, lookAgainMs } from './decide/staging/lost-files.ts';
import { lookAtFiles } from './observe/pool/model-files.ts';

export interface LostFiles {
  /** What the API server lists, whole. */
  listed(objects: readonly PodObject[]): void;
  /** Resolves when all has been looked at whose turn it is. */
  look(): Promise<void>;
  /** What was read of these files is not what was published. */
  damaged(path: string, message: string): Promise<void>;
  /** They were read whole, and all was right. */
  sound(path: string): void;
  has(path: string): boolean;
  /** The first of a pod's folders that is lost. */
  of(podUid: string): Lost | null;
}

/** @param changed with the folder that is lost, or is not any more */
export function createLostFiles(parts: {
  modelsDir: string;
  nowMs(): number;
  changed(path: string): void;
}): LostFiles {
  const { modelsDir, nowMs, changed } = parts;
  const lost = new Map<string, Lost>();
  const lookedAtMs = new Map<string, number>();
  let paths = new Map<string, string[]>();
  let looking: Promise<void> | null = null;

  const set = (path: string, next: Lost | undefined): void => {
    if (lost.get(path) === next) return;
    if (next) lost.set(path, next);
    else lost.delete(path);
    changed(path);
  };
  const isWanted = (path: string): boolean => [...paths.values()].some((of) => of.includes(path));

  async function lookAt(path: string): Promise<void> {
    const look = await lookAtFiles(modelsDir, path);
    lookedAtMs.set(path, nowMs());
    if (look !== null && isWanted(path)) set(path, afterLook(lost.get(path), { path, look, nowMs: nowMs() }));
  }

  async function lookAtAll(): Promise<void> {
    for (const path of new Set([...paths.values()].flat())) {
      const at = lookedAtMs.get(path);
      if (at === undefined || lost.has(path) || nowMs() - at >= lookAgainMs) await lookAt(path);
    }
  }

  return {
    listed(objects) {
      paths = new Map(
        objects.flatMap((object) => filesOf(object) ?? []).map((each) => [each.podUid, each.paths]),
      );
      for (const path of lookedAtMs.keys()) {
        if (isWanted(path)) continue;
        lookedAtMs.delete(path);
        lost.delete(path);
      }
    },
    look() {
      looking ??= lookAtAll().finally(() => {
        looking = null;
      });
      return looking;
    },
    async damaged(path, message) {
      const look = await lookAtFiles(modelsDir, path);
      if (look === null || !isWanted(path)) return;
      if (look === 'missing') return set(path, afterLook(lost.get(path), { path, look, nowMs: nowMs() }));
      const { identity } = look;
      const before = lost.get(path);
      if (before?.state === 'Damaged' && before.identity === identity) return;
      set(path, { path, state: 'Damaged', message, sinceMs: nowMs(), identity });
    },
    sound(path) {
      if (lost.get(path)?.state === 'Damaged') set(path, undefined);
    },
    has: (path) => lost.has(path),
    of: (podUid) => paths.get(podUid)?.flatMap((path) => lost.get(path) ?? [])[0] ?? null,
  };
}
