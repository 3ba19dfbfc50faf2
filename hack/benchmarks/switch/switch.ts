/** ./hack/bench switch: two models on one slot, as processes, beside llmux; its tables and the result line. */
import { parseArgs } from 'node:util';
import { StreamClients } from '../../clients/chat-stream.ts';
import { median, percentile } from '../policy/figures.ts';
import { installLlmux, llmuxSlot } from './llmux-slot.ts';
import { defaultBounds, ourSlot } from './our-slot.ts';
import { isInOwnNetwork, runInOwnNetwork } from './own-network.ts';
import { type Round, visitSlot, type Waited } from './scenarios.ts';
import type { AtEnd, Bounds, Slot } from './slot.ts';

export const switchOptions = ['--rounds N    3 by default, interleaved; a round takes about 3 minutes'];

const roundsDefault = 3;
const roundsMax = 50;
/** The same with turns and patience of a second: who waits behind a stream waits for a freeze, not for its end. */
const brief: Bounds = { minRuntimeMs: 1_000, maxWaitTimeMs: 1_000, drainTimeoutMs: 1_000 };

interface Measured {
  slot: Slot;
  rounds: Round[];
}

const seconds = (ms: number): string => (ms / 1_000).toFixed(2);
const of = ({ rounds }: Measured, pick: (round: Round) => number): number => median(rounds.map(pick));
const all = ({ rounds }: Measured, pick: (round: Round) => number[]): number[] =>
  rounds.flatMap(pick).sort((a, b) => a - b);

/** How much of the promised time a wait took, the worst of all rounds; null where nothing is promised. */
function worst({ rounds }: Measured, pick: (round: Round) => Waited): number | null {
  const shares = rounds.map(pick).map(({ waitMs, boundMs }) => (boundMs === null ? null : waitMs / boundMs));
  return shares.some((share) => share === null) ? null : Math.max(...(shares as number[]));
}

const within = (share: number | null): string =>
  share === null ? 'no bound' : `${share.toFixed(2)} of its bound`;

const columns = [
  '',
  'idle switch s p50 (max)',
  'ABAB × 20 s / switches',
  'its waits s p50 / max',
  'asked behind a 10 s stream s',
  'the stream ended after s',
  'late call to the streaming model s',
  'one waiter against 15 s of steady load s',
  'load served',
];

function row(measured: Measured): string[] {
  const { slot, rounds } = measured;
  const idle = all(measured, ({ idleMs }) => idleMs);
  const waits = all(measured, ({ alternating }) => alternating.waitsMs);
  const switches = rounds.map(({ alternating }) => alternating.switches).join(',');
  const behind = worst(measured, (round) => round.behindStream);
  const steady = worst(measured, (round) => round.steady);
  return [
    slot.name,
    `${seconds(percentile(idle, 0.5))} (${seconds(idle.at(-1)!)})`,
    `${seconds(of(measured, (round) => round.alternating.totalMs))} / ${switches}`,
    `${seconds(percentile(waits, 0.5))} / ${seconds(waits.at(-1)!)}`,
    `${seconds(of(measured, (round) => round.behindStream.waitMs))}, ${within(behind)}`,
    seconds(of(measured, (round) => round.behindStream.streamEndMs)),
    seconds(of(measured, (round) => round.behindStream.lateMs)),
    `${seconds(of(measured, (round) => round.steady.waitMs))}, ${within(steady)}`,
    String(of(measured, (round) => round.steady.served)),
  ];
}

function table(rows: string[][]): string {
  const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
}

/** The worst share of the bound over slots that promise one. */
const worstOf = (measured: Measured[], pick: (round: Round) => Waited): number =>
  Math.max(...measured.map((each) => worst(each, pick) ?? 0));

