/** What this machine must have before a node can run on it; Debian's packages are installed when missing. */
import { existsSync, readdirSync } from 'node:fs';
import { execa } from 'execa';
import { findProgram, installPackages, type PackagedFile } from '../setup/debian-packages.ts';
import { say } from './progress.ts';

const elsewhere =
  'Elsewhere use a cluster of your own: ./hack/demo --kubeconfig FILE (kind, k3d, minikube or a real one).';

const needed: PackagedFile[] = [
  ['runc', 'runc'],
  ['/usr/lib/cni/bridge', 'containernetworking-plugins'],
  ['iptables', 'iptables'],
  ['nft', 'nftables'],
  ['conntrack', 'conntrack'],
  ['nginx', 'nginx-light'],
  ['/bin/busybox', 'busybox-static'],
  ['ip', 'iproute2'],
  ['openssl', 'openssl'],
  ['unshare', 'util-linux'],
  ['flock', 'util-linux'],
  ['mount', 'mount'],
  ['strip', 'binutils'],
  ['/etc/ssl/certs/ca-certificates.crt', 'ca-certificates'],
  ['python3', 'python3'],
];

/** @throws Error with what to do instead, where no node can run here */
export function checkMachine(): void {
  if (process.platform !== 'linux')
    throw new Error(`a node needs Linux, this is ${process.platform}. ${elsewhere}`);
  if (process.getuid?.() !== 0) {
    throw new Error(
      `a node needs root (namespaces, mounts, cgroups): use sudo -E ./hack/cluster …. ${elsewhere}`,
    );
  }
  if (!existsSync('/proc/self/ns/pid') || readdirSync('/sys/fs/cgroup').length === 0) {
    throw new Error(`this machine shows no namespaces or no cgroups (/sys/fs/cgroup). ${elsewhere}`);
  }
}

/** Installs what is missing with apt. @throws Error naming the packages where apt cannot */
export async function prepareMachine(): Promise<void> {
  const installed = await installPackages(needed, say);
  if (installed.includes('nginx-light') && findProgram('systemctl')) {
    // Only the cluster's own edge is wanted, in its own network: nothing may listen on port 80 after the next reboot.
    await execa('systemctl', ['disable', 'nginx'], { reject: false });
  }
}
