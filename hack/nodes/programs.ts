/**
 * The programs a node runs, built from Go modules and cached outside the tree: Kubernetes, etcd, containerd and helm
 * (hack/nodes/binaries), and the simulated GPU's (hack/gpu).
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { link, mkdir, rename, rm } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { execa } from 'execa';
import { cache, repository } from './places.ts';
import { say } from './progress.ts';

export const kubernetesVersion = 'v1.36.3';

/** Names under which the one big binary is called. */
const programs = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kubelet',
  'kube-proxy',
  'kubectl',
  'helm',
  'containerd',
  'ctr',
];
const flags = ['-trimpath', '-ldflags'];
/** A first build with its downloads on slow cores, ms. */
const buildMsMax = 45 * 60_000;
/** A line of progress this often, ms. */
const progressMs = 15_000;

export interface Programs {
  /** kubectl, helm, kubelet, containerd … */
  cluster: string;
  /** nvidia-smi, nvidia-container-runtime, gpu-sim-…; null while hack/gpu is not there. */
  gpu: string | null;
}

/** A name for what is built from these files: it changes when one of them does. */
function keyOf(folder: string, extra: string): string {
  const hash = createHash('sha256').update(extra);
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('_test.go'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const file of files) hash.update(`\0${relative(folder, file)}\0`).update(readFileSync(file));
  return hash.digest('hex').slice(0, 12);
}

/** Builds into a folder that appears whole or not at all. */
async function cached(name: string, build: (folder: string) => Promise<void>): Promise<string> {
  const folder = join(cache, name);
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.unfinished`;
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { recursive: true });
  await build(unfinished);
  await rename(unfinished, folder);
  return folder;
}

async function goVersion(): Promise<string> {
  const result = await execa('go', ['version'], { reject: false });
  if (result.exitCode !== 0) throw new Error('Go is missing: install Go 1.26 or newer from go.dev/dl');
  return result.stdout;
}

/** Runs go and shows how far it is: `go build -v` names each package as it is compiled. */
async function goBuild(cwd: string, args: string[]): Promise<void> {
  const env = { CGO_ENABLED: '0' };
  const listed = await execa('go', ['list', '-deps', './...'], { cwd, env, timeout: buildMsMax });
  const total = listed.stdout.split('\n').length;
  let compiled = 0;
  const shown = setInterval(() => say(`  compiled ${compiled} of at most ${total} packages`), progressMs);
  try {
    const child = execa('go', ['build', '-v', ...args], {
      cwd,
      env,
      timeout: buildMsMax,
      stdout: 'ignore',
      buffer: { stderr: false },
    });
    let tail: string[] = [];
    for await (const line of child.iterable({ from: 'stderr' })) {
      if (/^[a-z0-9.-]+(\/[^\s:]+)*$/i.test(line)) compiled++;
      else tail = [...tail.slice(-20), line];
    }
    await child.catch(() => {
      throw new Error(`go build failed in ${cwd}:\n${tail.join('\n')}`);
    });
  } finally {
    clearInterval(shown);
  }
}

async function buildCluster(source: string, out: string): Promise<void> {
  say(
    `building etcd, Kubernetes ${kubernetesVersion}, containerd and helm: about 8 minutes on 2 cores, once`,
  );
  await execa('go', ['mod', 'download'], { cwd: source, timeout: buildMsMax });
  say('  modules downloaded');
  const version = 'k8s.io/component-base/version';
  const [, major, minor] = /^v(\d+)\.(\d+)\./.exec(kubernetesVersion)!;
  const stamps = {
    gitVersion: kubernetesVersion,
    gitMajor: major,
    gitMinor: minor,
    gitTreeState: 'clean',
    gitCommit: 'none',
  };
  const stamped = Object.entries(stamps).map(([name, value]) => `-X ${version}.${name}=${value}`);
  await goBuild(source, [
    ...flags,
    `-s -w ${stamped.join(' ')}`,
    '-o',
    join(out, 'cluster'),
    './cmd/cluster',
  ]);
  const shim = 'containerd-shim-runc-v2';
  await goBuild(source, [...flags, '-s -w', '-o', join(out, shim), `./cmd/${shim}`]);
  for (const name of programs) await link(join(out, 'cluster'), join(out, name));
}

/** Builds what is not in the cache. @throws Error with the compiler's last lines */
export async function ensurePrograms(): Promise<Programs> {
  const source = join(repository, 'hack/nodes/binaries');
  const gpuSource = join(repository, 'hack/gpu');
  const clusterName = `cluster-${kubernetesVersion}-${keyOf(source, kubernetesVersion)}`;
  const gpuName = existsSync(join(gpuSource, 'build.sh')) ? `gpu-sim-${keyOf(gpuSource, '')}` : null;
  if (!existsSync(join(cache, clusterName)) || (gpuName && !existsSync(join(cache, gpuName))))
    await goVersion();
  const cluster = await cached(clusterName, (out) => buildCluster(source, out));
  if (!gpuName) {
    say('hack/gpu is not there: nodes have no GPUs');
    return { cluster, gpu: null };
  }
  const gpu = await cached(gpuName, async (out) => {
    say('building the simulated GPU (about 10 s, once)');
    await execa('sh', [join(gpuSource, 'build.sh'), out], { timeout: buildMsMax });
  });
  return { cluster, gpu };
}
