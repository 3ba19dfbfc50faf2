/**
 * The calls of the C library that Node does not have, and the agent's one place that knows koffi. It keeps no reference to what it
 * maps: who asked for a mapping releases it, and uses it no more.
 */
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
import koffi from 'koffi';

const libc = koffi.load(null);
const mmap = libc.func('void *mmap(void *, size_t, int, int, int, intptr_t)');
const munmap = libc.func('int munmap(void *, size_t)');
const madvise = libc.func('int madvise(void *, size_t, int)');
const posixFadvise = libc.func('int posix_fadvise(int, intptr_t, intptr_t, int)');
// It has no functions for asynchronous I/O: numbers and addresses, as io_setup(2) and those after it have them.
const syscall = libc.func('intptr_t syscall(intptr_t, intptr_t, intptr_t, intptr_t, intptr_t, intptr_t)');

// Linux, all architectures that Node runs on but MIPS and Alpha (asm-generic/mman-common.h, linux/fadvise.h).
const protReadWrite = 3;
const mapShared = 1;
const mapPrivateAnonymous = 0x22;
const adviseHugePages = 14;
const adviseNotNeeded = 4;
const hugePageBytes = 2 * 1024 * 1024;
const mapFailed = 2n ** 64n - 1n;
// asm/unistd.h of each; Linux has no others that Node runs on and we build for.
const aioCalls: Partial<Record<NodeJS.Architecture, AioCalls>> = {
  x64: { setup: 206, destroy: 207, getEvents: 208, submit: 209 },
  arm64: { setup: 0, destroy: 1, submit: 2, getEvents: 4 },
};
type AioCalls = Record<'setup' | 'destroy' | 'submit' | 'getEvents', number>;

export interface Mapping<T> {
  memory: T;
  address: bigint;
  release(): void;
}

function map(bytes: number, flags: number, fd: number): { address: bigint; pointer: unknown } {
  const pointer = mmap(null, bytes, protReadWrite, flags, fd, 0);
  const address = koffi.address(pointer);
  if (address === mapFailed) throw new Error(`${bytes} bytes cannot be mapped (errno ${koffi.errno()})`);
  return { address, pointer };
}

/**
 * A buffer to read into, on huge pages where the kernel has some to spare: a disk's controller takes one large page as one
 * piece, where small ones are scattered (measured: 1.45 GB/s against 0.95 on the same disk).
 * @throws Error when there is no memory
 */
export function hugeBuffer(bytes: number): Mapping<Buffer> {
  const whole = bytes + hugePageBytes;
  const { address, pointer } = map(whole, mapPrivateAnonymous, -1);
  const shift = Number(-address & BigInt(hugePageBytes - 1));
  // Where the kernel refuses, small pages do.
  madvise(address + BigInt(shift), bytes, adviseHugePages);
  return {
    memory: Buffer.from(koffi.view(pointer, whole), shift, bytes),
    address: address + BigInt(shift),
    release: () => void munmap(pointer, whole),
  };
}

/** The first bytes of a file as 64-bit words that other processes see, each written at once. */
export function sharedWords(fd: number, count: number): Mapping<BigUint64Array> {
  const bytes = count * BigUint64Array.BYTES_PER_ELEMENT;
  const { address, pointer } = map(bytes, mapShared, fd);
  return {
    memory: new BigUint64Array(koffi.view(pointer, bytes)),
    address,
    release: () => void munmap(pointer, bytes),
  };
}

/** Takes a clean piece of a file out of the page cache, for what could not be read around it. */
export function leavePageCache(fd: number, offset: number, bytes: number): void {
  posixFadvise(fd, offset, bytes, adviseNotNeeded);
}

/** Small pages of zeroes, for what the kernel reads and writes by its address. @throws Error when there is no memory */
export function plainMemory(bytes: number): Mapping<Buffer> {
  const { address, pointer } = map(bytes, mapPrivateAnonymous, -1);
  return {
    memory: Buffer.from(koffi.view(pointer, bytes)),
    address,
    release: () => void munmap(pointer, bytes),
  };
}

/**
 * One call of asynchronous I/O.
 * @returns what the kernel returns, where that is no error
 * @throws Error with its code, as Node's own calls do; ENOSYS on an architecture whose numbers are not known here
 */
export function aio(call: keyof AioCalls, ...args: (number | bigint)[]): number {
  const number = aioCalls[process.arch]?.[call];
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = args;
  const result = number === undefined ? -1 : Number(syscall(number, a, b, c, d, e));
  if (result >= 0) return result;
  throw systemError(number === undefined ? constants.errno.ENOSYS : koffi.errno(), `io_${call}`);
}

/** @param errno as the kernel has it, above 0 */
export function systemError(errno: number, what: string): Error {
  const [code, text] = getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, 'unknown error'];
  return Object.assign(new Error(`${code}: ${text}, ${what}`), { code });
}
