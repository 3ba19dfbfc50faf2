/** The images of the development cluster: our programs, the simulated engine, the pause container. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { cp, mkdir, realpath } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { execa } from 'execa';
import { programFiles } from '../../images/programs.ts';
import { type Blob, type Image, makeImage, makeLayer, removeStale, writeInto } from './archive.ts';
import { addSystem, copyInto, librariesOf } from './system-files.ts';

export const imageNames = {
  programs: 'localhost/greenthread:dev',
  engine: 'localhost/greenthread-engine-sim:dev',
} as const;

/** Raise it when the recipe of a base layer changes. */
const recipe = 3;
export const searchPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ImageSources {
  repository: string;
  /** Where layers and archives are kept. */
  store: string;
  pauseName: string;
  say: (text: string) => void;
}

/** A key for content that is known by path, size and time: big files of the system. */
const keyOfFiles = (files: string[]): string =>
  shortHash(
    `${recipe} ${files.map((file) => `${file} ${statSync(file).size} ${statSync(file).mtimeMs}`).join('\n')}`,
  );
const shortHash = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16);

/** Node.js as this command runs it, without its symbols, and a small system. */
async function nodeBase({ store, say }: ImageSources): Promise<Blob> {
  const node = await realpath(process.execPath);
  return makeLayer(store, `node-${keyOfFiles([node, '/bin/busybox'])}`, async (root) => {
    say('image: a base layer with Node.js (about 10 s, once)');
    await addSystem(root);
    await copyInto(root, node, '/usr/local/bin/node', 0o755);
    await execa('strip', [join(root, 'usr/local/bin/node')], { reject: false });
    for (const library of await librariesOf([node])) await copyInto(root, library);
  });
}

/** The tree's files that decide what our programs are. */
function programSources(repository: string): string[] {
  const rooms = ['agent', 'controller', 'sidecar', 'converter', 'api', 'proto', 'platform', 'vllm', 'images'];
  const files = rooms.flatMap((room) =>
    readdirSync(join(repository, room), { recursive: true, withFileTypes: true })
      // A .dist-info has files without an ending: all count but what Python leaves behind.
      .filter((entry) => entry.isFile() && !entry.name.endsWith('.pyc'))
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  return [...files, join(repository, 'package-lock.json')].sort();
}

async function programsImage(sources: ImageSources): Promise<Image> {
  // Bundling takes seconds on a busy machine: only when a source has changed.
  const key = keyOfFiles(programSources(sources.repository));
  const layer = await makeLayer(sources.store, `programs-2-${key}`, async (root) => {
    const compiled: string[] = [];
    for (const [name, content] of await programFiles()) {
      await writeInto(root, join('/app', name), content);
      if (name.endsWith('.node')) compiled.push(join(root, 'app', name));
    }
    // Compiled packages name system libraries that Node.js itself does without.
    for (const library of await librariesOf(compiled)) await copyInto(root, library);
  });
  const base = await nodeBase(sources);
  const env = { PATH: searchPath, NODE_ENV: 'production' };
  return makeImage(
    sources.store,
    { name: imageNames.programs, env, workingDir: '/app', user: '65532:65532' },
    [base, layer],
  );
}

/** Python as this machine has it: interpreter, standard library compiled ahead, no packages. */
export async function pythonBase({ store, say }: ImageSources): Promise<Blob> {
  const { stdout } = await execa('python3', [
    '-I',
    '-c',
    'import sys, sysconfig; print(sys.executable); print(sysconfig.get_path("stdlib"))',
  ]);
  const [executable, library] = stdout.split('\n') as [string, string];
  const python = await realpath(executable);
  return makeLayer(store, `python-${keyOfFiles([python, library, '/bin/busybox'])}`, async (root) => {
    say('image: a base layer with Python (about 10 s, once)');
    await addSystem(root);
    await copyInto(root, python, '/usr/bin/python3', 0o755);
    const unwanted =
      /\/(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|dist-packages|site-packages|__pycache__|config-.*)$/;
    const inside = join(root, library);
    await mkdir(inside, { recursive: true });
    await cp(library, inside, {
      recursive: true,
      dereference: true,
      filter: (source) => !unwanted.test(source),
    });
    const extensions = readdirSync(join(library, 'lib-dynload')).map((name) =>
      join(library, 'lib-dynload', name),
    );
    for (const file of await librariesOf([python, ...extensions])) await copyInto(root, file);
    // Containers may not write: what is compiled here is never compiled again at a start.
    await execa(
      python,
      ['-m', 'compileall', '-q', '--invalidation-mode', 'unchecked-hash', '-s', root, '-j', '2', inside],
      {
        reject: false,
      },
    );
  });
}

async function engineImage(sources: ImageSources): Promise<Image | null> {
  const folder = join(sources.repository, 'hack/engine');
  if (!existsSync(folder)) {
    sources.say('image: hack/engine is not there, no simulated engine');
    return null;
  }
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.py'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  const hash = createHash('sha256');
  for (const file of files) hash.update(`\0${relative(folder, file)}\0`).update(readFileSync(file));
  const base = await pythonBase(sources);
  const layer = await makeLayer(sources.store, `engine-${hash.digest('hex').slice(0, 16)}`, async (root) => {
    for (const file of files)
      await writeInto(root, join('/opt/engine', relative(folder, file)), readFileSync(file));
    const inside = join(root, 'opt/engine');
    await execa('python3', [
      '-m',
      'compileall',
      '-q',
      '--invalidation-mode',
      'unchecked-hash',
      '-s',
      root,
      inside,
    ]);
  });
  const env = { PATH: searchPath, PYTHONPATH: '/opt/engine', PYTHONUNBUFFERED: '1' };
  return makeImage(sources.store, { name: imageNames.engine, env, workingDir: '/opt/engine' }, [base, layer]);
}

/** The container that holds a pod's namespaces: it sleeps. */
async function pauseImage({ store, pauseName }: ImageSources): Promise<Image> {
  const layer = await makeLayer(store, `pause-${keyOfFiles(['/bin/busybox'])}`, (root) =>
    copyInto(root, '/bin/busybox', '/bin/busybox', 0o755),
  );
  return makeImage(
    store,
    { name: pauseName, entrypoint: ['/bin/busybox', 'sleep', '2147483647'], user: '65535:65535' },
    [layer],
  );
}

/** Builds what changed. @throws Error naming the program that does not bundle */
export async function buildImages(sources: ImageSources): Promise<Image[]> {
  const made = await Promise.all([pauseImage(sources), programsImage(sources), engineImage(sources)]);
  const images = made.filter((image) => image !== null);
  await removeStale(
    sources.store,
    images.map(({ folder }) => folder),
  );
  return images;
}
