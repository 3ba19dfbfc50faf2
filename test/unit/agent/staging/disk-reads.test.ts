/** Reads of a real file, by the kernel's asynchronous I/O and by plain reads. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import {
  asynchronousReads,
  type DiskReads,
  type Ended,
  plainReads,
} from '../../../../agent/act/staging/disk-reads.ts';
import { hugeBuffer } from '../../../../agent/act/staging/libc.ts';
import { temporaryFolder } from './form-on-disk.ts';

const depth = 4;
const pieceBytes = 4096;
const opened: number[] = [];
afterEach(() => {
  for (const file of opened.splice(0)) closeSync(file);
});

function open(content: Buffer): number {
  const path = join(temporaryFolder(), 'file');
  writeFileSync(path, content);
  const file = openSync(path, 'r');
  opened.push(file);
  return file;
}

function endOf(reads: DiskReads): Ended {
  for (;;) {
    const ended = reads.ended();
    if (ended) return ended;
  }
}

describe.each([
  ['asynchronous', asynchronousReads],
  ['plain', plainReads],
] as const)('%s reads', (_, make) => {
  /** Pieces of the file at these offsets, all in flight at once. */
  function readAll(file: number, offsets: number[]): { ended: Ended[]; pieces: Buffer[] } {
    const buffer = hugeBuffer(depth * pieceBytes);
    const reads = make(depth);
    try {
      const parts = offsets.map((_, place) =>
        buffer.memory.subarray(place * pieceBytes, (place + 1) * pieceBytes),
      );
      for (const [place, offset] of offsets.entries())
        reads.begin(place, {
          file,
          offset,
          into: parts[place]!,
          address: buffer.address + BigInt(place * pieceBytes),
        });
      const ended = offsets.map(() => endOf(reads)).sort((a, b) => a.place - b.place);
      return { ended, pieces: parts.map((part) => Buffer.from(part)) };
    } finally {
      reads.close();
      buffer.release();
    }
  }

  it('bring the bytes of each place', () => {
    const content = Buffer.concat([1, 2, 3, 4].map((byte) => Buffer.alloc(pieceBytes, byte)));
    const offsets = [3, 0, 2, 1].map((piece) => piece * pieceBytes);
    const { ended, pieces } = readAll(open(content), offsets);
    expect(ended).toEqual(offsets.map((_, place) => ({ place, bytes: pieceBytes })));
    expect(pieces.map((piece) => piece[pieceBytes - 1])).toEqual([4, 1, 3, 2]);
  });

  it('say how many bytes there were before the end of the file, and none beyond', () => {
    const { ended } = readAll(open(Buffer.alloc(pieceBytes + 100, 1)), [pieceBytes, 2 * pieceBytes]);
    expect(ended).toEqual([
      { place: 0, bytes: 100 },
      { place: 1, bytes: 0 },
    ]);
  });

  it('say by its code what the kernel refused', () => {
    const folder = openSync(temporaryFolder(), 'r');
    opened.push(folder);
    const refused = (): unknown => {
      const [ended] = readAll(folder, [0]).ended;
      return ended && 'error' in ended ? ended.error : ended;
    };
    let found: unknown;
    try {
      found = refused();
    } catch (error) {
      found = error;
    }
    expect(found).toMatchObject({ code: expect.stringMatching(/^(EISDIR|EINVAL)$/) });
  });
});

/** In a process of its own, whose one thread waits when the signal comes. */
const interrupted = `
import { spawn } from 'node:child_process';
import { asynchronousReads } from '${new URL('../../../../agent/act/staging/disk-reads.ts', import.meta.url).pathname}';
process.on('SIGUSR2', () => {});
const reads = asynchronousReads(1);
spawn('sh', ['-c', 'sleep 0.2; kill -USR2 ' + process.pid]);
console.log(JSON.stringify(reads.ended()));
`;

it('a wait that a signal cuts short has brought nothing, and is no error', () => {
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', interrupted], {
    encoding: 'utf8',
  });
  expect(JSON.parse(said)).toBeNull();
});
