/** ./hack/demo: the walk-through of README.md, played live on a real cluster. Exit 0 only when every promise held. */
import { parseArgs } from 'node:util';
import { installChart } from '../installation/chart.ts';
import { type Cluster, downCluster, upCluster } from '../installation/cluster.ts';
import { downloads, hubFiles, startHub } from '../installation/hub.ts';
import { imageNames } from '../oci/images.ts';
import { converge, deploy, inference, remove, running, twoAwake } from './chapters.ts';
import {
  deployAndConverge,
  prepare,
  removeAndRedeploy,
  sleepWhenIdle,
  takeTurns,
  updateLive,
} from './real-engine.ts';
import { check, failures, remark, title, type, until } from './shell.ts';
import { update } from './updates.ts';

const help = `usage: ./hack/demo [--keep] [--engine vllm] [--gpus TYPE:COUNT,...] [--kubeconfig FILE [--values FILE]]
  plays the walk-through of README.md (deploy, converge, verify, update, delete) on a real Kubernetes and checks what it promises:
  about 3 minutes, the first time about 8 more
  --keep             leave the cluster running and say what to type next; otherwise no process stays
  --engine vllm      a real vLLM on CPU instead of the simulated one: a part of the walk-through, about 10 minutes, 2.7 GB to install once
  --gpus LIST        GPUs of the simulated nodes, as ./hack/cluster takes them; a40:2 when not given; the walk-through's Models go to the a40s
  --kubeconfig FILE  use a cluster of your own with NVIDIA GPUs: the chart is installed there. Images must be where its
                     nodes can pull them; say so, and all else that differs, in --values FILE (helm values)
without --kubeconfig it needs Linux and root: it starts a cluster with simulated GPUs in namespaces of this machine`;

const nextEngine = imageNames.engine.replace(/:[^:]*$/, ':next');
/** The walk-through's Models land on this node's GPUs. */
const gpusDefault = 'a40:2';

function options() {
  const { values } = parseArgs({
    options: {
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
      kubeconfig: { type: 'string' },
      values: { type: 'string' },
      gpus: { type: 'string' },
      engine: { type: 'string' },
    },
  });
  if (values.engine !== undefined && values.engine !== 'vllm')
    throw new Error(`--engine ${values.engine}: vllm is the only other one`);
  if (values.engine && (values.kubeconfig || values.gpus))
    throw new Error(
      '--engine vllm plays on a cluster and a GPU of its own: leave out --kubeconfig and --gpus',
    );
  if (values.gpus && values.kubeconfig)
    throw new Error('--gpus is for simulated nodes: a cluster of your own has GPUs');
  if (values.values && !values.kubeconfig)
    throw new Error('--values goes with --kubeconfig: the demo’s own cluster has its own');
  return values;
}

async function ownCluster(gpus: string): Promise<Cluster> {
  title('A cluster on this machine');
  const cluster = await upCluster(['--gpus', gpus]);
  await startHub(cluster);
  // The same engine under a second name, for the row of the update table that changes the image.
  await cluster.inNode('n1', [
    'ctr',
    '-n',
    'k8s.io',
    'images',
    'tag',
    '--force',
    imageNames.engine,
    nextEngine,
  ]);
  return cluster;
}

const foreignCluster = (kubeconfig: string): Cluster => ({
  kubeconfig,
  env: { KUBECONFIG: kubeconfig, PATH: process.env.PATH ?? '' },
  inNode: () => Promise.reject(new Error('only on the demo’s own cluster')),
  control: () => Promise.reject(new Error('only on the demo’s own cluster')),
});

async function install(cluster: Cluster, values: string | undefined, simulated: boolean): Promise<void> {
  title('Install GreenThread');
  await installChart(cluster, { simulated, values });
  const began = Date.now();
  await until('the agents publish their GPUs', 60_000, async () => {
    const { stdout } = await type('kubectl get gpus --no-headers', { quiet: true });
    return stdout.trim() === '' ? null : stdout;
  });
  remark(`GPUs after ${((Date.now() - began) / 1000).toFixed(1)} s`);
  await type('kubectl get gpus');
}

function nextOnForeign(kubeconfig: string): void {
  title('What to type next');
  console.log(`export KUBECONFIG=${kubeconfig}
kubectl get models -A -w          # in a second terminal
kubectl apply -f examples/…       # a Model of your own`);
}

function next(cluster: Cluster): void {
  title('What to type next');
  console.log(`export KUBECONFIG=${cluster.kubeconfig} PATH=$(./hack/cluster bin):$PATH
kubectl get models -A -w          # in a second terminal
kubectl apply -f examples/…       # a Model of your own; the hub of the demo’s cluster has few: ls ${hubFiles}/*
./hack/cluster down               # end it all`);
}

async function playRealEngine(keep: boolean): Promise<void> {
  try {
    const cluster = await prepare();
    await deployAndConverge();
    await takeTurns();
    await sleepWhenIdle();
    await updateLive();
    await removeAndRedeploy();
    check('every promise that was played held', failures.length === 0, failures.join('; '));
    if (keep) next(cluster);
  } finally {
    if (!keep) await downCluster();
  }
}

async function play(): Promise<void> {
  const { keep, kubeconfig, values, engine, gpus = gpusDefault } = options();
  if (engine) return playRealEngine(keep);
  const cluster = kubeconfig ? foreignCluster(kubeconfig) : await ownCluster(gpus);
  Object.assign(process.env, cluster.env);
  try {
    await install(cluster, values, !kubeconfig);
    await deploy();
    await converge();
    await running();
    const url = await inference();
    await twoAwake();
    await update(url, kubeconfig ? null : nextEngine);
    await remove(url, kubeconfig ? async () => 0 : () => downloads('meta-llama/Llama-3.1-8B-Instruct'));
    check('every promise of the walk-through held', failures.length === 0, failures.join('; '));
    if (keep && kubeconfig) nextOnForeign(kubeconfig);
    else if (keep) next(cluster);
  } finally {
    if (!keep && !kubeconfig) await downCluster();
  }
}

if (process.argv.includes('--help')) console.log(help);
else {
  const began = Date.now();
  try {
    await play();
  } catch (error) {
    failures.push(error instanceof Error ? error.message : String(error));
    console.error(`./hack/demo: ${failures.at(-1)}`);
  }
  console.log(`${failures.length === 0 ? 'done' : 'FAILED'} in ${Math.round((Date.now() - began) / 1000)} s`);
  process.exitCode = failures.length === 0 ? 0 : 1;
}
