/** Makes a complete incoming folder the published one: synced to the disk, then one rename. A damaged one is repaired in its place. */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { WantedFile } from '../decide/files.ts';
import { type Manifest, manifestName } from '../decide/manifest.ts';
import type { Places } from '../decide/places.ts';

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return false;
      throw error;
    },
  );

export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  await handle.sync().finally(() => handle.close());
}

/**
 * Writes a file so that after a power cut it is whole or not there.
 * @param temporary its name until then, which another writer of the same file may not have
 */
export async function writeDurably(
  path: string,
  content: string | Uint8Array,
  temporary = `${path}.new`,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(temporary, content, { mode: 0o644, flush: true });
  await rename(temporary, path);
  await syncFolder(dirname(path));
}

/** sha256 of the files for which the hub gives none, by path. They lie in the incoming folder, in a repair in the published one too. */
export async function hashSmallFiles(
  places: Places,
  commit: string,
  wanted: readonly WantedFile[],
): Promise<Map<string, string>> {
  const hashes = new Map<string, string>();
  for (const { path } of wanted.filter(({ sha256 }) => sha256 === null)) {
    const hash = createHash('sha256');
    const incoming = join(places.incoming, commit, path);
    const from = (await isThere(incoming)) ? incoming : join(places.model, commit, path);
    for await (const chunk of createReadStream(from)) hash.update(chunk as Buffer);
    hashes.set(path, hash.digest('hex'));
  }
  return hashes;
}

/** Removes what an incoming folder holds beyond the manifest's files: a listing may have changed between two tries. */
async function removeStrays(folder: string, manifest: Manifest): Promise<void> {
  const known = new Set(manifest.files.map(({ path }) => path));
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name).slice(folder.length + 1);
    if (!entry.isDirectory() && !known.has(path)) await rm(join(folder, path));
  }
}

async function syncFolders(folder: string): Promise<void> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  for (const entry of entries.filter((one) => one.isDirectory())) {
    await syncFolder(join(entry.parentPath, entry.name));
  }
}

const manifestText = (manifest: Manifest): string => `${JSON.stringify(manifest, null, 2)}\n`;

/**
 * Puts what was fetched anew into a published folder that had lost it, file by file: pods use the others meanwhile. Killed
 * at any moment, what is in its place stays there and the next run moves the rest.
 */
async function repair(incoming: string, published: string, manifest: Manifest): Promise<void> {
  for (const { path } of manifest.files) {
    if (!(await isThere(join(incoming, path)))) continue;
    await mkdir(dirname(join(published, path)), { recursive: true });
    await rename(join(incoming, path), join(published, path));
  }
  await syncFolders(published);
  await writeDurably(join(published, manifestName), manifestText(manifest));
}

async function publishAnew(incoming: string, places: Places, manifest: Manifest): Promise<void> {
  await removeStrays(incoming, manifest);
  await syncFolders(incoming);
  await writeDurably(join(incoming, manifestName), manifestText(manifest));
  await mkdir(places.model, { recursive: true });
  await rename(incoming, join(places.model, manifest.commit));
  await syncFolder(places.model);
  await syncFolder(dirname(places.model));
}

/** Publishes `<models>/<folder>/<commit>/`, or repairs it; other unfinished commits of this model are removed. */
export async function publish(places: Places, manifest: Manifest): Promise<void> {
  const incoming = join(places.incoming, manifest.commit);
  const published = join(places.model, manifest.commit);
  if (await isThere(published)) await repair(incoming, published, manifest);
  else await publishAnew(incoming, places, manifest);
  await rm(places.incoming, { recursive: true, force: true });
}

/**
 * What a run left that was ended between its rename and its last step. Unfinished work on other commits stays.
 * @param folder of what is on its way @param names in it that are of no use beside what is published
 */
export async function removeRemains(folder: string, names: readonly string[]): Promise<void> {
  for (const name of names) await rm(join(folder, name), { recursive: true, force: true });
  await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTEMPTY') throw error;
  });
}

/** Age of what a killed Job must have left beside the refs, ms: to write one takes a moment. */
const leftoverMs = 60_000;

/**
 * Remembers which commit a revision is, so that a redeploy works without the hub. Several Jobs may at once, since what is
 * there needs no lock; names that begin with a dot are no revision's.
 */
export async function rememberRevision(places: Places, commit: string): Promise<void> {
  const folder = dirname(places.ref);
  await writeDurably(places.ref, `${commit}\n`, join(folder, `.${randomUUID()}`));
  for (const name of (await readdir(folder)).filter((each) => each.startsWith('.'))) {
    const found = await stat(join(folder, name)).catch(() => null);
    if (found && Date.now() - found.mtimeMs > leftoverMs) await rm(join(folder, name), { force: true });
  }
}
