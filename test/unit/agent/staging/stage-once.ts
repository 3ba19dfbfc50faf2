/** One staging as a process of its own, to be killed: `stage-once.ts FORM STAGED`. Prints `begun`, then how it ended. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { startStaging } from '../../../../agent/act/staging/stage.ts';
import { createReader } from '../../../../agent/act/staging/start-reader.ts';
import { decodeManifest } from '../../../../proto/weights.ts';

const [formFolder, stagedFolder] = process.argv.slice(2) as [string, string];
const manifest = decodeManifest(readFileSync(join(formFolder, 'manifest.pb')));
const reader = createReader();
const run = startStaging({ formFolder, stagedFolder, manifest, reader });
console.log('begun');
const keepAlive = setInterval(() => {}, 1_000);
console.log((await run.ended).type);
clearInterval(keepAlive);
reader.close();
