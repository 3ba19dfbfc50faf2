/** The agent: one on each GPU node. `--once --dry-run` prints the GPU resources it would publish and ends. */
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { errorText } from '#platform/log.ts';

/** V8 would let its nursery grow to 48 MB under load and never give it back; kept at its first size. */
setFlagsFromString('--semi-space-growth-factor=1');

const usage = 'usage: main.ts [--kubeconfig FILE] | --once --dry-run';

function readArguments() {
  try {
    return parseArgs({
      options: {
        once: { type: 'boolean' },
        'dry-run': { type: 'boolean' },
        kubeconfig: { type: 'string' },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n${usage}\n`);
    process.exit(2);
  }
}

const values = readArguments();
if (values.once && values['dry-run']) {
  const { dryRun } = await import('./dry-run.ts');
  process.exitCode = await dryRun({
    nodeName: process.env.NODE_NAME,
    write: (text) => void process.stdout.write(text),
    complain: (text) => void process.stderr.write(text),
  });
} else if (values.once || values['dry-run']) {
  process.stderr.write(`--once and --dry-run belong together\n${usage}\n`);
  process.exitCode = 2;
} else {
  const { run } = await import('./run.ts');
  await run(values.kubeconfig);
}
