/** An image that an engine found damaged: it goes, and the next one of its name is linked. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Registry } from 'prom-client';
import { beforeEach, expect, it } from 'vitest';
import type { Log } from '#platform/log.ts';
import { damageNote, imageHeadBytes, imageMagic } from '../../../../agent/decide/staging/images.ts';
import { createPoolMetrics } from '../../../../agent/metrics/pool.ts';
import { createPool, type Pool } from '../../../../agent/pool.ts';
import { uid } from './facts.ts';
import { temporaryFolder } from './form-on-disk.ts';

const page = 2 * 1024 * 1024;
const name = `${'a'.repeat(16)}-${'b'.repeat(16)}.image`;
let root: string;
let pool: Pool;
let warned: string[];

beforeEach(() => {
  root = join(temporaryFolder(), 'pool');
  warned = [];
  const log: Log = {
    with: () => log,
    debug: () => {},
    info: () => {},
    warn: (text: string) => void warned.push(text),
    error: (text: string) => void warned.push(text),
  };
  pool = createPool({
    poolDir: root,
    alive: () => true,
    onFreed: () => {},
    metrics: createPoolMetrics(new Registry()),
    log,
    nowMs: () => 0,
  });
  pool.list();
});

const shared = () => join(root, 'images', 'h1', name);
const own = (n: number, file = name) => join(root, 'pods', uid(n), file);
const look = () => pool.tend(pool.list()!, () => 'h1');

/** As the plug-in of pod `n` leaves it. @param mark its last byte */
function writeImage(n: number, mark: string): void {
  mkdirSync(join(root, 'pods', uid(n)), { recursive: true });
  const head = Buffer.alloc(imageHeadBytes);
  head.write(imageMagic, 0, 'latin1');
  writeFileSync(own(n), head);
  truncateSync(own(n), page - 1);
  writeFileSync(own(n), mark, { flag: 'a' });
}
const markOf = (path: string): string => readFileSync(path).toString('latin1', page - 1);
function note(n: number, text: string): void {
  mkdirSync(join(root, 'pods', uid(n)), { recursive: true });
  writeFileSync(own(n, damageNote(name)), text);
}
const inode = (): string => String(statSync(shared()).ino);

it('is replaced by the image of the engine that found it so', () => {
  writeImage(1, '1');
  expect(look()).toBe(true);
  note(2, inode());
  writeImage(2, '2');
  expect(look()).toBe(true);
  expect(markOf(shared())).toBe('2');
  expect(warned).toEqual([expect.stringContaining('found damaged')]);
  // Not by its writer's name for it either: that would be linked again.
  expect(existsSync(own(1))).toBe(false);
  expect(readdirSync(join(root, 'pods', uid(2)))).toEqual([name]);
  expect(look()).toBe(false);
});

it('is gone while nobody has written another', () => {
  writeImage(1, '1');
  look();
  note(2, inode());
  expect(look()).toBe(true);
  expect(look()).toBe(false);
  expect(existsSync(shared())).toBe(false);
  writeImage(2, '2');
  look();
  expect(markOf(shared())).toBe('2');
});

it('makes room for one that came second before', () => {
  writeImage(1, '1');
  look();
  writeImage(2, '2');
  look();
  expect(markOf(shared())).toBe('1');
  note(3, inode());
  look();
  expect(markOf(shared())).toBe('2');
});

it('in its own pod goes as well, so that the engine writes another when it starts again', () => {
  writeImage(1, '1');
  look();
  note(1, inode());
  look();
  expect(readdirSync(join(root, 'pods', uid(1)))).toEqual([]);
});

it('that was replaced meanwhile is not meant', () => {
  writeImage(1, '1');
  look();
  const before = inode();
  note(2, before);
  writeImage(2, '2');
  look();
  note(3, before);
  expect(look()).toBe(false);
  expect(markOf(shared())).toBe('2');
  expect(existsSync(own(3, damageNote(name)))).toBe(false);
});

it.each(['', 'no number', '1'.repeat(21), '-1'])('is not what a note of %j says', (text) => {
  writeImage(1, '1');
  look();
  note(2, text);
  expect(look()).toBe(false);
  expect(markOf(shared())).toBe('1');
  expect(existsSync(own(2, damageNote(name)))).toBe(false);
});

it('is not what a note says that is a link', () => {
  writeImage(1, '1');
  look();
  writeFileSync(join(root, 'elsewhere'), inode());
  mkdirSync(join(root, 'pods', uid(2)));
  symlinkSync(join(root, 'elsewhere'), own(2, damageNote(name)));
  look();
  expect(markOf(shared())).toBe('1');
});
