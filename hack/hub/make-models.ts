/**
 * `node hack/hub/make-models.ts DIR [ID…] [--weight-kib N] [--sim JSON]`: small models for the hub stub and the engine
 * simulator (models.ts); without ids the usual ones. `--sim` becomes each model's sim.json.
 */
import { parseArgs } from 'node:util';
import { defaultModels, writeModel } from './models.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { 'weight-kib': { type: 'string', default: '256' }, sim: { type: 'string' } },
});
const [folder, ...ids] = positionals;
if (folder === undefined) {
  console.error('usage: make-models.ts DIR [ID…] [--weight-kib N] [--sim JSON]');
  process.exit(2);
}
for (const id of ids.length > 0 ? ids : defaultModels) {
  await writeModel(folder, id, {
    weightBytes: Number(values['weight-kib']) * 1024,
    ...(values.sim ? { simulation: JSON.parse(values.sim) as Record<string, unknown> } : {}),
  });
  console.log(id);
}
