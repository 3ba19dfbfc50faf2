/**
 * Publishes a local model folder as the fetch would, and converts it with the real converter:
 *
 *   node test/vllm/convert.ts MODEL_FOLDER MODELS_FOLDER      prints the published commit's folder
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { convertFetched } from '../../converter/conversion.ts';
import { makeManifest, manifestName } from '../../converter/decide/manifest.ts';
import { createLog } from '../../platform/log.ts';

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 8 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

const [source, modelsDir] = process.argv.slice(2);
if (!source || !modelsDir) throw new Error('usage: node test/vllm/convert.ts MODEL_FOLDER MODELS_FOLDER');
const modelName = 'greenthread/random';
const names = (await readdir(source)).sort();
const hashes = new Map<string, string>();
const files = [];
for (const path of names) {
  const digest = await sha256(join(source, path));
  hashes.set(path, digest);
  files.push({ path, bytes: (await stat(join(source, path))).size, sha256: digest });
}
const commit = createHash('sha1')
  .update([...hashes.values()].join())
  .digest('hex');
const folder = join(modelsDir, modelName.replace('/', '--'), commit);
await mkdir(folder, { recursive: true });
for (const name of names)
  await link(join(source, name), join(folder, name)).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
const manifest = makeManifest(
  { modelName, revision: 'main', commit, fetchedAtMs: 0 },
  files as never[],
  hashes,
);
await writeFile(join(folder, manifestName), JSON.stringify(manifest));
await convertFetched(
  {
    settings: {
      endpoint: 'http://127.0.0.1',
      token: null,
      modelName,
      revision: 'main',
      modelsDir,
      keepFreePercent: 1,
    },
    log: createLog('converter'),
    signal: new AbortController().signal,
    print: () => {},
  },
  { commit, path: folder, bytes: manifest.bytes, files: files.length, downloaded: 0 },
);
console.log(folder);
