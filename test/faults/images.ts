/** The images of the real engines, whenever one looks: under its name an image has all its hashes. The simulated engine writes none. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const script = fileURLToPath(new URL('check_images.py', import.meta.url));
const plugin = fileURLToPath(new URL('../../vllm', import.meta.url));
/** Of all images of a life, some GB, on busy cores, ms. */
const readMsMax = 300_000;

export interface ImagesRead {
  /** Paths below the pool. */
  whole: string[];
  damaged: string[];
}

/** @param python of a vLLM, which has blake3. @throws Error when they cannot be read in time */
export async function readImages(python: string, poolDir: string): Promise<ImagesRead> {
  const { stdout } = await promisify(execFile)(python, [script, poolDir], {
    env: { PATH: process.env.PATH, PYTHONPATH: plugin, PYTHONDONTWRITEBYTECODE: '1' },
    timeout: readMsMax,
    killSignal: 'SIGKILL',
  });
  return JSON.parse(stdout) as ImagesRead;
}
