/** The command line of every program in a box. */
import { kubeconfigOf, pki } from './certificates.ts';
import { nodeAddress, podNetwork, repository, serviceNetwork } from './places.ts';

export interface Component {
  name: string;
  command: string[];
}

export interface NodeFiles {
  containerd: string;
  kubelet: string;
  etcdData: string;
}

const etcdClient = 'http://127.0.0.1:2379';

/** What node 1 runs beside being a node; the first two are started before all others. */
export function controlPlane(files: NodeFiles): Component[] {
  const address = nodeAddress(1);
  const etcd = {
    'data-dir': files.etcdData,
    'listen-client-urls': etcdClient,
    'advertise-client-urls': etcdClient,
    'listen-peer-urls': 'http://127.0.0.1:2380',
    'log-level': 'warn',
    // A power cut may lose a developer's cluster; fsync on each write would slow every test.
    'unsafe-no-fsync': 'true',
  };
  const apiserver = {
    'etcd-servers': etcdClient,
    'secure-port': '6443',
    'bind-address': address,
    'advertise-address': address,
    'tls-cert-file': pki('kube-apiserver.crt'),
    'tls-private-key-file': pki('kube-apiserver.key'),
    'client-ca-file': pki('ca.crt'),
    'kubelet-client-certificate': pki('kubelet-client.crt'),
    'kubelet-client-key': pki('kubelet-client.key'),
    'kubelet-preferred-address-types': 'InternalIP',
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'service-account-issuer': 'https://kubernetes.default.svc',
    'service-account-key-file': pki('service-accounts.pub'),
    'service-account-signing-key-file': pki('service-accounts.key'),
    'service-cluster-ip-range': serviceNetwork,
    'allow-privileged': 'true',
    profiling: 'false',
    // With the kubelet's lease and the node controller's flags: pods of a dead node are replaced within 15 s.
    'default-not-ready-toleration-seconds': '2',
    'default-unreachable-toleration-seconds': '2',
  };
  const controllerManager = {
    kubeconfig: kubeconfigOf('kube-controller-manager'),
    'service-account-private-key-file': pki('service-accounts.key'),
    'root-ca-file': pki('ca.crt'),
    'use-service-account-credentials': 'true',
    'leader-elect': 'false',
    'bind-address': '127.0.0.1',
    'node-monitor-period': '1s',
    'node-monitor-grace-period': '8s',
    'flex-volume-plugin-dir': '/var/lib/kubelet/volume-plugins',
  };
  const scheduler = {
    kubeconfig: kubeconfigOf('kube-scheduler'),
    'leader-elect': 'false',
    'bind-address': '127.0.0.1',
  };
  return [
    { name: 'etcd', command: ['etcd', ...flags(etcd)] },
    { name: 'kube-apiserver', command: ['kube-apiserver', ...flags(apiserver)] },
    { name: 'kube-controller-manager', command: ['kube-controller-manager', ...flags(controllerManager)] },
    { name: 'kube-scheduler', command: ['kube-scheduler', ...flags(scheduler)] },
    { name: 'edge', command: edgeCommand(address) },
  ];
}

const edgeCommand = (address: string): string[] => [
  process.execPath,
  `${repository}/hack/edge/main.ts`,
  ...flags({ kubeconfig: kubeconfigOf('edge'), address, folder: '/run/edge' }),
];

/** What every node runs. */
export function nodePrograms(
  node: { name: string; index: number; labels: string },
  files: NodeFiles,
): Component[] {
  const address = nodeAddress(node.index);
  const kubelet = {
    config: files.kubelet,
    kubeconfig: kubeconfigOf(`node-${node.name}`),
    'hostname-override': node.name,
    'node-ip': address,
    ...(node.labels && { 'node-labels': node.labels }),
    v: '1',
  };
  const proxy = {
    kubeconfig: kubeconfigOf('kube-proxy'),
    'hostname-override': node.name,
    'proxy-mode': 'nftables',
    'cluster-cidr': podNetwork,
    'bind-address': address,
    // conntrack's limits are the machine's own: not to be changed from a box.
    'conntrack-max-per-core': '0',
    'conntrack-min': '0',
    'conntrack-tcp-timeout-established': '0',
    'conntrack-tcp-timeout-close-wait': '0',
  };
  return [
    { name: 'containerd', command: ['containerd', '-c', files.containerd] },
    { name: 'kubelet', command: ['kubelet', ...flags(kubelet)] },
    { name: 'kube-proxy', command: ['kube-proxy', ...flags(proxy)] },
  ];
}

const flags = (values: Record<string, string>): string[] =>
  Object.entries(values).map(([name, value]) => `--${name}=${value}`);

/** A component as a shell script that becomes it: the box's PID 1 starts it by its file name. */
export function asScript({ command }: Component): string {
  const quoted = command.map((word) => `'${word.replaceAll("'", `'\\''`)}'`);
  return `#!/bin/sh\nexec ${quoted.join(' \\\n  ')}\n`;
}
