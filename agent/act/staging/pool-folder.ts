/**
 * Changes to the pool's folders (docs/weights.md). The pool is root's; below pods/<uid> lies what a pod wrote, so nothing
 * there is followed, and what is taken from there is looked at again once it cannot be swapped any more.
 */
import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { weightsFiles } from '#proto/weights.ts';
import {
  type Adoption,
  type Damaged,
  damageNote,
  imageFault,
  imageHeadBytes,
} from '../../decide/staging/images.ts';
import { progressBytes } from './reader-words.ts';

export const poolFolders = { staged: 'staged', images: 'images', pods: 'pods' } as const;
/** Engines of any user read what is staged and the images. */
const sharedMode = 0o755;
/** Only through its own mount does a pod come to its folder. */
const podsMode = 0o711;
/** Any user of the pod may write its image; sticky, as the pod's other directory. */
const podMode = 0o1777;
/** Of finished images: nobody writes to them any more. */
const imageMode = 0o444;
const fileMode = 0o644;
/** A note of damage is an inode's number, bytes. */
const noteBytesMax = 20;

/** @throws Error when the pool cannot be made */
export function makePool(root: string): void {
  for (const [folder, mode] of [
    ['', sharedMode],
    [poolFolders.staged, sharedMode],
    [poolFolders.images, sharedMode],
    [poolFolders.pods, podsMode],
  ] as const) {
    mkdirSync(join(root, folder), { recursive: true });
    chmodSync(join(root, folder), mode);
  }
}

/**
 * Out of sight at once, by one rename; then removed beside the loop: to free a GiB of a tmpfs takes some 0.2 s, for which no
 * wake may wait. What an agent that was killed leaves of it the next one clears.
 * @returns when its memory is free, unless somebody has it open; what is not there is
 * @throws Error at once when it stays
 */
