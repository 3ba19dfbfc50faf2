/**
 * What lies under /app in our image, whoever builds it: the programs, bundled, and the files they read at run time.
 *
 *   node images/programs.ts FOLDER     writes them there
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const repository = fileURLToPath(new URL('..', import.meta.url));
const programs = ['agent', 'controller', 'sidecar', 'converter'];
/** By name in the image. proto/*.ts look for their .proto beside the file they are bundled into. */
const beside = {
  'link.proto': 'proto/link.proto',
  'weights.proto': 'proto/weights.proto',
  'launcher.py': 'vllm/launcher.py',
};
/** Packages written for require() find it under this name in a module. */
const requireBanner =
  "import { createRequire as greenthreadRequire } from 'node:module'; const require = greenthreadRequire(import.meta.url);";

/** Bundles with their shared parts; what a program imports only when it needs it is a file of its own. */
async function bundle(): Promise<Map<string, Uint8Array>> {
  const result = await build({
    entryPoints: programs.map((program) => ({ in: join(repository, program, 'main.ts'), out: program })),
    outdir: '/app',
    absWorkingDir: repository,
    bundle: true,
    splitting: true,
    // All in one folder: link.proto is looked for beside whichever file holds proto/link.ts.
    chunkNames: '[name]-[hash]',
    write: false,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    banner: { js: requireBanner },
    logLevel: 'silent',
  }).catch((error: unknown) => {
    throw new Error(`a program does not bundle: ${error instanceof Error ? error.message : String(error)}`);
  });
  return new Map(result.outputFiles.map(({ path, contents }) => [basename(path), contents]));
}

/** @returns contents by file name. @throws Error naming the program that does not bundle or the file that is missing */
export async function programFiles(): Promise<Map<string, Uint8Array>> {
  const files = await bundle();
  for (const [name, source] of Object.entries(beside)) {
    if (!existsSync(join(repository, source))) throw new Error(`${source} is missing`);
    files.set(name, readFileSync(join(repository, source)));
  }
  files.set('package.json', Buffer.from('{"type":"module"}\n'));
  return files;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = process.argv[2];
  if (!folder) {
    console.error('usage: node images/programs.ts FOLDER');
    process.exit(2);
  }
  await mkdir(folder, { recursive: true });
  for (const [name, content] of await programFiles()) await writeFile(join(folder, name), content);
}
