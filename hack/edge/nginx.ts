/** nginx as a child: started once, reloaded with each new configuration, ended with the edge. */
import { spawn } from 'node:child_process';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

export interface Nginx {
  /** Puts a configuration into effect. @throws Error with nginx's words; the one before goes on. */
  apply(text: string): Promise<void>;
}

/** A check of some hundred servers, ms. */
const checkMsMax = 10_000;

/** @param onEnd is called when nginx ends by itself */
export async function startNginx(
  folder: string,
  first: string,
  onEnd: (code: number | null) => void,
): Promise<Nginx> {
  const file = join(folder, 'nginx.conf');
  // stderr from the first line on: Debian's compiled-in log folder may not be there.
  const args = (conf: string) => ['-e', 'stderr', '-p', folder, '-c', conf];
  async function write(text: string): Promise<void> {
    const next = `${file}.new`;
    await writeFile(next, text);
    await execa('nginx', [...args(next), '-t'], { timeout: checkMsMax });
    await rename(next, file);
  }
  await mkdir(folder, { recursive: true, mode: 0o755 });
  await write(first);
  // An edge that is killed takes nginx along: TERM lets the master end its workers.
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', 'nginx', ...args(file)], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  child.on('exit', onEnd);
  child.on('error', () => onEnd(null));
  let current = first;
  return {
    async apply(text) {
      if (text === current) return;
      await write(text);
      current = text;
      child.kill('SIGHUP');
    },
  };
}
