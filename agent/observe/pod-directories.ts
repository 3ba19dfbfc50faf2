/**
 * The directories that the kubelet makes for model pods, `<root>/<pod UID>`: told when one appears and when it has gone.
 * The root is ours alone, so a directory's own name cannot be swapped by a pod; what lies inside may be the pod's doing.
 */
import { chmodSync, type FSWatcher, lstatSync, mkdirSync, readdirSync, rmSync, watch } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText, type Log } from '#platform/log.ts';

/** The kernel tells at once; what it does not tell (an overflow, a remount) is found by the next look, ms. */
const rescanMs = 1_000;
/** Directories that are served at once; a node runs at most some hundred pods. */
const directoriesMax = 1_024;
/** A directory's pod has certainly been listed, were it alive, when it has been there for this long, ms. */
const removeAgeMs = 60_000;
/** Others than the agent may enter a pod's directory only through the pod's own mount. */
const rootMode = 0o711;
/** Any user of the pod may make engine.sock; sticky: only root may replace the agent's own sockets. */
const directoryMode = 0o1777;

const podUidPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
export const isPodUid = (name: string): boolean => podUidPattern.test(name);

export interface DirectoryHandler {
  appeared(podUid: string, path: string): void;
  gone(podUid: string): void;
  /** Once a look, for every directory that is there: sockets that somebody removed are made again. */
  looked(podUid: string): void;
}

export interface PodDirectories {
  /** Looks at every directory now, its mode included. */
  look(): void;
  /** Removes directories of pods that ended. @param alive UIDs that the API server lists @param busy still connected */
  removeDead(alive: ReadonlySet<string>, busy: (podUid: string) => boolean): void;
  close(): void;
}

interface Known {
  inode: number;
  sinceMs: number;
}

/** UIDs of the directories in the root; null when it cannot be read. */
function podNames(root: string, log: Log): Set<string> | null {
  try {
    const entries = readdirSync(root, { withFileTypes: true });
    return new Set(
      entries.filter((entry) => entry.isDirectory() && isPodUid(entry.name)).map(({ name }) => name),
    );
  } catch (error) {
    log.warn('the pods directory cannot be read', { path: root, error: errorText(error) });
    return null;
  }
}

/** Sockets that an agent had bound and not yet put in place when it was killed. */
function removeLeftovers(root: string): void {
  for (const entry of readdirSync(root, { withFileTypes: true }))
    if (entry.isSocket() && entry.name.startsWith('.')) rmSync(join(root, entry.name), { force: true });
}

/**
 * Looks at the root now, and again on every change and every second. The first look is done when this returns.
 * @param root is made when it is missing
 * @throws Error when the root cannot be made or read
 */
export function watchPodDirectories(root: string, handler: DirectoryHandler, log: Log): PodDirectories {
  mkdirSync(root, { recursive: true });
  // The kubelet may have made it, open to all.
  chmodSync(root, rootMode);
  const known = new Map<string, Known>();
  const removing = new Set<string>();
  const refused = new Set<string>();
  let full = false;

  const take = (podUid: string): void => {
    const path = join(root, podUid);
    const found = lstatSync(path);
    if (!found.isDirectory()) return;
    // Also of one that is known: it may have been made anew under the same inode number.
    if ((found.mode & 0o7777) !== directoryMode) chmodSync(path, directoryMode);
    const before = known.get(podUid);
    if (before?.inode === found.ino) return void handler.looked(podUid);
    if (before) handler.gone(podUid);
    known.set(podUid, { inode: found.ino, sinceMs: performance.now() });
    handler.appeared(podUid, path);
  };

  const takeOrWarn = (podUid: string): void => {
    try {
      take(podUid);
      refused.delete(podUid);
    } catch (error) {
      known.delete(podUid);
      // It is tried again at every look; once is enough to say so.
      if (!refused.has(podUid))
        log.warn('a pod directory cannot be used', { podUid, error: errorText(error) });
      refused.add(podUid);
    }
  };

  const tooMany = (): void => {
    if (!full) log.error('too many pod directories, the rest is not served', { most: directoriesMax });
    full = true;
  };

  /** What is no longer there. */
  const forget = (names: ReadonlySet<string>): void => {
    for (const podUid of refused) if (!names.has(podUid)) refused.delete(podUid);
    for (const podUid of known.keys()) {
      if (names.has(podUid)) continue;
      known.delete(podUid);
      handler.gone(podUid);
    }
  };

  const look = (): void => {
    const names = podNames(root, log);
    if (!names) return;
    forget(names);
    for (const podUid of names) {
      if (removing.has(podUid)) continue;
      if (known.has(podUid) || known.size < directoriesMax) takeOrWarn(podUid);
      else tooMany();
    }
  };

  removeLeftovers(root);
  look();
  let notified: NodeJS.Immediate | undefined;
  let watcher: FSWatcher | undefined;
  try {
    // Many changes come together; one look covers them.
    watcher = watch(root, () => {
      notified ??= setImmediate(() => {
        notified = undefined;
        look();
      });
    });
    watcher.on('error', (error) =>
      log.warn('changes are not told, looking every second', { error: errorText(error) }),
    );
  } catch (error) {
    log.warn('changes are not told, looking every second', { error: errorText(error) });
  }
  const timer = setInterval(look, rescanMs);

  return {
    look,
    removeDead(alive, busy) {
      const now = performance.now();
      for (const [podUid, { sinceMs }] of known) {
        if (alive.has(podUid) || busy(podUid) || now - sinceMs < removeAgeMs) continue;
        known.delete(podUid);
        handler.gone(podUid);
        removing.add(podUid);
        // The pod has ended: nobody is left who could swap a folder for a link meanwhile. Links are not followed.
        rm(join(root, podUid), { recursive: true, force: true })
          .then(() => log.info('removed the directory of a pod that ended', { podUid }))
          .catch((error: unknown) => log.warn('a pod directory stays', { podUid, error: errorText(error) }))
          .finally(() => removing.delete(podUid));
      }
    },
    close() {
      clearInterval(timer);
      if (notified) clearImmediate(notified);
      watcher?.close();
    },
  };
}
