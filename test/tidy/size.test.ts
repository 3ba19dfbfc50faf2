/** One file is one idea: limits on length, and names that say something. */
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { sources } from './sources.ts';

const fileLinesMax = 500;
const emptyNames = ['utils', 'util', 'helpers', 'helper', 'common', 'index', 'manager', 'misc', 'types'];

describe('every file', () => {
  it(`has at most ${fileLinesMax} lines`, () => {
    const long = sources()
      .map(({ path, text }) => [path, text.split('\n').length] as const)
      .filter(([, lines]) => lines > fileLinesMax);
    expect(long).toEqual([]);
  });

  it('has a name that says what is inside', () => {
    const empty = sources().filter(({ path }) => emptyNames.includes(basename(path, '.ts')));
    expect(empty.map(({ path }) => path)).toEqual([]);
  });

  it('has a name in words parted by dashes', () => {
    const odd = sources().filter(
      ({ path }) => !/(^|\/)[a-z0-9]+(-[a-z0-9]+)*(\.(test|d|config))?\.ts$/.test(path),
    );
    expect(odd.map(({ path }) => path)).toEqual([]);
  });

  it('does not enforce anything on an empty tree', () => {
    expect(sources().length).toBeGreaterThan(10);
  });
});
