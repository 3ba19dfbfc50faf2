/** One life: both Models are brought, served in turns and killed as the plan says, then all must come to rest, and be right. */
import { appendFileSync } from 'node:fs';
import { until } from '../../hack/one-node/programs.ts';
import { leftovers, stagedState } from './bytes.ts';
import type { Outcome } from './clients.ts';
import { type Fired, type Killing, startKilling, type Usual, usualOf } from './killing.ts';
import { type Kind, type ModelName, models, type Plan, type Round } from './plan.ts';
import { type Setting, World } from './world.ts';

export interface LifeOptions {
  plan: Plan;
  setting: Setting;
  /** Of the life without kills; null: this is that one. */
  usual: Usual | null;
  /** Tokens of a real engine by model and question; the life without kills fills it. */
  reference: Record<string, number[]>;
  /** Takes what the programs of a life that failed have said. */
  logFile: string;
}

export interface LifeResult {
  problems: string[];
  fired: Fired[];
  requests: number;
  /** Requests that a killed engine took with it. */
  lost: number;
  /** From the last kill until both had served again, ms; null: no kill struck. */
  restMs: number | null;
  usual: Usual | null;
  timeline: string;
}

/** Boots that may be under way or wait: one for each Model, and one for each kill. */
const bootsMax = 5;
/** Of one boot at most, on busy cores, ms. */
const bootMs: Record<Kind, number> = { sim: 6_000, vllm: 150_000 };
/** max(T, F) + D + S of docs/arbiter.md with the settings of these Models (world.ts), ms. */
const turnMs: Record<Kind, number> = { sim: 4_000, vllm: 15_000 };
/** Before a boot that failed twice is tried again: 4 s the agent, 4 s the launcher, 5 s a lease that was lost, ms. */
const pauseMs = 13_000;
/** docs/arbiter.md, the bound: 60 s with boots, n turns, and each boot with its own; ms. */
const boundMs = (kind: Kind): number =>
  60_000 + 2 * turnMs[kind] + bootsMax * (bootMs[kind] + turnMs[kind]) + pauseMs;
/** Books and driver: head room of the one awake, and what a claim is rounded to, bytes; a real engine takes less than it reserves. */
const booksOff: Record<Kind, number> = { sim: 300 * 2 ** 20, vllm: 1_024 * 2 ** 20 };
/** What the driver counts beside pods and no engine has, bytes: figures in MiB, added up. */
const strangeBytes = 64 * 2 ** 20;
/** Memory that grows free under another's boot because its engine was killed just then: the driver's doing, not ours, ms. */
const grewAfterKillMs = 5_000;

class Life {
  readonly world: World;
  readonly #options: LifeOptions;
  #killing: Killing | null = null;

  constructor(options: LifeOptions) {
    this.#options = options;
    this.world = new World(options.plan, options.setting, options.reference);
  }

