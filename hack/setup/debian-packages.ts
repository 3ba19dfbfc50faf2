/** Programs that come with Debian's packages, installed with apt when missing. */
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { execa } from 'execa';

/** A file that a Debian or Ubuntu package brings: an absolute path, or a program's name. */
export type PackagedFile = [file: string, debianPackage: string];

/** apt with a slow mirror, ms. */
const aptMsMax = 600_000;

/** Programs of the system's administration are not on everybody's PATH. */
export const systemPath = `${process.env.PATH ?? ''}${delimiter}/usr/local/sbin${delimiter}/usr/sbin${delimiter}/sbin`;

/** @returns the path of a program, or null */
export function findProgram(name: string): string | null {
  if (name.startsWith('/')) return existsSync(name) ? name : null;
  const folder = systemPath.split(delimiter).find((place) => place && existsSync(join(place, name)));
  return folder ? join(folder, name) : null;
}

/**
 * @param say is told when something is to be installed
 * @returns the packages that were installed
 * @throws Error naming the packages where apt cannot
 */
export async function installPackages(
  needed: readonly PackagedFile[],
  say: (text: string) => void,
): Promise<string[]> {
  const missing = needed.filter(([file]) => !findProgram(file));
  if (missing.length === 0) return [];
  const packages = [...new Set(missing.map(([, name]) => name))];
  if (!findProgram('apt-get')) {
    throw new Error(
      `missing ${missing.map(([file]) => file).join(', ')}: install what Debian calls ${packages.join(' ')}`,
    );
  }
  say(`installing with apt: ${packages.join(' ')} (about 30 s, once)`);
  const env = { DEBIAN_FRONTEND: 'noninteractive', PATH: systemPath };
  const apt = (...args: string[]) =>
    execa('apt-get', args, { env, reject: false, all: true, timeout: aptMsMax });
  const install = () => apt('install', '-y', '--no-install-recommends', ...packages);
  let result = await withoutServices(install);
  if (result.exitCode !== 0) {
    await apt('update');
    result = await withoutServices(install);
  }
  if (result.exitCode !== 0) {
    throw new Error(`apt-get install ${packages.join(' ')} failed:\n${(result.all ?? '').slice(-2000)}`);
  }
  const still = needed.filter(([file]) => !findProgram(file)).map(([file]) => file);
  if (still.length > 0)
    throw new Error(`apt-get installed ${packages.join(' ')}, but ${still.join(', ')} is still missing`);
  return packages;
}

/** Runs `install` while no package may start a service: Debian would start nginx on 0.0.0.0:80. */
async function withoutServices<T>(install: () => Promise<T>): Promise<T> {
  const policy = '/usr/sbin/policy-rc.d';
  if (existsSync(policy)) return install();
  await writeFile(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    return await install();
  } finally {
    await rm(policy, { force: true });
  }
}
