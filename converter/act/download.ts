/** Downloads one file: resumed where it stopped, checked against the hub's hash, renamed when it is whole. */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FetchFailure } from '../decide/failures.ts';
import { partSuffix, type WantedFile } from '../decide/files.ts';
import { type Answer, type Http, headerOf } from '../http.ts';
import { takeFile } from './flock.ts';
import type { Lock } from './lock.ts';

/** Requests for one file in all, however much each brings. */
const requestsMax = 200;
/** Complete downloads whose hash is wrong. */
const wrongHashesMax = 3;
const readBytes = 1024 * 1024;

export interface DownloadOptions {
  http: Http;
  lock: Pick<Lock, 'requireHeld'>;
  commit: string;
  /** The incoming folder of that commit. */
  folder: string;
  /** Bytes that came; negative when some had to be thrown away. */
  onBytes: (bytes: number) => void;
}

/** The state of one file while it comes. */
interface Partial {
  file: WantedFile;
  handle: FileHandle;
  hash: Hash;
  have: number;
  /** An earlier Job left some of it. */
  isAdopted: boolean;
}

function newHash(file: WantedFile): Hash {
  return file.sha256 === null
    ? createHash('sha1').update(`blob ${file.bytes}\0`) // as git names a blob
    : createHash('sha256');
}

/** Reads what a file holds into a hash. @returns its bytes */
async function hashInto(hash: Hash, handle: FileHandle): Promise<number> {
  const buffer = Buffer.allocUnsafe(readBytes);
  for (let have = 0; ; ) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, have);
    if (bytesRead === 0) return have;
    hash.update(buffer.subarray(0, bytesRead));
    have += bytesRead;
  }
}

/** Whoever writes a partial file has it alone: two that each hash what they receive would both believe it whole. */
async function requireAlone(handle: FileHandle, path: string): Promise<void> {
  const isThere = takeFile(handle.fd) && (await stat(path)).ino === (await handle.stat()).ino;
  if (!isThere) throw new FetchFailure('Busy', `another Job writes ${path}: this one stops`);
}

/** Opens the partial file and hashes what it holds. */
async function openPart(path: string, file: WantedFile): Promise<Partial> {
  await mkdir(dirname(path), { recursive: true });
  const handle = await open(path, 'r+').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return open(path, 'wx+', 0o644);
  });
  try {
    await requireAlone(handle, path);
    if ((await handle.stat()).size > file.bytes) await handle.truncate(0);
    const hash = newHash(file);
    const have = await hashInto(hash, handle);
    return { file, handle, hash, have, isAdopted: have > 0 };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/**
 * Whether all that was received is what the hub lists. Of a file that an earlier Job began the bytes on the disk are read
 * once more: one of an earlier release, which locks no partial file, may have written too.
 */
async function isRight(part: Partial): Promise<boolean> {
  const { file, handle, hash, isAdopted } = part;
  const wanted = file.sha256 ?? file.gitSha1;
  if (hash.digest('hex') !== wanted) return false;
  if (!isAdopted) return true;
  const onDisk = newHash(file);
  await hashInto(onDisk, handle);
  return onDisk.digest('hex') === wanted;
}

/** Forgets what was received. */
async function restart(part: Partial, options: DownloadOptions): Promise<void> {
  options.onBytes(-part.have);
  await part.handle.truncate(0);
  part.hash = newHash(part.file);
  part.have = 0;
}

/** Whether the answer's body begins where the partial file ends. */
function continues(answer: Answer, have: number): boolean {
  if (answer.status === 200) return have === 0;
  return new RegExp(`^bytes ${have}-`).test(headerOf(answer, 'content-range') ?? '');
}

const again = (message: string) => new FetchFailure('HubUnavailable', message, { retry: true });

/** One request: appends what comes. @throws FetchFailure when it ends early or does not fit */
async function append(part: Partial, url: string, options: DownloadOptions): Promise<void> {
  const { file, handle } = part;
  const range: Record<string, string> = part.have > 0 ? { range: `bytes=${part.have}-` } : {};
  const answer = await options.http.get(url, { 'accept-encoding': 'identity', ...range }, [416]);
  if (!continues(answer, part.have)) {
    await restart(part, options);
    if (answer.status !== 200) {
      await answer.body.dump();
      throw again(`the hub did not go on at the byte asked for (HTTP ${answer.status})`);
    }
  }
  for await (const piece of answer.body) {
    const chunk = piece as Buffer;
    if (part.have + chunk.length > file.bytes) {
      await restart(part, options);
      throw again(`${file.path} is longer than the hub lists it`);
    }
    part.hash.update(chunk);
    for (let written = 0; written < chunk.length; ) {
      written += (await handle.write(chunk, written, chunk.length - written, part.have + written))
        .bytesWritten;
    }
    part.have += chunk.length;
    options.onBytes(chunk.length);
  }
  if (part.have < file.bytes) throw again(`${file.path} ended early`);
}

/** Requests until all bytes are there. */
async function complete(part: Partial, url: string, options: DownloadOptions): Promise<void> {
  const { http } = options;
  let failures = 0;
  for (let requests = 1; part.have < part.file.bytes; requests++) {
    const before = part.have;
    try {
      await append(part, url, options);
    } catch (error) {
      const failure = http.failureOf(error);
      failures = part.have > before ? 1 : failures + 1;
      if (!failure.retry || failures >= http.tries || requests >= requestsMax) throw failure;
      await http.backOff(failures, failure);
    }
  }
}

/**
 * Leaves `<folder>/<path>` whole, checked and synced; what an earlier run left of it is used.
 * @throws FetchFailure; the partial file stays for the next run
 */
export async function download(file: WantedFile, options: DownloadOptions): Promise<void> {
  const { http, commit, folder, lock } = options;
  const target = join(folder, file.path);
  const path = file.path.split('/').map(encodeURIComponent).join('/');
  const url = `${http.asked.endpoint}/${http.asked.modelName}/resolve/${commit}/${path}`;
  const part = await openPart(target + partSuffix, file);
  try {
    for (let wrong = 1; ; wrong++) {
      await complete(part, url, options);
      if (await isRight(part)) break;
      await restart(part, options);
      if (wrong >= wrongHashesMax) {
        throw new FetchFailure(
          'ChecksumMismatch',
          `${file.path} came ${wrong} times with another hash than the hub lists: check proxies and mirrors between this node and ${http.asked.endpoint}, and the node's disk`,
        );
      }
    }
    await part.handle.sync();
    lock.requireHeld();
    await rename(target + partSuffix, target);
  } finally {
    await part.handle.close();
  }
}
