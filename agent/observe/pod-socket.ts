/** A listening Unix socket in a pod's directory, put in place of whatever lay there, and put back when it is removed. */
import { randomBytes } from 'node:crypto';
import { chmodSync, lstatSync, renameSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { errorText, type Log } from '#platform/log.ts';

/** Open connections of one socket: one pod has one sidecar and one launcher; a few more may overlap in a restart. */
const connectionsMax = 8;
/** Whatever user a container of the pod runs as: the directory is the border. */
const socketMode = 0o666;

export interface PodSocket {
  /** Makes it again if it is no longer ours that lies there. */
  ensure(): void;
  close(): void;
}

/**
 * Bound under a name of its own and renamed into place, so that a dialler meets the old agent's socket or ours, never
 * none. Anybody in the pod may connect.
 * @param directory of one pod; its parent is the agent's alone
 * @throws Error when it cannot be bound
 */
export function listenInPod(
  directory: string,
  name: string,
  onConnection: (socket: Socket) => void,
  log: Log,
): PodSocket {
  const path = join(directory, name);
  let server: Server | undefined;
  let inode = 0;

  const bind = (): void => {
    // Beside the pod's directory, where no pod can reach: until it is in place nobody can swap it for a link.
    const temporary = join(dirname(directory), `.${name}.${randomBytes(4).toString('hex')}`);
    const next = createServer(onConnection);
    next.maxConnections = connectionsMax;
    next.on('error', (error) => log.warn('a pod socket failed', { path, error: errorText(error) }));
    next.listen(temporary); // bind(2) and listen(2) happen within this call
    if (!next.listening) throw new Error(`${path} cannot be bound`);
    chmodSync(temporary, socketMode);
    inode = lstatSync(temporary).ino;
    try {
      renameSync(temporary, path);
    } catch (error) {
      // A folder planted under the name cannot be replaced by a rename.
      rmSync(path, { recursive: true, force: true });
      renameSync(temporary, path);
      log.warn('something lay in place of a pod socket', { path, error: errorText(error) });
    }
    server?.close();
    server = next;
  };
  bind();

  return {
    ensure() {
      try {
        if (lstatSync(path).ino === inode) return;
      } catch {
        // It is not there: made again below.
      }
      try {
        bind();
        log.info('a pod socket was made again', { path });
      } catch (error) {
        log.warn('a pod socket cannot be made', { path, error: errorText(error) });
      }
    },
    close() {
      server?.close();
    },
  };
}
