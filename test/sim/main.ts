import { planFor } from './schedule.ts';
import { World } from './world.ts';

const first = Number(process.argv[2] ?? 1),
  n = Number(process.argv[3] ?? 1),
  show = process.argv[4] === 'show';
const t0 = performance.now();
let bad = 0,
  ev = 0;
const kinds: Record<string, number[]> = {};
for (let seed = first; seed < first + n; seed++) {
  const w = new World(planFor(seed), { timeline: show });
  const v = w.run();
  ev += w.host.decisions;
  if (show) console.log(w.timeline!.join('\n'));
  if (v) {
    bad++;
    (kinds[v.kind] ??= []).push(seed);
    if (bad < 12) console.log(seed, v.kind, v.text, Math.round(v.atMs));
  }
}
console.log(
  n,
  'seeds',
  bad,
  'bad',
  ((performance.now() - t0) / n).toFixed(1),
  'ms/seed',
  Math.round(ev / n),
  'decisions/seed',
);
for (const [k, s] of Object.entries(kinds)) console.log(k, s.length, s.slice(0, 8).join(' '));
