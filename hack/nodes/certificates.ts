/** One certificate authority, a certificate for each component with the identity Kubernetes knows it by, kubeconfigs. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { NodePlan } from './options.ts';
import { apiServer, apiServiceAddress, kubeconfigFile, nodeAddress, stateFolder } from './places.ts';

export const pkiFolder = join(stateFolder, 'pki');
export const pki = (file: string): string => join(pkiFolder, file);

const validDays = '3650';

/** Subjects by file name: `/O=` is a group, `/CN=` a user, both as RBAC's own bindings name them. */
const clients: Record<string, string> = {
  admin: '/O=system:masters/CN=admin',
  'kube-controller-manager': '/CN=system:kube-controller-manager',
  'kube-scheduler': '/CN=system:kube-scheduler',
  'kube-proxy': '/CN=system:kube-proxy',
  'kubelet-client': '/O=system:masters/CN=kube-apiserver-kubelet-client',
  edge: '/CN=greenthread-dev-edge',
};

const openssl = (...args: string[]) => execa('openssl', args, { cwd: pkiFolder, stdin: 'ignore' });
const makeKey = (name: string) =>
  openssl('ecparam', '-genkey', '-name', 'prime256v1', '-noout', '-out', `${name}.key`);

async function makeAuthority(): Promise<void> {
  await makeKey('ca');
  await openssl(
    'req',
    '-x509',
    '-new',
    '-key',
    'ca.key',
    '-subj',
    '/CN=greenthread-dev',
    '-days',
    validDays,
    '-out',
    'ca.crt',
  );
  await makeKey('service-accounts');
  await openssl('ec', '-in', 'service-accounts.key', '-pubout', '-out', 'service-accounts.pub');
}

async function makeCertificate(name: string, subject: string, extension: string): Promise<void> {
  await makeKey(name);
  await openssl('req', '-new', '-key', `${name}.key`, '-subj', subject, '-out', `${name}.csr`);
  await writeFile(pki(`${name}.ext`), `${extension}\n`);
  const issuer = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', validDays];
  await openssl(
    'x509',
    '-req',
    '-in',
    `${name}.csr`,
    ...issuer,
    '-extfile',
    `${name}.ext`,
    '-out',
    `${name}.crt`,
  );
  await Promise.all([rm(pki(`${name}.csr`)), rm(pki(`${name}.ext`))]);
}

/** A kubeconfig that holds its keys, so that it can be copied. */
async function writeKubeconfig(name: string, file: string): Promise<void> {
  const data = async (part: string) => (await readFile(pki(part))).toString('base64');
  const text = `apiVersion: v1
kind: Config
clusters:
- name: greenthread-dev
  cluster:
    server: ${apiServer}
    certificate-authority-data: ${await data('ca.crt')}
users:
- name: ${name}
  user:
    client-certificate-data: ${await data(`${name}.crt`)}
    client-key-data: ${await data(`${name}.key`)}
contexts:
- name: greenthread-dev
  context: {cluster: greenthread-dev, user: ${name}}
current-context: greenthread-dev
`;
  await writeFile(file, text, { mode: 0o600 });
}

export const kubeconfigOf = (name: string): string => pki(`${name}.kubeconfig`);

/** Makes what is not there yet; certificates stay the same over `down` and `up`, and so does the kubeconfig. */
export async function ensureCertificates(nodes: NodePlan[]): Promise<void> {
  await mkdir(pkiFolder, { recursive: true, mode: 0o700 });
  // The stamp is written last: a run that was interrupted half-way starts over.
  const stamp = pki('complete');
  if (!existsSync(stamp)) {
    await rm(pkiFolder, { recursive: true, force: true });
    await mkdir(pkiFolder, { recursive: true, mode: 0o700 });
    await makeAuthority();
    const addresses = ['127.0.0.1', nodeAddress(1), apiServiceAddress].map((address) => `IP:${address}`);
    const names = ['localhost', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc'].map(
      (name) => `DNS:${name}`,
    );
    await makeCertificate(
      'kube-apiserver',
      '/CN=kube-apiserver',
      `subjectAltName=${[...addresses, ...names].join(',')}`,
    );
    for (const [name, subject] of Object.entries(clients)) {
      await makeCertificate(name, subject, 'extendedKeyUsage=clientAuth');
      await writeKubeconfig(name, kubeconfigOf(name));
    }
    await writeKubeconfig('admin', kubeconfigFile);
    await writeFile(stamp, '');
  }
  for (const { name } of nodes) {
    const file = `node-${name}`;
    if (existsSync(kubeconfigOf(file))) continue;
    await makeCertificate(file, `/O=system:nodes/CN=system:node:${name}`, 'extendedKeyUsage=clientAuth');
    await writeKubeconfig(file, kubeconfigOf(file));
  }
}
