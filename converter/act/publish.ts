/** Makes a complete incoming folder the published one: synced to the disk, then one rename. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { WantedFile } from '../decide/files.ts';
import { type Manifest, manifestName } from '../decide/manifest.ts';
import type { Places } from '../decide/places.ts';

export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  await handle.sync().finally(() => handle.close());
}

/** Writes a file so that after a power cut it is whole or not there. */
export async function writeDurably(path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.new`;
  await writeFile(temporary, content, { mode: 0o644, flush: true });
  await rename(temporary, path);
  await syncFolder(dirname(path));
}

/** sha256 of the files for which the hub gives none, by path. */
export async function hashSmallFiles(
  folder: string,
  wanted: readonly WantedFile[],
): Promise<Map<string, string>> {
  const hashes = new Map<string, string>();
  for (const { path } of wanted.filter(({ sha256 }) => sha256 === null)) {
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(join(folder, path))) hash.update(chunk as Buffer);
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

/** A published folder found damaged goes back to where its good files can be used again. */
export async function unpublish(places: Places, commit: string): Promise<void> {
  const incoming = join(places.incoming, commit);
  await mkdir(places.incoming, { recursive: true });
  try {
    await rename(join(places.model, commit), `${incoming}.damaged`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return; // nothing was published
    throw error;
  }
  await rm(incoming, { recursive: true, force: true });
  await rename(`${incoming}.damaged`, incoming);
  await rm(join(incoming, manifestName), { force: true });
}

/** Publishes `<models>/<folder>/<commit>/`; other unfinished commits of this model are removed. */
export async function publish(places: Places, manifest: Manifest): Promise<void> {
  const incoming = join(places.incoming, manifest.commit);
  await removeStrays(incoming, manifest);
  const entries = await readdir(incoming, { recursive: true, withFileTypes: true });
  for (const entry of entries.filter((one) => one.isDirectory())) {
    await syncFolder(join(entry.parentPath, entry.name));
  }
  await writeDurably(join(incoming, manifestName), `${JSON.stringify(manifest, null, 2)}\n`);
  await mkdir(places.model, { recursive: true });
  await rename(incoming, join(places.model, manifest.commit));
  await syncFolder(places.model);
  await syncFolder(dirname(places.model));
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

/** Remembers which commit a revision is, so that a redeploy works without the hub. */
export async function rememberRevision(places: Places, commit: string): Promise<void> {
  await writeDurably(places.ref, `${commit}\n`);
}
