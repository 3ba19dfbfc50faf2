/**
 * Writes the files that are generated from the code, or with --check says which of them are out of date.
 * Usage: node hack/generate/main.ts [--check]
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { stringify } from 'yaml';
import { customResourceDefinitions } from '../../api/crd.ts';

const header = '# Generated from api/ by `node hack/generate/main.ts`; do not edit.\n';

/** Each generated file's path and text. */
function generated(): Map<string, string> {
  const files = new Map<string, string>();
  for (const crd of customResourceDefinitions()) {
    const { name } = crd.metadata as { name: string };
    files.set(
      `helm/greenthread/templates/crds/${name}.yaml`,
      header + stringify(crd, { lineWidth: 0, aliasDuplicateObjects: false }),
    );
  }
  return files;
}

const check = process.argv.includes('--check');
let stale = 0;
for (const [path, text] of generated()) {
  const now = await readFile(path, 'utf8').catch(() => '');
  if (now === text) continue;
  if (check) {
    stale += 1;
    console.error(`${path} is out of date: run node hack/generate/main.ts`);
  } else {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
    console.log(`wrote ${path}`);
  }
}
process.exitCode = stale > 0 ? 1 : 0;
