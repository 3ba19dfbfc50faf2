/** Copies programs of this machine into a layer: the file, the shared libraries it names, users, certificates. */
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, realpath, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { writeInto } from './archive.ts';

/** The user our containers run as: without root, known by number. */
export const nonRoot = 65532;

const shellNames = [
  'sh',
  'cp',
  'mv',
  'mkdir',
  'cat',
  'ls',
  'ln',
  'rm',
  'chmod',
  'sleep',
  'env',
  'id',
  'ps',
  'wget',
  'grep',
];

/** Copies a file, links followed, to the same or another place; the folder comes with it. */
export async function copyInto(root: string, source: string, path = source, mode?: number): Promise<void> {
  const target = join(root, path);
  await mkdir(dirname(target), { recursive: true });
  await copyFile(await realpath(source), target);
  if (mode !== undefined) await chmod(target, mode);
}

/** Shared libraries, the loader included, that these files need. */
export async function librariesOf(files: string[]): Promise<string[]> {
  const found = new Set<string>();
  const { stdout } = await execa('ldd', files, { reject: false });
  for (const line of stdout.split('\n')) {
    // "libz.so.1 => /lib/…/libz.so.1 (0x…)" or, for the loader, "/lib64/ld-linux-x86-64.so.2 (0x…)".
    const path = /=> (\/\S+)/.exec(line)?.[1] ?? /^\s+(\/\S+) \(/.exec(line)?.[1];
    if (path) found.add(path);
  }
  return [...found].sort();
}

/** What every image has: users, /tmp, certificates, a static busybox for `kubectl exec`. */
export async function addSystem(root: string): Promise<void> {
  const users = [
    ['root', 0],
    ['nonroot', nonRoot],
  ] as const;
  await writeInto(
    root,
    '/etc/passwd',
    users.map(([name, id]) => `${name}:x:${id}:${id}::/:/bin/sh\n`).join(''),
  );
  await writeInto(root, '/etc/group', users.map(([name, id]) => `${name}:x:${id}:\n`).join(''));
  await writeInto(root, '/etc/nsswitch.conf', 'hosts: files dns\n');
  await mkdir(join(root, 'tmp'), { recursive: true });
  await chmod(join(root, 'tmp'), 0o1777);
  for (const folder of ['usr/bin', 'usr/local/bin', 'run', 'var/run', 'mnt'])
    await mkdir(join(root, folder), { recursive: true });
  const certificates = '/etc/ssl/certs/ca-certificates.crt';
  if (existsSync(certificates)) await copyInto(root, certificates);
  await copyInto(root, '/bin/busybox', '/bin/busybox', 0o755);
  for (const name of shellNames) await symlink('busybox', join(root, 'bin', name));
}
