/** Which of the fetched files hold the weights, as vLLM's own loader picks them, and that they agree with their index. */
import { tensorsMax } from '#proto/weights.ts';
import { FetchFailure } from './failures.ts';
import { brokenFile, type SourceFile, type SourceTensor } from './safetensors.ts';

export const indexName = 'model.safetensors.index.json';
/** Longest index that is read, bytes; that of 100,000 tensors has some 10 MB. */
export const indexBytesMax = 100_000_000;

/** Tensor's name → file that has it. */
export type WeightMap = ReadonlyMap<string, string>;

/** @throws FetchFailure BadWeights */
export function parseIndex(text: string): WeightMap {
  let map: unknown;
  try {
    map = (JSON.parse(text) as { weight_map?: unknown } | null)?.weight_map;
  } catch {
    throw brokenFile(indexName, 'it is no JSON');
  }
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    throw brokenFile(indexName, 'it has no weight_map');
  const entries = Object.entries(map);
  const odd = entries.find(([, path]) => typeof path !== 'string');
  if (odd) throw brokenFile(indexName, `tensor ${JSON.stringify(odd[0])} has no file`);
  return new Map(entries as [string, string][]);
}

/** The same weights in Mistral's own names, beside the usual ones. */
const isConsolidated = (path: string): boolean => /^consolidated.*\.safetensors$/.test(path);

/**
 * The files to convert: what the index names, else every safetensors file of the top folder.
 * @param files all that was fetched
 * @throws FetchFailure NotConvertible when there are none, BadWeights when one of the index is not there
 */
export function chooseShards(files: readonly SourceFile[], index: WeightMap | null): SourceFile[] {
  const found = files.filter(({ path }) => /^[^/]+\.safetensors$/.test(path));
  if (index) {
    const named = new Set(index.values());
    const missing = [...named].find((path) => !found.some((file) => file.path === path));
    if (missing !== undefined)
      throw brokenFile(indexName, `it names ${JSON.stringify(missing)}, which is not there`);
    return found.filter(({ path }) => named.has(path));
  }
  const usual = found.filter(({ path }) => !isConsolidated(path));
  const chosen = usual.length > 0 ? usual : found;
  if (chosen.length === 0) {
    throw new FetchFailure(
      'NotConvertible',
      'the model has no safetensors files, which alone can be converted: set spec.loadFormat to auto',
    );
  }
  return chosen;
}

/** @throws FetchFailure when a name is in two files, or the index and the files do not agree */
export function requireAgreement(tensors: readonly SourceTensor[], index: WeightMap | null): void {
  if (tensors.length > tensorsMax) {
    throw new FetchFailure(
      'NotConvertible',
      `the model has more than ${tensorsMax} tensors: set spec.loadFormat to auto`,
    );
  }
  const pathOf = new Map<string, string>();
  for (const { name, path } of tensors) {
    const other = pathOf.get(name);
    if (other !== undefined) throw brokenFile(path, `tensor ${JSON.stringify(name)} is in ${other} too`);
    pathOf.set(name, path);
  }
  for (const [name, path] of index ?? []) {
    if (pathOf.get(name) !== path)
      throw brokenFile(path, `it lacks tensor ${JSON.stringify(name)} of ${indexName}`);
  }
}
