/**
 * OCI images made of plain files, without docker: layers are uncompressed tar archives with nothing in them that changes
 * from build to build (times, owners, order), so that equal content has an equal digest.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';

export interface Blob {
  digest: string;
  bytes: number;
  file: string;
}

export interface ImageSettings {
  /** Name with tag: `localhost/greenthread:dev`. */
  name: string;
  env?: Record<string, string>;
  entrypoint?: string[];
  workingDir?: string;
  /** Numeric, so that kubelet's runAsNonRoot can judge it. */
  user?: string;
}

export interface Image {
  name: string;
  /** Digest of the manifest: what `ctr images ls` shows. */
  digest: string;
  /** OCI layout in a folder. */
  folder: string;
  /** Digests of the layers, bottom first. */
  layers: string[];
}

const architectures: Record<string, string> = { x64: 'amd64', arm64: 'arm64' };
const imageFormat = 'application/vnd.oci.image';
/** Layers that are older than this and not in use are removed, ms. */
const staleMs = 14 * 24 * 3_600_000;

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

async function digestOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest('hex');
}

const tarFlags = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'];

/**
 * One layer, built when its key is new.
 *
 * @param store folder for layers
 * @param key names the content: equal keys, equal layers
 * @param fill writes the layer's files into an empty folder
 */
export async function makeLayer(
  store: string,
  key: string,
  fill: (root: string) => Promise<void>,
): Promise<Blob> {
  const file = join(store, `${key}.tar`);
  const known = `${file}.digest`;
  await mkdir(store, { recursive: true });
  if (existsSync(known) && existsSync(file)) {
    return { digest: await readFile(known, 'utf8'), bytes: (await stat(file)).size, file };
  }
  const root = join(store, `${key}.root`);
  await rm(root, { recursive: true, force: true });
  await mkdir(root);
  try {
    await fill(root);
    await execa('tar', [...tarFlags, '-C', root, '-cf', `${file}.new`, '.']);
    const digest = await digestOf(`${file}.new`);
    await rename(`${file}.new`, file);
    await writeFile(known, digest);
    return { digest, bytes: (await stat(file)).size, file };
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

const descriptor = (type: string, digest: string, size: number) => ({
  mediaType: `${imageFormat}.${type}`,
  digest: `sha256:${digest}`,
  size,
});

/** An image of layers, bottom first, as an OCI layout whose blobs are links to the layers' files. */
export async function makeImage(store: string, settings: ImageSettings, layers: Blob[]): Promise<Image> {
  const platform = { architecture: architectures[process.arch] ?? process.arch, os: 'linux' };
  const config = JSON.stringify({
    ...platform,
    config: {
      Env: Object.entries(settings.env ?? {}).map(([name, value]) => `${name}=${value}`),
      ...(settings.entrypoint && { Entrypoint: settings.entrypoint }),
      ...(settings.user && { User: settings.user }),
      WorkingDir: settings.workingDir ?? '/',
    },
    rootfs: { type: 'layers', diff_ids: layers.map(({ digest }) => `sha256:${digest}`) },
  });
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: `${imageFormat}.manifest.v1+json`,
    config: descriptor('config.v1+json', sha256(config), Buffer.byteLength(config)),
    layers: layers.map(({ digest, bytes }) => descriptor('layer.v1.tar', digest, bytes)),
  });
  const digest = sha256(manifest);
  const folder = join(store, `image-${digest}`);
  const parts = { settings, layers, config, manifest, platform };
  if (!existsSync(folder)) await writeLayout(folder, parts);
  return {
    name: settings.name,
    digest: `sha256:${digest}`,
    folder,
    layers: layers.map((layer) => layer.digest),
  };
}

interface Parts {
  settings: ImageSettings;
  layers: Blob[];
  config: string;
  manifest: string;
  platform: object;
}

async function writeLayout(
  folder: string,
  { settings, layers, config, manifest, platform }: Parts,
): Promise<void> {
  const root = `${folder}.new`;
  const blobs = join(root, 'blobs/sha256');
  await rm(root, { recursive: true, force: true });
  await mkdir(blobs, { recursive: true });
  for (const layer of layers) await link(layer.file, join(blobs, layer.digest));
  await writeFile(join(blobs, sha256(config)), config);
  await writeFile(join(blobs, sha256(manifest)), manifest);
  const entry = {
    ...descriptor('manifest.v1+json', sha256(manifest), Buffer.byteLength(manifest)),
    annotations: {
      'io.containerd.image.name': settings.name,
      'org.opencontainers.image.ref.name': settings.name.slice(settings.name.lastIndexOf(':') + 1),
    },
    platform,
  };
  await writeFile(join(root, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  await writeFile(join(root, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  await rename(root, folder);
}

/**
 * The image as one tar on stdout, for `ctr images import -`.
 *
 * @param has whether whoever reads it has that layer already: then it is left out
 */
export function archive(image: Image, has: (layer: string) => boolean) {
  const leftOut = image.layers.filter(has);
  const blobs = readdirSync(join(image.folder, 'blobs/sha256')).filter((name) => !leftOut.includes(name));
  const paths = ['oci-layout', 'index.json', ...blobs.map((name) => `blobs/sha256/${name}`)];
  return execa('tar', [...tarFlags, '-C', image.folder, '-cf', '-', ...paths], {
    buffer: { stdout: false },
    encoding: 'buffer',
  });
}

/** Removes what earlier versions of the images left in the store: layouts at once, layers when they are old. */
export async function removeStale(store: string, folders: string[]): Promise<void> {
  for (const name of await readdir(store)) {
    const file = join(store, name);
    if (folders.includes(file)) continue;
    const { mtimeMs } = await stat(file);
    if (name.startsWith('image-') || Date.now() - mtimeMs > staleMs)
      await rm(file, { recursive: true, force: true });
  }
}

/** Puts text into a file of a layer, with its folders. */
export async function writeInto(
  root: string,
  path: string,
  text: string | Uint8Array,
  mode = 0o644,
): Promise<void> {
  const file = join(root, path);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, text, { mode });
}
