/** All that fetches and conversions have left under the models path. What is not ours is not looked at. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { weightsFiles } from '#proto/weights.ts';
import { manifestName } from '../decide/manifest.ts';
import { incomingName, isCommit, modelOnItsWay } from '../decide/places.ts';
import type { Store, StoredFolder } from '../decide/unused.ts';

const namesIn = (path: string): Promise<string[]> => readdir(path).catch(() => []);
const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** Bytes of all files in a folder; what goes away meanwhile counts nothing. */
async function sizeOf(path: string): Promise<number> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries.filter((each) => each.isFile())) {
    bytes += (await stat(join(entry.parentPath, entry.name)).catch(() => null))?.size ?? 0;
  }
  return bytes;
}

async function published(modelsDir: string, folder: string): Promise<StoredFolder[]> {
  const found: StoredFolder[] = [];
  for (const name of await namesIn(join(modelsDir, folder))) {
    const [, commit = '', version] = /^([0-9a-f]{40})(?:\.gthread-(\d+))?$/.exec(name) ?? [];
    const own = version === undefined ? manifestName : weightsFiles.manifest;
    if (!isCommit(commit) || !(await isThere(join(modelsDir, folder, name, own)))) continue;
    found.push({
      folder,
      path: join(folder, name),
      kind: version === undefined ? 'upstream' : 'gthread',
      commit,
      version: version === undefined ? null : Number(version),
      bytes: await sizeOf(join(modelsDir, folder, name)),
    });
  }
  return found;
}

async function refsOf(modelsDir: string, folder: string): Promise<Map<string, string>> {
  const refs = new Map<string, string>();
  for (const name of await namesIn(join(modelsDir, folder, 'refs'))) {
    const text = await readFile(join(modelsDir, folder, 'refs', name), 'utf8').catch(() => '');
    const revision = decodedOrNull(name);
    if (revision !== null && isCommit(text.trim())) refs.set(revision, text.trim());
  }
  return refs;
}

function decodedOrNull(name: string): string | null {
  try {
    return decodeURIComponent(name);
  } catch {
    return null;
  }
}

/** @param staleMs a lock that its holder has not touched for so long is a dead Job's */
export async function readStore(modelsDir: string, staleMs: number, nowMs: number): Promise<Store> {
  const folders: StoredFolder[] = [];
  const refs = new Map<string, Map<string, string>>();
  const busy = new Set<string>();
  for (const folder of await namesIn(modelsDir)) {
    if (folder.startsWith('.')) continue;
    folders.push(...(await published(modelsDir, folder)));
    refs.set(folder, await refsOf(modelsDir, folder));
  }
  for (const name of await namesIn(join(modelsDir, incomingName))) {
    const path = join(incomingName, name);
    const found = await stat(join(modelsDir, path)).catch(() => null);
    const { folder, isLock } = modelOnItsWay(name);
    if (found?.isFile() && isLock && nowMs - found.mtimeMs < staleMs) busy.add(folder);
    if (!found?.isDirectory()) continue;
    const bytes = await sizeOf(join(modelsDir, path));
    folders.push({ folder, path, kind: 'unfinished', commit: null, version: null, bytes });
  }
  return { folders, refs, busy };
}
