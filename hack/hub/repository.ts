/** A folder of models as a hub sees it: `<folder>/<org>/<name>/` is one repository, its contents are revision `main`. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Fault } from './faults.ts';

/** Beyond this a file counts as large: it has a sha256 and comes from the CDN, as with Git LFS. */
const smallBytesMax = 10 * 1024 * 1024;
const largeSuffixes = ['.safetensors', '.bin', '.pt', '.pth', '.h5', '.msgpack', '.onnx', '.gguf'];
/** A repository's settings for the stub; never served. */
export const configName = '.hub.json';

export interface RepositoryConfig {
  /** Files need one of these tokens; what they are stays readable, as on the real hub. */
  gated?: boolean;
  /** Nothing is seen without one of these tokens. */
  private?: boolean;
  tokens?: string[];
  /** Known tokens whose owner did not accept the licence. */
  refusedTokens?: string[];
  faults?: Fault[];
}

export interface StoredFile {
  path: string;
  size: number;
  /** Git's blob id, sha1. */
  oid: string;
  /** Only of large files. */
  sha256: string | null;
}

export interface Repository {
  id: string;
  folder: string;
  commit: string;
  files: StoredFile[];
  config: RepositoryConfig;
}

/** Hashes by path, size and time of change: a model of some GiB is read once. */
const hashed = new Map<string, { oid: string; sha256: string }>();

async function hashesOf(
  path: string,
  size: number,
  changedMs: number,
): Promise<{ oid: string; sha256: string }> {
  const key = `${path}\0${size}\0${changedMs}`;
  const known = hashed.get(key);
  if (known) return known;
  const blob = createHash('sha1').update(`blob ${size}\0`);
  const sha256 = createHash('sha256');
  for await (const chunk of createReadStream(path)) {
    blob.update(chunk as Buffer);
    sha256.update(chunk as Buffer);
  }
  const result = { oid: blob.digest('hex'), sha256: sha256.digest('hex') };
  hashed.set(key, result);
  return result;
}

async function storedFile(folder: string, path: string): Promise<StoredFile> {
  const { size, mtimeMs } = await stat(join(folder, path));
  const { oid, sha256 } = await hashesOf(join(folder, path), size, mtimeMs);
  const large = size > smallBytesMax || largeSuffixes.some((suffix) => path.endsWith(suffix));
  return { path, size, oid, sha256: large ? sha256 : null };
}

const readConfig = async (folder: string): Promise<RepositoryConfig> => {
  const text = await readFile(join(folder, configName), 'utf8').catch(() => '{}');
  return JSON.parse(text) as RepositoryConfig;
};

/**
 * @param root folder of all models
 * @param id `org/name`
 * @returns the repository as it is on disk now; null when there is none
 */
export async function readRepository(root: string, id: string): Promise<Repository | null> {
  if (!/^[\w.-]+\/[\w.-]+$/.test(id) || id.split('/').some((part) => /^\.+$/.test(part))) return null;
  const folder = join(root, id);
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => null);
  if (entries === null) return null;
  const paths = entries
    .filter((entry) => entry.isFile() && entry.name !== configName)
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
  const files: StoredFile[] = [];
  for (const path of paths) files.push(await storedFile(folder, path));
  const tree = files.map(({ path, oid }) => `${oid} ${path}\n`).join('');
  const commit = createHash('sha1').update(tree).digest('hex');
  return { id, folder, commit, files, config: await readConfig(folder) };
}

/** Ids of all repositories. */
export async function repositoryIds(root: string): Promise<string[]> {
  const ids: string[] = [];
  for (const org of await readdir(root, { withFileTypes: true })) {
    if (!org.isDirectory()) continue;
    const names = await readdir(join(root, org.name), { withFileTypes: true });
    ids.push(...names.filter((name) => name.isDirectory()).map((name) => `${org.name}/${name.name}`));
  }
  return ids.sort();
}