function result(ours: Measured, briefly: Measured, peer: Measured): string {
  const total = (measured: Measured) => of(measured, (round) => round.alternating.totalMs);
  const idle = (measured: Measured) => median(all(measured, ({ idleMs }) => idleMs));
  // Round by round: both met the same machine.
  const ratio = median(
    ours.rounds.map((round, at) => round.alternating.totalMs / peer.rounds[at]!.alternating.totalMs),
  );
  const kept = [ours, briefly].flatMap(({ rounds }) => rounds.map((round) => round.kept));
  const sum = (pick: (each: (typeof kept)[number]) => number) =>
    kept.reduce((before, each) => before + pick(each), 0);
  return [
    'result:',
    `abab_vs_llmux=${ratio.toFixed(3)}`,
    `abab_s=${seconds(total(ours))}`,
    `abab_llmux_s=${seconds(total(peer))}`,
    `abab_switches=${Math.max(...ours.rounds.map(({ alternating }) => alternating.switches))}`,
    `idle_vs_llmux=${(idle(ours) / idle(peer)).toFixed(3)}`,
    `idle_switch_s=${(idle(ours) / 1_000).toFixed(3)}`,
    `idle_switch_llmux_s=${(idle(peer) / 1_000).toFixed(3)}`,
    `stream_waiter_vs_bound=${worstOf([ours, briefly], (round) => round.behindStream).toFixed(3)}`,
    `steady_waiter_vs_bound=${worstOf([ours, briefly], (round) => round.steady).toFixed(3)}`,
    `streams_whole=${sum(({ whole }) => whole)}/${sum(({ answers }) => answers)}`,
    `overcommits=${[ours, briefly].flatMap(({ slot }) => slot.violations()).length}`,
  ].join(' ');
}

/** Each round visits every slot, and the next round begins with another one. */
async function measure(slots: Slot[], rounds: number): Promise<Measured[]> {
  const measured = slots.map((slot): Measured => ({ slot, rounds: [] }));
  const streams = new StreamClients();
  for (let round = 0; round < rounds; round++) {
    for (const at of slots.keys()) {
      const each = measured[(at + round) % slots.length]!;
      const visited = await visitSlot(each.slot, streams);
      each.rounds.push(visited);
      console.log(`round ${round + 1}, ${row({ slot: each.slot, rounds: [visited] }).join(' | ')}`);
    }
  }
  await streams.close();
  return measured;
}

/** @returns 1 when a stream of ours was not whole, memory was over-committed or a wait was beyond its bound */
async function run(rounds: number): Promise<number> {
  const closers: (() => Promise<void>)[] = [];
  const atEnd: AtEnd = (each) => void closers.push(each);
  const close = async (): Promise<void> => {
    for (const each of closers.splice(0).reverse()) await each();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void close().finally(() => process.exit(1)));
  try {
    const slots = [
      await ourSlot('GreenThread', defaultBounds, atEnd),
      await ourSlot('GreenThread, turns of 1 s', brief, atEnd),
      await llmuxSlot(atEnd),
    ];
    const measured = await measure(slots, rounds);
    const [ours, briefly, peer] = measured as [Measured, Measured, Measured];
    console.log(`\n${table(measured.map(row))}\n`);
    const faults = measured.flatMap((each) => each.rounds.flatMap(({ kept }) => kept.faults));
    const violations = measured.flatMap(({ slot }) =>
      slot.violations().map((line) => `${slot.name}: ${line}`),
    );
    for (const line of [...faults, ...violations]) console.log(line);
    console.log(result(ours, briefly, peer));
    const late = Math.max(
      worstOf([ours, briefly], (round) => round.behindStream),
      worstOf([ours, briefly], (round) => round.steady),
    );
    const broken = [ours, briefly].some(
      ({ slot, rounds: visited }) =>
        slot.violations().length > 0 || visited.some(({ kept }) => kept.faults.length > 0),
    );
    return broken || late > 1 ? 1 : 0;
  } finally {
    await close();
  }
}

export async function switching(flags: string[]): Promise<number> {
  const { values } = parseArgs({ args: flags, options: { rounds: { type: 'string' } } });
  const rounds = Number(values.rounds ?? roundsDefault);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > roundsMax)
    throw new Error(`--rounds is a number from 1 to ${roundsMax}, not ${values.rounds}`);
  if (process.getuid?.() !== 0) throw new Error('this needs root: namespaces and control groups');
  if (isInOwnNetwork()) return run(rounds);
  await installLlmux();
  return runInOwnNetwork();
}
