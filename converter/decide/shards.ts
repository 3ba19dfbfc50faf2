/** Which of the fetched files hold the weights, and which of their tensors count, as vLLM's own loader picks them. */
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

/** As vLLM sorts them (weight_utils.py, `_natural_sort_key`): 1. numbers in the name as numbers; 2. the path. */
function byNumbers(a: SourceFile, b: SourceFile): number {
  const [left, right] = [a.path.split(/(\d+)/), b.path.split(/(\d+)/)];
  for (let at = 0; at < Math.min(left.length, right.length); at++) {
    const [one, other] = [left[at]!, right[at]!];
    if (at % 2 === 1 && Number(one) !== Number(other)) return Number(one) - Number(other);
    if (at % 2 === 0 && one !== other) return one < other ? -1 : 1;
  }
  return left.length - right.length || (a.path < b.path ? -1 : 1);
}

/**
 * The files to convert: what the index names, else every safetensors file of the top folder. Of the index vLLM takes no
 * more than this either (weight_utils.py, `filter_duplicate_safetensors_files`).
 * @param files all that was fetched
 * @returns in the order in which vLLM loads them
 * @throws FetchFailure NotConvertible when there are none, BadWeights when one of the index is not there
 */
export function chooseShards(files: readonly SourceFile[], index: WeightMap | null): SourceFile[] {
  const found = files.filter(({ path }) => /^[^/]+\.safetensors$/.test(path)).sort(byNumbers);
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

/** Tensors of the files read so far, by their names. */
export interface Gathered {
  tensors: Map<string, SourceTensor>;
  /** Names that were in an earlier file too. */
  doubled: Set<string>;
}

/**
 * Adds those of the next file. One that an earlier file has too takes its place: vLLM loads both, one after the other.
 * @throws FetchFailure BadWeights for two that cannot both be loaded
 */
export function gather({ tensors, doubled }: Gathered, more: readonly SourceTensor[]): void {
  for (const tensor of more) {
    const before = tensors.get(tensor.name);
    if (before) {
      if (before.dtype !== tensor.dtype || String(before.shape) !== String(tensor.shape)) {
        const name = JSON.stringify(tensor.name);
        throw brokenFile(tensor.path, `tensor ${name} is in ${before.path} too, with another shape or dtype`);
      }
      doubled.add(tensor.name);
    }
    tensors.set(tensor.name, tensor);
  }
}

/** What does not agree and is converted all the same, as vLLM would load it; null: all agrees. */
export function disagreement({ tensors, doubled }: Gathered, index: WeightMap | null): string | null {
  const texts: string[] = [];
  const first = (names: Iterable<string>): string => JSON.stringify([...names][0]!.slice(0, 100));
  const stray = [...(index ?? [])].flatMap(([name, path]) =>
    tensors.get(name)?.path === path || doubled.has(name) ? [] : [name],
  );
  if (stray.length > 0)
    texts.push(
      `${indexName} names ${stray.length} tensors that its files have not, or elsewhere, first ${first(stray)}: as vLLM does, every tensor of its files was taken`,
    );
  if (doubled.size > 0)
    texts.push(
      `${doubled.size} tensors are in two files, first ${first(doubled)}: as vLLM does, the last file's was taken`,
    );
  return texts.length > 0 ? texts.join('; ') : null;
}
