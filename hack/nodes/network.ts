/**
 * The nodes' network: a bridge in this machine's namespace with an address that exists only here, a veth pair for each
 * box, routes to pods and Services. Nothing is forwarded to or from other networks.
 */
import { execa } from 'execa';
import { systemPath } from '../setup/debian-packages.ts';
import { bridge, hostLink, nodeAddress, nodePods, serviceNetwork } from './places.ts';

const ip = (...args: string[]) => execa('ip', args, { env: { PATH: systemPath } });
const exists = async (link: string) =>
  (await execa('ip', ['link', 'show', 'dev', link], { env: { PATH: systemPath }, reject: false }))
    .exitCode === 0;

export async function makeBridge(): Promise<void> {
  if (await exists(bridge.name)) return;
  await ip('link', 'add', bridge.name, 'type', 'bridge');
  await ip('addr', 'add', `${bridge.address}/${bridge.prefix}`, 'dev', bridge.name);
  await ip('link', 'set', bridge.name, 'up');
}

/** Puts one end of a veth pair into the box as eth0, and routes that node's pods to it. */
export async function connectBox(index: number, boxPid: number): Promise<void> {
  const link = hostLink(index);
  await ip('link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(boxPid));
  await ip('link', 'set', link, 'master', bridge.name, 'up');
  await ip('route', 'replace', `${nodePods(index)}.0/24`, 'via', nodeAddress(index), 'dev', bridge.name);
  // Services are reached through node 1's kube-proxy.
  if (index === 1) await ip('route', 'replace', serviceNetwork, 'via', nodeAddress(1), 'dev', bridge.name);
}

/** A box's link goes with its network namespace, but some milliseconds later: its name must be free again. */
export async function removeLink(index: number): Promise<void> {
  const link = hostLink(index);
  if (await exists(link))
    await execa('ip', ['link', 'del', link], { env: { PATH: systemPath }, reject: false });
}

/** Routes over the bridge go with it. */
export async function removeBridge(): Promise<void> {
  if (await exists(bridge.name)) await ip('link', 'del', bridge.name);
}

/** Takes a node off the network and back, as a pulled cable does. */
export async function setLink(index: number, state: 'up' | 'down'): Promise<void> {
  await ip('link', 'set', hostLink(index), state);
}
