/** The agent: one on each GPU node. `--once --dry-run` prints the GPU resources it would publish and ends. */
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { once: { type: 'boolean' }, 'dry-run': { type: 'boolean' } } });

if (values.once && values['dry-run']) {
  const { dryRun } = await import('./dry-run.ts');
  process.exitCode = await dryRun({
    nodeName: process.env.NODE_NAME,
    write: (text) => void process.stdout.write(text),
    complain: (text) => void process.stderr.write(text),
  });
}
