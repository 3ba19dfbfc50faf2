/**
 * Run on a node: `node token-audit.ts BYTES-OF-EACH-MODEL UUID…` reads the GPUs' token logs, `{"name": bytes}` first, and prints
 * {"tokens", "faults"}: how many tokens were said, and the first lines of those that were said asleep or without their bytes.
 */
import { createReadStream, existsSync } from 'node:fs';
import { createInterface } from 'node:readline';

const faultsShown = 20;
const shareMin = 0.9;
const [sizes, ...uuids] = process.argv.slice(2);
const needs = JSON.parse(sizes!) as Record<string, number>;
let tokens = 0;
const faults: string[] = [];

for (const uuid of uuids) {
  for (const file of [`/run/gpu-sim/${uuid}/tokens.log.1`, `/run/gpu-sim/${uuid}/tokens.log`]) {
    if (!existsSync(file)) continue;
    for await (const line of createInterface({ input: createReadStream(file) })) {
      // The log that starts anew may begin and end in the middle of a line.
      if (!line.startsWith('{') || !line.endsWith('}')) continue;
      const { host, awake, bytes } = JSON.parse(line) as { host: string; awake: boolean; bytes: number };
      const need = Object.entries(needs).find(([model]) => host.startsWith(`${model}-`))?.[1];
      if (need === undefined) continue;
      tokens++;
      if ((!awake || bytes < need * shareMin) && faults.length < faultsShown) faults.push(line);
    }
  }
}
console.log(JSON.stringify({ tokens, faults }));
