/** The manifest of a form: what is in it, and that every reader takes it. */
import {
  chunkHashBytes,
  manifestBytesMax,
  manifestLength,
  type WeightsManifest,
  weightsChunkBytes,
  weightsVersion,
} from '#proto/weights.ts';
import { FetchFailure } from './failures.ts';
import { chunksOf, type Layout } from './layout.ts';
import type { ManifestFile } from './manifest.ts';

export interface FormParts {
  modelName: string;
  commit: string;
  layout: Layout;
  /** The upstream files that it is made of. */
  sources: readonly ManifestFile[];
}

/** @param chunkHashes zeros where they are not known yet */
export function formManifest(
  { modelName, commit, layout, sources }: FormParts,
  chunkHashes: Uint8Array = new Uint8Array(chunksOf(layout.bytes) * chunkHashBytes),
): WeightsManifest {
  return {
    version: weightsVersion,
    modelName,
    commit,
    bytes: layout.bytes,
    chunkBytes: weightsChunkBytes,
    chunkHashes,
    tensors: layout.tensors.map(({ tensor, offset }) => {
      const { name, dtype, shape, bytes } = tensor;
      return { name, dtype, shape, offset, bytes };
    }),
    sources: sources.map(({ path, bytes, sha256 }) => ({ path, bytes, sha256 })),
  };
}

/** Before the weights are written. @throws FetchFailure NotConvertible for one that would be longer than is read */
export function requireReadable(manifest: WeightsManifest): void {
  const length = manifestLength(manifest);
  if (length > manifestBytesMax) {
    throw new FetchFailure(
      'NotConvertible',
      `names and shapes of the model's ${manifest.tensors.length} tensors take ${length} bytes, more than the ${manifestBytesMax} that are read: set spec.loadFormat to auto`,
    );
  }
}
