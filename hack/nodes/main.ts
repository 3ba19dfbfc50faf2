/** ./hack/cluster: a real Kubernetes on this machine, in boxes of namespaces. */
import { join } from 'node:path';
import { inBox } from './box.ts';
import { apiReady, boxAlive, component, down, startNode, stopNode, up, updateImages } from './cluster.ts';
import { setLink } from './network.ts';
import { parseUp, UsageError } from './options.ts';
import { apiServer, edgeAddress, kubeconfigFile, nodeAddress, nodeFolder } from './places.ts';
import { say } from './progress.ts';
import { findNode, readRecord } from './record.ts';
import { checkMachine } from './requirements.ts';

const help = `usage: ./hack/cluster COMMAND
  up [--nodes N] [--gpus a40:2,t4:1] [--keep-data]
                        start the cluster alone (./hack/demo --keep installs GreenThread too);
                        one entry of --gpus per node, + joins types of one node, none for no GPU
  down                  end it; nothing stays but data and logs
  status                what runs
  kubeconfig            print the kubeconfig's path
  bin                   print the folder with kubectl and helm of the cluster's version
  images                build our images anew and import what changed
  exec NODE COMMAND…    run a command in a node's box
  logs NODE             print the folder with the logs of a node's programs
  node-stop NODE        kill a node with all it runs; node-start NODE brings it back with its disk
  node-cut NODE         take a node off the network; node-join NODE puts it back
  stop NODE PROGRAM     kill one of a node's programs (kubelet, containerd, …); start NODE PROGRAM
  apiserver-stop        kill the API server; apiserver-start`;

async function status(): Promise<number> {
  const record = readRecord();
  if (!record) {
    console.log('no cluster is up');
    return 1;
  }
  const answers = await apiReady(record).catch(() => false);
  console.log(`API server ${apiServer}: ${answers ? 'answers' : 'does not answer'}`);
  console.log(`edge       http://${edgeAddress}`);
  console.log(`kubeconfig ${record.kubeconfig}`);
  for (const node of record.nodes) {
    const state = boxAlive(node) ? 'runs' : node.stopped ? 'stopped' : 'dead';
    console.log(
      `${node.name.padEnd(10)} ${nodeAddress(node.index)} ${state}, GPUs ${node.gpus || 'none'}, logs ${nodeFolder(node.name)}/logs`,
    );
  }
  return answers && record.nodes.every((node) => boxAlive(node) || node.stopped) ? 0 : 1;
}

async function exec(name: string | undefined, command: string[]): Promise<number> {
  const record = readRecord();
  const node = findNode(record, name);
  if (command.length === 0) throw new UsageError('exec: which command?');
  const { exitCode } = await inBox(record!, node, command, { stdio: 'inherit', reject: false });
  return exitCode ?? 1;
}

function printUp(): void {
  const { programs } = readRecord()!;
  console.log(`export KUBECONFIG=${kubeconfigFile}\nexport PATH=${programs.cluster}:$PATH`);
}

/** Commands that only look; hack/cluster lets all others through one at a time. */
const looking = ['status', 'kubeconfig', 'bin', 'logs'];

const commands: Record<string, (args: string[]) => Promise<unknown>> = {
  up: async (args) => {
    await up(parseUp(args));
    printUp();
  },
  down: () => down(),
  status,
  kubeconfig: async () => console.log(readRecord()?.kubeconfig ?? kubeconfigFile),
  bin: async () => {
    const record = readRecord();
    if (!record) throw new Error('no cluster is up: ./hack/cluster up');
    console.log(record.programs.cluster);
  },
  images: async () => {
    const record = readRecord();
    if (!record) throw new Error('no cluster is up: ./hack/cluster up');
    await updateImages(record);
  },
  exec: ([name, ...command]) => exec(name, command),
  logs: async ([name]) => console.log(join(nodeFolder(findNode(readRecord(), name).name), 'logs')),
  'node-stop': ([name]) => stopNode(name),
  'node-start': ([name]) => startNode(name),
  'node-cut': async ([name]) => setLink(findNode(readRecord(), name).index, 'down'),
  'node-join': async ([name]) => setLink(findNode(readRecord(), name).index, 'up'),
  stop: ([name, program = '']) => component('stop', name, program),
  start: ([name, program = '']) => component('start', name, program),
  'apiserver-stop': () => component('stop', 'n1', 'kube-apiserver'),
  'apiserver-start': () => component('start', 'n1', 'kube-apiserver'),
};

async function main([name, ...args]: string[]): Promise<number> {
  const run = name === undefined ? undefined : commands[name];
  if (name === '--help' || !run) {
    (name === '--help' ? console.log : console.error)(help);
    return name === '--help' ? 0 : 2;
  }
  try {
    if (!looking.includes(name!)) checkMachine();
    const code = await run(args);
    return typeof code === 'number' ? code : 0;
  } catch (error) {
    say(`./hack/cluster ${name}: ${error instanceof Error ? error.message : String(error)}`);
    if (name === 'up' && readRecord()?.complete === false) {
      say(
        'what was started stays for a look at its logs; ./hack/cluster down removes it, another up starts over',
      );
    }
    return error instanceof UsageError ? 2 : 1;
  }
}

// What a failed command left waiting (an import, a watch) must not keep it.
process.exit(await main(process.argv.slice(2)));
