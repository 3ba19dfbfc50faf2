/**
 * ./hack/test: runs the suites, each a list of steps; ends with `N passed, N failed`.
 *
 * A suite answers with how many of its checks passed and failed; a step that cannot run counts as one failure.
 */
import { parseArgs } from 'node:util';
import { type Sizes, suites } from './suites.ts';

const help = `usage: ./hack/test [NAME...] [--seeds N] [--requests N] [--minutes N] [--wakes N]
       [--runs N] [--real N] [--seed S]
suites: ${Object.keys(suites)
  .map((name) => `\n  ${name.padEnd(10)} ${suites[name]?.what}`)
  .join('')}
without a name: the gate (${Object.keys(suites)
  .filter((name) => suites[name]?.gate)
  .join(', ')})`;

/** Names of suites and the sizes. @throws Error that names a flag that is not known or not a number */
function parse(args: string[]): { named: string[]; sizes: Sizes } {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      seeds: { type: 'string' },
      requests: { type: 'string' },
      minutes: { type: 'string' },
      wakes: { type: 'string' },
      runs: { type: 'string' },
      real: { type: 'string' },
      seed: { type: 'string' },
    },
  });
  const size = (flag: keyof Sizes): number | undefined => {
    const text = values[flag];
    if (text === undefined) return undefined;
    if (!/^[1-9][0-9]{0,6}$/.test(text)) throw new Error(`--${flag} ${text}: a number from 1 to 9999999`);
    return Number(text);
  };
  return {
    named: positionals,
    sizes: {
      seeds: size('seeds'),
      requests: size('requests'),
      minutes: size('minutes'),
      wakes: size('wakes'),
      runs: size('runs'),
      real: size('real'),
      seed: size('seed'),
    },
  };
}

async function main(args: string[]): Promise<number> {
  if (args.includes('--help')) {
    console.log(help);
    return 0;
  }
  const { named, sizes } = parse(args);
  const unknown = named.filter((name) => !suites[name]);
  if (unknown.length > 0) {
    console.error(`./hack/test: no suite is called ${unknown.join(', ')}\n${help}`);
    return 2;
  }
  const chosen = named.length > 0 ? named : Object.keys(suites).filter((name) => suites[name]?.gate);
  let passed = 0;
  let failed = 0;
  for (const name of chosen) {
    const began = Date.now();
    console.log(`\n== ${name}: ${suites[name]?.what}`);
    const result = await suites[name]!.run(sizes, named.length === 0);
    passed += result.passed;
    failed += result.failed;
    console.log(
      `== ${name}: ${result.passed} passed, ${result.failed} failed, ${Math.round((Date.now() - began) / 1000)} s`,
    );
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`./hack/test: ${error instanceof Error ? error.message : String(error)}\n${help}`);
  process.exitCode = 2;
}
