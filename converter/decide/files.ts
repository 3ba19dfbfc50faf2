/** Which of a repository's files an engine needs, and whether their names are safe to write. */
import { FetchFailure } from './failures.ts';

/** One entry of the hub's listing. */
export interface ListedFile {
  path: string;
  size: number;
  /** Git's blob id; of a large file that of its pointer. */
  oid: string | null;
  /** sha256 of a large file, empty where the hub says that it is one and nothing more; null: a small file. */
  lfsOid: string | null;
}

export interface WantedFile {
  path: string;
  bytes: number;
  /** Hex; null for small files, which have `gitSha1`. */
  sha256: string | null;
  gitSha1: string | null;
}

/** Most files of one revision; the largest known repositories have some hundred. */
export const filesMax = 20_000;
const pathBytesMax = 1024;
/** A file name on Linux has at most 255 bytes; partial files get a suffix. */
const segmentBytesMax = 200;
/** Names that begin so are ours: manifest and partial files. */
export const ownPrefix = '.greenthread';

/** Why a path from the hub must not be written; null when it may. */
export function pathRefusal(path: string): string | null {
  if (path === '' || Buffer.byteLength(path) > pathBytesMax) return 'is empty or too long';
  if (path.startsWith('/')) return 'is absolute';
  if (/[\\\p{Cc}]/u.test(path)) return 'has a backslash or a control character';
  for (const segment of path.split('/')) {
    if (segment === '' || segment === '.' || segment === '..') return 'has an empty, . or .. segment';
    if (Buffer.byteLength(segment) > segmentBytesMax) return 'has a name that is too long';
    if (segment.startsWith(ownPrefix) || segment.endsWith(partSuffix)) return 'has a name that is ours';
  }
  return null;
}

export const partSuffix = '.greenthread-part';

const folderOf = (path: string) => path.slice(0, path.lastIndexOf('/') + 1);
/** Formats vLLM does not read, or reads only when told which one. */
const foreignSuffixes = /\.(h5|msgpack|onnx|onnx_data|ot|tflite|mlmodel|mlpackage|gguf|ggml|pb|nemo)$/i;
/** The same weights in the framework's own pickles. */
const pickleSuffixes = /\.(bin|pt|pth|ckpt|pkl)$/i;
/** Folders with the same weights for other programs. */
const foreignFolders = /^(original|onnx|openvino|coreml|metal|tf|flax)\//i;
/** Small heads of bge-m3 that vLLM loads from pickles beside the weights. */
const besideWeights = /(^|\/)(colbert|sparse)_linear\.pt$/;
/** The weights once more, in Mistral's own names; of GGUF, what a model reads beside its one. */
const consolidated = /^consolidated[^/]*\.safetensors(\.index\.json)?$/;
const projector = /(^|\/)mmproj[^/]*$/i;
const pictures = /\.(png|jpe?g|gif|webp|svg|mp4|mov|webm|pdf|ipynb)$/i;

/**
 * Whether an engine does without Mistral's own copy. vLLM prefers that one where it lies there (default_loader.py, config.py,
 * tokenizers/registry.py), so a model would be another with each loadFormat; without it, it takes what all other models have.
 */
function isWholeWithout(listed: readonly ListedFile[]): boolean {
  const has = (name: string): boolean => listed.some(({ path }) => path === name);
  const hasWeights = has('model.safetensors') || has('model.safetensors.index.json');
  return hasWeights && has('config.json') && has('tokenizer.json');
}

/** @throws FetchFailure NotConvertible when there are several, as of a model in many quantisations, of which nobody chose one */
function refuseSeveralGguf(listed: readonly ListedFile[], modelName: string): void {
  const files = listed
    .map(({ path }) => path)
    .filter((path) => /\.gguf$/i.test(path) && !projector.test(path));
  const models = new Set(files.map((path) => path.replace(/-\d+-of-\d+(?=\.gguf$)/i, '')));
  if (models.size <= 1) return;
  const some = [...models].slice(0, 3).join(', ');
  throw new FetchFailure(
    'NotConvertible',
    `${modelName} has ${models.size} GGUF models (${some}${models.size > 3 ? ', …' : ''}), of which an engine reads one: set spec.modelName to a repository with safetensors, or to one with a single GGUF`,
  );
}

