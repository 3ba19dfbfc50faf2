/** A form of the right length and wrong bytes, which the node's agent has found (CHECK_FORM). */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { bench, closeAll } from './fetched.ts';

afterAll(closeAll);

async function convertedOnce() {
  const one = await bench();
  const { gthread } = await one.convert();
  const path = join(gthread.path, 'weights');
  return { one, path, good: readFileSync(path) };
}
const again = { env: { CHECK_FORM: 'true' } };

describe('a form that is not to be believed', () => {
  it('is written again when a chunk has not its hash, though its length is right', async () => {
    const { one, path, good } = await convertedOnce();
    const bad = Buffer.from(good);
    bad[good.length - 1]! ^= 1;
    writeFileSync(path, bad);
    expect((await one.convert()).gthread.written).toBe(0);
    expect((await one.convert(again)).gthread.written).toBe(good.length);
    expect(readFileSync(path).equals(good)).toBe(true);
  });

  it('stays when it is whole', async () => {
    const { one, path } = await convertedOnce();
    const { ino } = statSync(path);
    expect((await one.convert(again)).gthread.written).toBe(0);
    expect(statSync(path).ino).toBe(ino);
  });

  it('is not read for a Job that was told nothing', async () => {
    const { one } = await convertedOnce();
    expect((await one.convert({ env: { CHECK_FORM: 'false' } })).gthread.written).toBe(0);
  });
});
