/** flock(2), which Node does not have: the kernel takes a file from its holder when that one has ended, and never before. */
import { constants } from 'node:os';
import koffi from 'koffi';
import { FetchFailure } from '../decide/failures.ts';

const flock = koffi.load(null).func('int flock(int, int)');
// sys/file.h, of all architectures.
const lockExclusive = 2;
const lockWithoutWaiting = 4;

/**
 * Takes a file for this descriptor alone, until it is closed.
 * @returns false when another has it
 * @throws FetchFailure DiskFailed where the file system has no such locks
 */
export function takeFile(descriptor: number): boolean {
  if (flock(descriptor, lockExclusive | lockWithoutWaiting) === 0) return true;
  const errno = koffi.errno();
  if (errno === constants.errno.EWOULDBLOCK || errno === constants.errno.EINTR) return false;
  throw new FetchFailure(
    'DiskFailed',
    `the file system under storage.modelsPath refuses to lock files (flock, errno ${errno}): mount it with locks, or set storage.modelsPath to a disk of the node`,
  );
}