  async run(): Promise<LifeResult> {
    const { world } = this;
    const { plan, usual, logFile } = this.#options;
    let fired: Fired[] = [];
    let restMs: number | null = null;
    try {
      await world.open();
      if (usual) this.#killing = startKilling(plan, world.timeline, usual, (kill) => world.strike(kill));
      await Promise.all(models.map((model) => this.#begin(model)));
      for (const round of plan.rounds) await this.#round(round);
      fired = (await this.#killing?.finish()) ?? [];
      restMs = await this.#rest(fired);
      await this.#judge();
    } catch (error) {
      world.problems.push(error instanceof Error ? error.message : String(error));
    }
    this.#judgeRequests();
    const isBad = world.problems.length > 0;
    if (isBad) appendFileSync(logFile, `${world.timeline.text()}\n`);
    await world.close(isBad ? logFile : undefined);
    return {
      problems: world.problems,
      fired,
      requests: world.outcomes.length,
      lost: world.outcomes.filter((outcome) => !world.isRight(outcome)).length,
      restMs,
      usual: usual ?? (isBad ? null : usualOf(world.timeline, models)),
      timeline: world.timeline.text(),
    };
  }

  /** Its files, its pod, and clients that wait for its first boot. */
  async #begin(model: ModelName): Promise<void> {
    await this.world.bring(model);
    await this.world.askAll(model, boundMs(this.#options.plan.kind));
  }

  async #round(round: Round): Promise<void> {
    const asked = round === 'both' ? models : [round];
    this.world.timeline.see('round', round);
    await Promise.all(asked.map((model) => this.world.askAll(model, boundMs(this.#options.plan.kind))));
  }

  /** Until each has served a request after the last kill. @returns how long that took, ms. @throws Error when one is stuck */
  async #rest(fired: readonly Fired[]): Promise<number | null> {
    const { world } = this;
    const msMax = boundMs(this.#options.plan.kind);
    await world.agentRuns();
    const struck = fired.flatMap(({ atMs, hit }) => (atMs === null || hit === 'nobody' ? [] : [atMs]));
    const since = struck.length > 0 ? Math.max(...struck) : world.timeline.nowMs();
    const serves = async (model: ModelName): Promise<void> => {
      for (;;) {
        const outcomes = await world.askAll(model, msMax);
        if (outcomes.every((outcome) => world.isRight(outcome))) return;
        if (world.timeline.nowMs() - since > msMax)
          throw new Error(`${model} does not serve ${msMax} ms after the last kill`);
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    };
    await Promise.all(models.map(serves));
    world.timeline.see('both have served');
    return struck.length > 0 ? world.timeline.nowMs() - since : null;
  }

  /** Bytes, leftovers, books, the GPU's own complaints, and the Job once more. */
  async #judge(): Promise<void> {
    const { world } = this;
    const { plan } = this.#options;
    for (const model of models) {
      await world.checkDisk(model);
      if (plan.pinned[model] && plan.kind === 'sim')
        await until(
          `${model}'s pinned weights to be staged`,
          async () => (await stagedState(world.stagedOf(model))) === 'whole',
        );
    }
    await world.checkPool();
    await world.checkImages();
    await this.#books();
    this.#violations();
    const before = JSON.stringify(world.hub.stats().models);
    await Promise.all(models.map((model) => world.bringAgain(model)));
    if (JSON.stringify(world.hub.stats().models) !== before)
      world.problems.push('a Job downloaded again what was there');
    const { modelsDir, poolDir } = world.node;
    const uids = [...world.pods.values()].map(({ podUid }) => podUid);
    let left: string[] = [];
    await until('nothing to be left over', async () => {
      left = await leftovers(modelsDir, poolDir, uids);
      return left.length === 0;
    }).catch((error: Error) => world.problems.push(`${error.message}: ${left.join(', ')}`));
  }

  async #books(): Promise<void> {
    const { node } = this.world;
    const { kind } = this.#options.plan;
    let said = '';
    await until('books and driver to agree', async () => {
      const text = await node.metrics();
      const of = (name: string): number =>
        Number(
          new RegExp(`^gthread_agent_ledger_bytes\\{[^}]*kind="${name}"\\} (\\d+)`, 'm').exec(text)?.[1],
        );
      const held = node.capacityBytes() - of('room');
      const used = node.usedBytes();
      said = `held ${held}, used ${used}, foreign ${of('foreign')}`;
      return Math.abs(held - used) < booksOff[kind] && (kind === 'vllm' || of('foreign') < strangeBytes);
    }).catch((error: Error) => this.world.problems.push(`${error.message}: ${said}`));
  }

  #violations(): void {
    const { world } = this;
    const began = Date.now() - world.timeline.nowMs();
    const killed = models.flatMap((model) => world.timeline.times(`engine killed ${model}`));
    for (const line of world.node.violations()) {
      const { kind, time } = JSON.parse(line) as { kind: string; time: number };
      const atMs = time * 1_000 - began;
      const isOurs =
        kind === 'grew-while-boot' && killed.some((at) => atMs > at && atMs - at < grewAfterKillMs);
      if (!isOurs) world.problems.push(`the GPU saw ${line}`);
    }
    for (const token of world.node.tokens())
      if (!token.awake) world.problems.push(`a token without its bytes: ${JSON.stringify(token)}`);
  }

  /** Whatever was not answered was cut by the kill of its own engine, and said so in a documented way. */
  #judgeRequests(): void {
    for (const outcome of this.world.outcomes) {
      if (this.world.isRight(outcome)) continue;
      const { status, cut, model, sentMs, endedMs, refused } = outcome;
      const what = `a request to ${model} (sent at ${(sentMs / 1_000).toFixed(3)} s) was answered ${status} ${refused ?? ''} ${outcome.text.slice(0, 300)} ${outcome.ids.join()}`;
      if (status === 200 && !cut) this.world.problems.push(`wrong: ${what}`);
      else if (!this.#isExcused(outcome)) this.world.problems.push(`lost without its engine's end: ${what}`);
      else if (!cut && ![502, 503].includes(status) && !this.#isDying(status, refused))
        this.world.problems.push(`an undocumented end at ${endedMs}: ${what}`);
    }
  }

  /** A vLLM of which a part was killed answers 500 by itself until its server has ended. */
  #isDying(status: number, refused: string | null): boolean {
    return this.#options.plan.kind === 'vllm' && status === 500 && refused === null;
  }

  /** Its engine was killed and not ready again while the request lived. */
  #isExcused({ model, sentMs, endedMs }: Outcome): boolean {
    const { timeline } = this.world;
    const readies = timeline.times(`ready ${model}`);
    return timeline.times(`engine killed ${model}`).some((at) => {
      const readyAt = readies.find((time) => time > at) ?? Number.POSITIVE_INFINITY;
      return at <= endedMs && readyAt >= sentMs;
    });
  }
}

let running: Life | null = null;

/** One at a time. */
export async function live(options: LifeOptions): Promise<LifeResult> {
  running = new Life(options);
  try {
    return await running.run();
  } finally {
    running = null;
  }
}

/** Ends the programs of the life that is being lived, if any. */
export async function abandon(): Promise<void> {
  await running?.world.close();
}
