/**
 * An image with the real vLLM for nodes without GPUs. vLLM and torch are 6 GB, so they are not in it: as the real NVIDIA runtime
 * brings the driver's libraries into a container, the simulated one brings them in from the node (hack/gpu/README.md, `libraries`).
 * In it are Python, the system libraries that those packages name, and a python3 under which an engine's memory counts as the GPU's.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { type Image, makeImage, makeLayer, writeInto } from './archive.ts';
import { type ImageSources, pythonBase, searchPath } from './images.ts';
import { copyInto, librariesOf } from './system-files.ts';

export const vllmImageName = 'localhost/greenthread-engine-cpu:dev';
/** Where the simulated runtime puts the packages. */
const packagesInside = '/usr/local/gpu-sim';
/** Raise it when the recipe of the layer changes. */
const recipe = 1;

/** First on PATH. The launcher itself and vLLM's own children run under /usr/bin/python3. */
const python3 = `#!/bin/sh
# The memory of an engine's workers counts as that of its first GPU (hack/gpu: gpu-sim-hold).
if [ "$1 $2" = "-m vllm.entrypoints.openai.api_server" ]; then
  exec /usr/local/bin/gpu-sim-hold --anonymous "\${GREENTHREAD_GPU_UUIDS%%,*}" /usr/bin/python3 "$@"
fi
exec /usr/bin/python3 "$@"
`;

/** Shared objects of the packages; what they need from the system must be in the image. */
function sharedObjects(packages: string): string[] {
  return readdirSync(packages, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.so(\.\d+)*$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/**
 * @param packages site-packages of the installed vLLM, on this machine
 * @param gpuPrograms folder of hack/gpu's programs
 */
export async function vllmImage(
  sources: ImageSources,
  packages: string,
  gpuPrograms: string,
): Promise<Image> {
  const hold = readFileSync(join(gpuPrograms, 'gpu-sim-hold'));
  const key = createHash('sha256').update(`${recipe} ${packages} ${python3}`).update(hold).digest('hex');
  const layer = await makeLayer(sources.store, `vllm-${key.slice(0, 16)}`, async (root) => {
    await writeInto(root, '/usr/local/bin/python3', python3, 0o755);
    await writeInto(root, '/usr/local/bin/gpu-sim-hold', hold, 0o755);
    // vLLM reads the machine's cores with it.
    const { stdout: lscpu } = await execa('which', ['lscpu']);
    await copyInto(root, lscpu, '/usr/bin/lscpu', 0o755);
    const needed = await librariesOf([lscpu, ...sharedObjects(packages)]);
    for (const library of needed.filter((file) => !file.startsWith(packages))) await copyInto(root, library);
  });
  const env = {
    PATH: searchPath,
    PYTHONPATH: packagesInside,
    PYTHONUNBUFFERED: '1',
    // In GB, the smallest that vLLM takes.
    VLLM_CPU_KVCACHE_SPACE: '1',
    // Else each engine binds itself to the first core.
    VLLM_CPU_OMP_THREADS_BIND: 'nobind',
    OMP_NUM_THREADS: '1',
  };
  return makeImage(sources.store, { name: vllmImageName, env, workingDir: '/tmp' }, [
    await pythonBase(sources),
    layer,
  ]);
}
