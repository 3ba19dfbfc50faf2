/** `.greenthread.json` in a published folder: what it holds, and where it came from. */
import type { WantedFile } from './files.ts';

export const manifestName = '.greenthread.json';
export const manifestVersion = 1;

export interface ManifestFile {
  path: string;
  bytes: number;
  sha256: string;
}

export interface Manifest {
  v: number;
  modelName: string;
  /** As asked for. */
  revision: string;
  commit: string;
  /** Of all files. */
  bytes: number;
  /** RFC 3339. */
  fetchedAt: string;
  files: ManifestFile[];
}

/** @param sha256 by path, of the small files, for which the hub gives none */
export function makeManifest(
  source: { modelName: string; revision: string; commit: string; fetchedAtMs: number },
  wanted: readonly WantedFile[],
  sha256: ReadonlyMap<string, string>,
): Manifest {
  return {
    v: manifestVersion,
    modelName: source.modelName,
    revision: source.revision,
    commit: source.commit,
    bytes: wanted.reduce((sum, { bytes }) => sum + bytes, 0),
    fetchedAt: new Date(source.fetchedAtMs).toISOString(),
    files: wanted.map((file) => ({
      path: file.path,
      bytes: file.bytes,
      sha256: file.sha256 ?? sha256.get(file.path) ?? '',
    })),
  };
}

const isFile = (value: unknown): value is ManifestFile => {
  const file = value as Partial<ManifestFile> | null;
  return (
    typeof file?.path === 'string' && Number.isSafeInteger(file.bytes) && typeof file.sha256 === 'string'
  );
};

/** @returns null when the text is no manifest; a later version's unknown fields do no harm */
export function parseManifest(text: string): Manifest | null {
  try {
    const value = JSON.parse(text) as Partial<Manifest> | null;
    const whole =
      typeof value?.v === 'number' &&
      typeof value.commit === 'string' &&
      Number.isSafeInteger(value.bytes) &&
      Array.isArray(value.files) &&
      value.files.every(isFile);
    return whole ? (value as Manifest) : null;
  } catch {
    return null;
  }
}
