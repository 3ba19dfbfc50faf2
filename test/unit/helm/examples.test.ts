/** Every example is a Model as the API knows it, without a field that it does not. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { modelSpec } from '../../../api/model.ts';
import { root } from '../../tidy/sources.ts';

const folder = join(root, 'examples');
const files = readdirSync(folder).filter((name) => name.endsWith('.yaml'));

describe('the examples', () => {
  it.each(files)('%s holds Models', (name) => {
    const documents = parseAllDocuments(readFileSync(join(folder, name), 'utf8')).map((each) => each.toJS());
    const models = documents.filter(({ kind }) => kind === 'Model');
    expect(models.length).toBeGreaterThan(0);
    for (const { spec } of models) expect(modelSpec.strict().safeParse(spec).error).toBeUndefined();
  });

  it('are all in their list, and the list has no others', () => {
    const listed = [...readFileSync(join(folder, 'README.md'), 'utf8').matchAll(/^\| `([^`]+)`/gm)].map(
      ([, name]) => name,
    );
    expect(listed.sort()).toEqual([...files].sort());
  });
});