/**
 * The files to fetch. Safetensors win over pickles in the same folder, and over other programs' formats everywhere.
 * @throws FetchFailure NoWeights, NotConvertible for many GGUF, or BadListing for names and hashes that cannot be trusted
 */
export function chooseFiles(listed: readonly ListedFile[], modelName: string): WantedFile[] {
  if (listed.length > filesMax) {
    throw new FetchFailure(
      'BadListing',
      `${modelName} lists more than ${filesMax} files: not a model's repository`,
    );
  }
  const weights = listed.filter(({ path }) => !foreignFolders.test(path));
  const safeFolders = new Set(
    weights.filter(({ path }) => path.endsWith('.safetensors')).map(({ path }) => folderOf(path)),
  );
  const hasOwn = safeFolders.size > 0 || weights.some(({ path }) => pickleSuffixes.test(path));
  if (!hasOwn && !listed.some(({ path }) => /\.gguf$/i.test(path))) {
    throw new FetchFailure(
      'NoWeights',
      `${modelName} has no weights that vLLM reads (safetensors, PyTorch or GGUF): check spec.modelName`,
    );
  }
  if (!hasOwn) refuseSeveralGguf(listed, modelName);
  const isWhole = isWholeWithout(listed);
  const needed = listed.filter(({ path }) => {
    if (isWhole && consolidated.test(path)) return false;
    if (/(^|\/)\.git/.test(path) || pictures.test(path)) return false;
    if (hasOwn && (foreignFolders.test(path) || foreignSuffixes.test(path))) return false;
    return !(pickleSuffixes.test(path) && safeFolders.has(folderOf(path)) && !besideWeights.test(path));
  });
  const wanted = needed.map((file) => wantedFile(file, modelName));
  refuseConflicts(wanted, modelName);
  return wanted.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function wantedFile(file: ListedFile, modelName: string): WantedFile {
  const refused = pathRefusal(file.path);
  const name = JSON.stringify(file.path.slice(0, 200));
  if (refused)
    throw new FetchFailure('BadListing', `${modelName} lists a file whose name ${refused}: ${name}`);
  const sha256 = file.lfsOid;
  if (sha256 !== null && !/^[0-9a-f]{64}$/.test(sha256)) {
    throw new FetchFailure(
      'BadListing',
      `${modelName} lists ${name} as a large file without its sha256 (lfs.oid), so nothing could be checked: use a mirror that passes it on (HF_ENDPOINT, controller.huggingFaceEndpoint)`,
    );
  }
  const gitSha1 = sha256 === null && /^[0-9a-f]{40}$/.test(file.oid ?? '') ? file.oid : null;
  if (!Number.isSafeInteger(file.size) || file.size < 0 || (sha256 === null && gitSha1 === null)) {
    throw new FetchFailure('BadListing', `${modelName} lists ${name} without a size or hash to check it by`);
  }
  return { path: file.path, bytes: file.size, sha256, gitSha1 };
}

/** Two files of one name, or a file where another needs a folder. */
function refuseConflicts(wanted: readonly WantedFile[], modelName: string): void {
  const files = new Set(wanted.map(({ path }) => path));
  const folders = new Set(
    wanted.flatMap(({ path }) =>
      path
        .split('/')
        .slice(0, -1)
        .map((_, index, parts) => parts.slice(0, index + 1).join('/')),
    ),
  );
  const clash = wanted.find(({ path }) => folders.has(path));
  if (files.size !== wanted.length || clash) {
    throw new FetchFailure(
      'BadListing',
      `${modelName} lists two files of one name (${clash?.path ?? 'twice the same'})`,
    );
  }
}