function takeAway(path: string, folder = dirname(path)): Promise<void> {
  const aside = join(folder, `.gone-${randomUUID()}`);
  try {
    renameSync(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return Promise.resolve();
    throw error;
  }
  return rm(aside, { recursive: true, force: true });
}

/** What an agent was making, or removing, when it was killed. @returns, @throws as `takeAway` */
export async function clearLeftovers(root: string, folder: keyof typeof poolFolders): Promise<void> {
  const path = join(root, folder);
  const names = readdirSync(path).filter((name) => name.startsWith('.'));
  await Promise.all(names.map((name) => takeAway(join(path, name))));
}

export const stagedFolder = (root: string, key: string): string => join(root, poolFolders.staged, key);

/** An empty place for weights, whole at once for whoever looks. One that is there already stays. @throws Error */
export function makeStaged(root: string, key: string, bytes: number): void {
  const folder = stagedFolder(root, key);
  const making = stagedFolder(root, `.${key}`);
  rmSync(making, { recursive: true, force: true });
  mkdirSync(making, { mode: sharedMode });
  const file = openSync(join(making, weightsFiles.weights), 'wx', fileMode);
  try {
    ftruncateSync(file, bytes);
  } finally {
    closeSync(file);
  }
  writeFileSync(join(making, 'progress'), Buffer.alloc(progressBytes), { flag: 'wx', mode: fileMode });
  try {
    renameSync(making, folder);
  } catch (error) {
    rmSync(making, { recursive: true, force: true });
    if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

/** @returns, @throws as `takeAway`; so do the next three */
export const removeStaged = (root: string, key: string): Promise<void> => takeAway(stagedFolder(root, key));

/** Of weights in the pool the bytes alone. */
export const removeBytes = (staged: string): Promise<void> =>
  takeAway(join(staged, weightsFiles.weights), dirname(staged));

export const removeImages = (root: string, engineHash: string): Promise<void> =>
  takeAway(join(root, poolFolders.images, engineHash));

export const removePodFolder = (root: string, podUid: string): Promise<void> =>
  takeAway(join(root, poolFolders.pods, podUid));

/** Tells loaders that wait for these weights that they come: by the time of `progress`. What is not there is not missed. */
export function announce(root: string, keys: Iterable<string>): void {
  const now = new Date();
  for (const key of keys) {
    try {
      utimesSync(join(stagedFolder(root, key), 'progress'), now, now);
    } catch {
      // evicted meanwhile
    }
  }
}

/** Their time of use is now; it outlives the agent. What is not there is not missed. */
export function touch(root: string, used: { keys: Iterable<string>; engineHashes: Iterable<string> }): void {
  const now = new Date();
  const paths = [
    ...[...used.keys].map((key) => stagedFolder(root, key)),
    ...[...used.engineHashes].map((hash) => join(root, poolFolders.images, hash)),
  ];
  for (const path of paths) {
    try {
      utimesSync(path, now, now);
    } catch {
      // evicted meanwhile
    }
  }
}

/** The kubelet makes it for root alone. @returns false when it is not there */
export function openPodFolder(root: string, podUid: string): boolean {
  const path = join(root, poolFolders.pods, podUid);
  try {
    const found = lstatSync(path);
    if (!found.isDirectory()) return false;
    if ((found.mode & 0o7777) !== podMode) chmodSync(path, podMode);
    return true;
  } catch {
    return false;
  }
}

/** Root's, and nobody's to write. A file that stays the pod's could be changed under those that read it. */
function takeOver(fd: number): void {
  fchmodSync(fd, imageMode);
  const root = process.getuid?.() ?? 0;
  fchownSync(fd, root, process.getgid?.() ?? 0);
}

/** @returns false when the name is taken */
function linkFirst(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

export type Adopted =
  | { type: 'linked' }
  /** One of its name is there already: that one stays. */
  | { type: 'second' }
  /** It is no image. */
  | { type: 'none'; fault: string };

const none = (fault: string): Adopted => ({ type: 'none', fault });

/**
 * Links a finished image for all engines of its hash; the first one of its name stays.
 * @throws Error when the pool refuses
 */
export function adoptImage(root: string, { podUid, engineHash, name }: Adoption): Adopted {
  const source = join(root, poolFolders.pods, podUid, name);
  const folder = join(root, poolFolders.images, engineHash);
  const making = join(root, poolFolders.images, `.${podUid}-${name}`);
  const fd = openSync(source, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const found = fstatSync(fd);
    if (!found.isFile()) return none('it is no file');
    const head = Buffer.alloc(imageHeadBytes);
    const fault = imageFault(head.subarray(0, readSync(fd, head, 0, imageHeadBytes, 0)), found.size);
    if (fault) return none(fault);
    rmSync(making, { force: true });
    linkSync(source, making);
    const linked = lstatSync(making);
    // The name may have been given to something else between open and link.
    if (linked.ino !== found.ino || linked.dev !== found.dev)
      return none('it was swapped while it was linked');
    takeOver(fd);
    mkdirSync(folder, { mode: sharedMode, recursive: true });
    return { type: linkFirst(making, join(folder, name)) ? 'linked' : 'second' };
  } finally {
    closeSync(fd);
    rmSync(making, { force: true });
  }
}

/** @returns the inode that a pod's note names; null when it is no such note */
function notedInode(path: string): string | null {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    if (!fstatSync(fd).isFile()) return null;
    const text = Buffer.alloc(noteBytesMax + 1);
    const noted = text.toString('latin1', 0, readSync(fd, text, 0, text.length, 0));
    return /^\d{1,20}$/.test(noted) ? noted : null;
  } finally {
    closeSync(fd);
  }
}

/**
 * An image that an engine found damaged goes, from all engines' folder and from the pods' own, where it still is that very file: the
 * next one of its name is linked instead. So does the note.
 * @returns how many names it had, and when its memory is free, unless somebody has it mapped. @throws Error when it stays
 */
export function removeDamaged(
  root: string,
  { podUid, engineHash, name, podUids }: Damaged,
): { names: number; freed: Promise<unknown> } {
  const podFolder = (uid: string) => join(root, poolFolders.pods, uid);
  const note = join(podFolder(podUid), damageNote(name));
  let inode: string | null = null;
  try {
    inode = notedInode(note);
  } catch {
    // A link, or it went: it says nothing.
  }
  const removals = [takeAway(note, join(root, poolFolders.pods))];
  for (const folder of [join(root, poolFolders.images, engineHash), ...podUids.map(podFolder)]) {
    const path = join(folder, name);
    const found = lstatSync(path, { throwIfNoEntry: false });
    if (found && String(found.ino) === inode) removals.push(takeAway(path, dirname(folder)));
  }
  return { names: removals.length - 1, freed: Promise.all(removals) };
}
