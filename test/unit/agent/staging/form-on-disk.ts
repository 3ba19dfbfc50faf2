/** A published gthread form of random bytes, and a pool beside it. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { xxh64 } from '@node-rs/xxhash';
import { afterEach } from 'vitest';
import {
  chunkHashBytes,
  encodeManifest,
  largePageBytes,
  type WeightsManifest,
  weightsFiles,
  weightsVersion,
} from '../../../../proto/weights.ts';
import { commit, weights } from './facts.ts';

const made: string[] = [];
afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true, force: true });
});

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'gt-staging-'));
  made.push(folder);
  return folder;
}

export interface FormOnDisk {
  folder: string;
  manifest: WeightsManifest;
  bytes: Buffer;
}

/** `pages` of 2 MiB, hashed in chunks of one page: the same code as for 8 MiB, and quick. */
export function writeForm(modelsDir: string, n: number, pages: number): FormOnDisk {
  const bytes = randomBytes(pages * largePageBytes);
  const chunkHashes = Buffer.alloc(pages * chunkHashBytes);
  for (let page = 0; page < pages; page++)
    chunkHashes.writeBigUInt64LE(
      xxh64(bytes.subarray(page * largePageBytes, (page + 1) * largePageBytes)),
      page * chunkHashBytes,
    );
  const manifest: WeightsManifest = {
    version: weightsVersion,
    modelName: `org/m${n}`,
    commit: commit(n),
    bytes: bytes.length,
    chunkBytes: largePageBytes,
    chunkHashes,
    tensors: [{ name: 't', dtype: 'U8', shape: [bytes.length], offset: 0, bytes: bytes.length }],
    sources: [],
  };
  const folder = join(modelsDir, weights(n));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, weightsFiles.weights), bytes);
  writeFileSync(join(folder, weightsFiles.manifest), encodeManifest(manifest));
  return { folder, manifest, bytes };
}
