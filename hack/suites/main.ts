/**
 * ./hack/test: runs the suites, each a list of steps; ends with `N passed, N failed`.
 *
 * A suite answers with how many of its checks passed and failed; a step that cannot run counts as one failure.
 */
import { suites } from './suites.ts';

const help = `usage: ./hack/test [NAME...] [--seeds N] [--requests N]
suites: ${Object.keys(suites)
  .map((name) => `\n  ${name.padEnd(10)} ${suites[name]?.what}`)
  .join('')}
without a name: the gate (${Object.keys(suites)
  .filter((name) => suites[name]?.gate)
  .join(', ')})`;

async function main(args: string[]): Promise<number> {
  if (args.includes('--help')) {
    console.log(help);
    return 0;
  }
  const named = args.filter((arg, at) => !arg.startsWith('--') && !args[at - 1]?.startsWith('--'));
  const unknown = named.filter((name) => !suites[name]);
  if (unknown.length > 0) {
    console.error(`./hack/test: no suite is called ${unknown.join(', ')}\n${help}`);
    return 2;
  }
  const chosen = named.length > 0 ? named : Object.keys(suites).filter((name) => suites[name]?.gate);
  const flags = args.filter((arg) => !named.includes(arg));
  let passed = 0;
  let failed = 0;
  for (const name of chosen) {
    const began = Date.now();
    console.log(`\n== ${name}: ${suites[name]?.what}`);
    const result = await suites[name]!.run(flags);
    passed += result.passed;
    failed += result.failed;
    console.log(
      `== ${name}: ${result.passed} passed, ${result.failed} failed, ${Math.round((Date.now() - began) / 1000)} s`,
    );
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
