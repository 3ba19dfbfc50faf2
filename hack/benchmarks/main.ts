/** ./hack/bench NAME: one benchmark, side by side with its peers in the same run; the last line is `result: …`. */
import { type Benchmark, benchmarks } from './benchmarks.ts';

function describe(name: string, { what, options }: Benchmark): string {
  return [`  ${name.padEnd(10)} ${what}`, ...options.map((option) => `${' '.repeat(13)}${option}`)].join(
    '\n',
  );
}

const help = `usage: ./hack/bench NAME [FLAG...]
benchmarks:
${Object.entries(benchmarks)
  .map(([name, benchmark]) => describe(name, benchmark))
  .join('\n')}`;

async function main(args: string[]): Promise<number> {
  const [name, ...flags] = args;
  if (name === '--help' || flags.includes('--help')) {
    console.log(help);
    return 0;
  }
  const benchmark = name === undefined ? undefined : benchmarks[name];
  if (!benchmark) {
    console.error(name === undefined ? help : `./hack/bench: no benchmark is called ${name}\n${help}`);
    return 2;
  }
  try {
    return await benchmark.run(flags);
  } catch (error) {
    console.error(`./hack/bench ${name}: ${error instanceof Error ? error.message : String(error)}`);
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
