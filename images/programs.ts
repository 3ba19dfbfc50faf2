/**
 * What lies under /app in our image, whoever builds it: the programs, bundled, and the files they read at run time.
 *
 *   node images/programs.ts FOLDER     writes them there
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const repository = fileURLToPath(new URL('..', import.meta.url));
/** By name in the image: each is a file that something starts. */
const entries = {
  agent: 'agent/main.ts',
  // A thread of the agent's.
  'staging-reader': 'agent/act/staging/reader.ts',
  controller: 'controller/main.ts',
  sidecar: 'sidecar/main.ts',
  converter: 'converter/main.ts',
};
/** Compiled packages that look for their own files while they run, for the platforms that npm installed. */
const compiledPackages = 'node_modules/@koromix';
/** By name in the image. Bundles look for these beside themselves. */
const beside = { 'link.proto': 'proto/link.proto', 'weights.proto': 'proto/weights.proto' };
/** What model pods copy into the engine's container (paths.launcherInside), as it lies in vllm/. */
const engineFolder = 'engine';
const forEngine = /^(launcher\.py|gthread\/[^/]+\.py|gthread-[^/]+\.dist-info\/[^/]+)$/;
/** Packages written for require() find it under this name in a module. */
const requireBanner =
  "import { createRequire as greenthreadRequire } from 'node:module'; const require = greenthreadRequire(import.meta.url);";

/** Bundles with their shared parts; what a program imports only when it needs it is a file of its own. */
async function bundle(): Promise<Map<string, Uint8Array>> {
  const result = await build({
    entryPoints: Object.entries(entries).map(([out, path]) => ({ in: join(repository, path), out })),
    outdir: '/app',
    absWorkingDir: repository,
    bundle: true,
    splitting: true,
    // All in one folder: link.proto is looked for beside whichever file holds proto/link.ts.
    chunkNames: '[name]-[hash]',
    assetNames: '[name]-[hash]',
    // Compiled parts of packages (xxh64) are copied, and required where they lie.
    loader: { '.node': 'copy' },
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

/** All files in a folder of the repository, by their path in it. */
function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort();
}

/** Beside the bundles, where they look for packages. */
function compiledFiles(): Map<string, Uint8Array> {
  const folder = join(repository, compiledPackages);
  // Our image's C library is glibc.
  const files = filesIn(folder).filter((name) => !/\.md$|musl/.test(name));
  if (!files.some((name) => name.endsWith('.node'))) throw new Error(`${compiledPackages} is empty: npm ci`);
  return new Map(files.map((name) => [join(compiledPackages, name), readFileSync(join(folder, name))]));
}

/** The launcher, the plug-in's package, and the .dist-info by which vLLM finds it. */
function engineFiles(): Map<string, Uint8Array> {
  const folder = join(repository, 'vllm');
  const files = filesIn(folder).filter((name) => forEngine.test(name));
  for (const part of ['launcher.py', 'gthread/', '.dist-info/entry_points.txt'])
    if (!files.some((name) => name.includes(part))) throw new Error(`vllm/ lacks ${part}`);
  return new Map(files.map((name) => [join(engineFolder, name), readFileSync(join(folder, name))]));
}

/** @returns contents by path under /app. @throws Error naming the program that does not bundle or the file that is missing */
export async function programFiles(): Promise<Map<string, Uint8Array>> {
  const files = await bundle();
  for (const [name, source] of Object.entries(beside)) {
    if (!existsSync(join(repository, source))) throw new Error(`${source} is missing`);
    files.set(name, readFileSync(join(repository, source)));
  }
  for (const [name, content] of [...engineFiles(), ...compiledFiles()]) files.set(name, content);
  files.set('package.json', Buffer.from('{"type":"module"}\n'));
  return files;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = process.argv[2];
  if (!folder) {
    console.error('usage: node images/programs.ts FOLDER');
    process.exit(2);
  }
  for (const [name, content] of await programFiles()) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), content);
  }
}
