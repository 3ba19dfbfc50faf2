/** A model's folder in the gthread form, made with the converter's own parts, once. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  encodeManifest,
  type WeightsManifest,
  weightsChunkBytes,
  weightsFiles,
  weightsVersion,
} from '#proto/weights.ts';
import { writeForm } from '../../../converter/act/write-form.ts';
import { fingerprintOf } from '../../../converter/decide/journal.ts';
import { layOut } from '../../../converter/decide/layout.ts';
import { readCheckpoint } from '../../../converter/observe/safetensors.ts';

/** The model has no upstream: its own name and a commit that stands for none. */
export const benchmarkModel = { modelName: 'greenthread/random', commit: '0'.repeat(40) };

export async function shardsOf(model: string): Promise<string[]> {
  return (await readdir(model)).filter((name) => name.endsWith('.safetensors')).sort();
}

/** @returns the form's folder, `<into>/<commit>.gthread-1` */
export async function makeForm(model: string, into: string): Promise<string> {
  const form = join(into, `${benchmarkModel.commit}.gthread-${weightsVersion}`);
  if (existsSync(form)) return form;
  const files = await Promise.all(
    (await shardsOf(model)).map(async (path) => ({
      path,
      bytes: (await stat(join(model, path))).size,
      sha256: '',
    })),
  );
  const { tensors } = await readCheckpoint(model, files);
  const layout = layOut(tensors);
  const folder = `${form}.new`;
  await rm(folder, { recursive: true, force: true });
  await mkdir(dirname(form), { recursive: true });
  const chunkHashes = await writeForm({
    source: model,
    folder,
    journal: `${folder}.journal`,
    layout,
    fingerprint: fingerprintOf(layout, files),
    signal: new AbortController().signal,
    onKept: () => {},
    onWritten: () => {},
  });
  const manifest: WeightsManifest = {
    version: weightsVersion,
    ...benchmarkModel,
    bytes: layout.bytes,
    chunkBytes: weightsChunkBytes,
    chunkHashes,
    tensors: layout.tensors.map(({ tensor: { name, dtype, shape, bytes }, offset }) => ({
      name,
      dtype,
      shape,
      offset,
      bytes,
    })),
    sources: files,
  };
  await writeFile(join(folder, weightsFiles.manifest), encodeManifest(manifest));
  await rm(`${folder}.journal`, { force: true });
  await rename(folder, form);
  return form;
}
