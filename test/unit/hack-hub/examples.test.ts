import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { models } from '../../../hack/installation/hub.ts';
import { repository } from '../../../hack/nodes/places.ts';

it('the development hub has the files of every example', () => {
  const folder = join(repository, 'examples');
  const wanted = readdirSync(folder)
    .filter((name) => name.endsWith('.yaml'))
    .flatMap((name) => parseAllDocuments(readFileSync(join(folder, name), 'utf8')))
    .map((document) => (document.toJS() as { spec?: { modelName?: string } }).spec?.modelName)
    .filter((name) => name !== undefined);
  expect(wanted.length).toBeGreaterThan(5);
  for (const name of wanted) expect(models).toContain(name);
});
