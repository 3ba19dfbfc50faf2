/**
 * Reads of large pieces, several in flight, waited for by one thread. By Linux's asynchronous I/O (io_submit(2)): io_uring is what
 * container runtimes' default seccomp profile refuses. Where this is refused as well, each read is waited for at once.
 */
import { readSync } from 'node:fs';
import { aio, plainMemory, systemError } from './libc.ts';

export interface DiskRead {
  file: number;
  offset: number;
  into: Buffer;
  /** Of `into`. */
  address: bigint;
}

/** `bytes` may be fewer than were wanted; 0 at the file's end. */
export type Ended = { place: number } & ({ bytes: number } | { error: Error });

export interface DiskReads {
  /** @param place a number below the depth, for what is not in flight already. @throws Error with the kernel's code */
  begin(place: number, read: DiskRead): void;
  /** Waits a while. @returns one that ended, null when none did */
  ended(): Ended | null;
  /** Nothing may be in flight. */
  close(): void;
}

/** A wait is looked away from this often: whether to stop, s. */
const waitSeconds = 1;

// linux/aio_abi.h: struct iocb and struct io_event, little-endian; a timespec; the address of one iocb.
const iocb = { bytes: 64, data: 0, opcode: 16, file: 20, buffer: 24, length: 32, offset: 40 } as const;
const event = { bytes: 32, data: 0, result: 16 } as const;
const wordBytes = 8;
const timespecBytes = 16;
const readOpcode = 0;

/** @param depth how many may be in flight. @throws Error with the kernel's code where it has no such I/O for us */
export function asynchronousReads(depth: number): DiskReads {
  const at = { event: depth * iocb.bytes, list: 0, timeout: 0, context: 0, end: 0 };
  at.list = at.event + event.bytes;
  at.timeout = at.list + wordBytes;
  at.context = at.timeout + timespecBytes;
  at.end = at.context + wordBytes;
  const { memory, address, release } = plainMemory(at.end);
  const addressOf = (offset: number): bigint => address + BigInt(offset);
  try {
    aio('setup', depth, addressOf(at.context));
  } catch (error) {
    release();
    throw error;
  }
  const context = memory.readBigUInt64LE(at.context);
  memory.writeBigInt64LE(BigInt(waitSeconds), at.timeout);
  return {
    begin(place, read) {
      const block = memory.subarray(place * iocb.bytes, (place + 1) * iocb.bytes).fill(0);
      block.writeBigUInt64LE(BigInt(place), iocb.data);
      block.writeUInt16LE(readOpcode, iocb.opcode);
      block.writeUInt32LE(read.file, iocb.file);
      block.writeBigUInt64LE(read.address, iocb.buffer);
      block.writeBigUInt64LE(BigInt(read.into.length), iocb.length);
      block.writeBigInt64LE(BigInt(read.offset), iocb.offset);
      memory.writeBigUInt64LE(addressOf(place * iocb.bytes), at.list);
      aio('submit', context, 1, addressOf(at.list));
    },
    ended() {
      try {
        if (aio('getEvents', context, 1, 1, addressOf(at.event), addressOf(at.timeout)) === 0) return null;
      } catch (error) {
        // A signal that has a handler ends the wait, and nothing else.
        if ((error as NodeJS.ErrnoException).code === 'EINTR') return null;
        throw error;
      }
      const place = Number(memory.readBigUInt64LE(at.event + event.data));
      const result = Number(memory.readBigInt64LE(at.event + event.result));
      return result < 0 ? { place, error: systemError(-result, 'read') } : { place, bytes: result };
    },
    close() {
      aio('destroy', context);
      release();
    },
  };
}

/** One after the other, for a kernel that has no others for us. */
export function plainReads(): DiskReads {
  const done: Ended[] = [];
  return {
    begin(place, { file, offset, into }) {
      try {
        done.push({ place, bytes: readSync(file, into, 0, into.length, offset) });
      } catch (error) {
        done.push({ place, error: error as Error });
      }
    },
    ended: () => done.shift() ?? null,
    close() {},
  };
}
