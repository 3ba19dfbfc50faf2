/** One node for one life: agent, hub, API server, the Jobs of both Models and their pods, each killed and started again as the cluster would. */
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { annotations, imagesFolder } from '#proto/names.ts';
import { gthreadFolder } from '#proto/weights.ts';
import { type Hub, startHub } from '../../hack/hub/hub.ts';
import { type ApiServer, createApiServer } from '../../hack/one-node/api-server.ts';
import { createOneNode, type OneNode, type Pod } from '../../hack/one-node/node.ts';
import { end, type Program, start, until } from '../../hack/one-node/programs.ts';
import { formFault, publishedFault, stagedBytes, stagedFault } from './bytes.ts';
import { ask, isRight, type Outcome, questions } from './clients.ts';
import { type Job, runJob } from './converting.ts';
import { engineHash, engineOptions, gpuOf, occupiedMiB, partOf } from './engines.ts';
import { readImages } from './images.ts';
import { type Kill, type ModelName, models, type Plan } from './plan.ts';
import { Timeline } from './timeline.ts';
import type { Upstream } from './upstream.ts';
import { listenToAgent, listenToLauncher } from './words.ts';

/** What all lives of one kind share. */
export interface Setting {
  /** Folder of the hub. */
  files: string;
  upstreams: Record<ModelName, Upstream>;
  commits: Record<ModelName, string>;
  /** Of a vLLM; null: the simulated engine. */
  vllmPython: string | null;
  /** PEM files of a certificate for 127.0.0.1. */
  certificate: { keyFile: string; certificateFile: string };
}

/** Of each file, so that a fetch takes half a second. */
const hubBytesPerSecond = 50_000_000;
/** A tmpfs, as on a node. */
const poolParent = '/dev/shm';
/** Between two looks at a watermark, ms. */
const watchMs = 2;
/** Turns end soon, and what runs is frozen soon, ms. */
const fairness = { minRuntimeMs: 200, maxWaitTimeMs: 200 };
const sleep = { idleTimeoutMs: 3_600_000, drainTimeoutMs: 300 };

export class World {
  readonly timeline = new Timeline();
  readonly outcomes: Outcome[] = [];
  readonly problems: string[] = [];
  readonly pods = new Map<ModelName, Pod>();
  readonly jobs = new Map<ModelName, Job>();
  readonly plan: Plan;
  readonly setting: Setting;
  node!: OneNode;
  hub!: Hub;
  #api!: ApiServer;
  #agent: Program | null = null;
  #isAgentUp = false;
  #stranger: Program | null = null;
  readonly #podModels = new Map<string, ModelName>();
  readonly #reference: Record<string, number[]>;
  readonly #looks = new Set<Promise<void>>();
  #isClosed = false;
  #closing: Promise<void> | null = null;

  /** @param reference the real engine's tokens by model and question; what is not there is taken from the first answer */
  constructor(plan: Plan, setting: Setting, reference: Record<string, number[]>) {
    this.plan = plan;
    this.setting = setting;
    this.#reference = reference;
  }

  async open(): Promise<void> {
    const { plan, setting } = this;
    const { keyFile, certificateFile } = setting.certificate;
    const pem = { key: readFileSync(keyFile, 'utf8'), cert: readFileSync(certificateFile, 'utf8') };
    this.#api = await createApiServer(pem);
    this.hub = await startHub({ files: setting.files });
    if (plan.kind === 'sim')
      this.hub.faults.add({ kind: 'slow', bytesPerSecond: hubBytesPerSecond, times: 0 });
    this.node = await createOneNode(gpuOf[plan.kind], {
      api: { server: this.#api, certificateFile },
      poolParent,
      onStart: (program, pod) => this.#listen(program, pod),
    });
    if (plan.kind === 'vllm') {
      const mib = occupiedMiB(this.node.capacityBytes());
      this.#stranger = start('gpu-sim-hold', [this.node.uuids[0]!, String(mib)], this.node.env);
      await until('the stranger to hold memory', () => this.node.usedBytes() >= mib * 2 ** 20);
    }
    for (const model of models) {
      this.timeline.on(`staging ${model}`, () => void this.#watchStaging(model));
      this.timeline.on(`engine killed ${model}`, () => this.#lookAtImages());
    }
    this.#keepAgent().catch((error: unknown) => this.problems.push(String(error)));
  }

  #listen(program: Program, pod: { podUid: string; model: string } | null): void {
    if (pod) {
      this.#podModels.set(pod.podUid, pod.model as ModelName);
      listenToLauncher(program, this.timeline, pod.model as ModelName);
      return;
    }
    this.#agent = program;
    listenToAgent(program, this.timeline, (podUid) => this.#podModels.get(podUid));
  }

  /** Sees when bytes begin to come into the pool, to some ms. */
  async #watchStaging(model: ModelName): Promise<void> {
    const agent = this.#agent;
    while (stagedBytes(this.stagedOf(model)) === 0) {
      if (this.#isClosed || agent !== this.#agent) return;
      await delay(watchMs);
    }
    this.timeline.see(`flows ${model}`, `at ${stagedBytes(this.stagedOf(model))} bytes`);
  }

  /** Starts it, and again after each kill, as the cluster would. */
  async #keepAgent(): Promise<void> {
    while (!this.#isClosed) {
      try {
        await this.node.startAgent();
        this.#isAgentUp = true;
        this.timeline.see('agent runs', `pid ${this.#agent!.child.pid}`);
      } catch (error) {
        // Killed as it starts.
        if (this.#agent?.child.signalCode !== 'SIGKILL') throw error;
      }
      await this.#agent!.ended;
      this.#isAgentUp = false;
      if (this.#isClosed) return;
      if (this.#agent!.child.signalCode !== 'SIGKILL') throw new Error('the agent ended by itself');
      this.#lookAtImages();
      await this.checkPool();
      await delay(this.plan.restartMs);
    }
  }

  async agentRuns(): Promise<void> {
    await until('the agent to run', () => this.#isAgentUp);
  }

  /** Its Job to its success, its bytes compared, its pod. */
  async bring(model: ModelName): Promise<void> {
    const job = runJob({
      ...this.#jobOf(model),
      afterKill: () => this.checkDisk(model),
    });
    this.jobs.set(model, job);
    await job.done;
    await this.checkDisk(model);
    if (!this.#isClosed) await this.#addPod(model);
  }

  #jobOf(model: ModelName) {
    const { restartMs, isLockWaitedFor } = this.plan;
    return {
      model,
      modelsDir: this.node.modelsDir,
      endpoint: this.hub.url,
      timeline: this.timeline,
      restartMs,
      isLockWaitedFor,
    };
  }

  /** The Job once more, as after the Model was deleted and made again. */
  async bringAgain(model: ModelName): Promise<void> {
    await runJob({ ...this.#jobOf(model), afterKill: async () => {} }).done;
  }

  formOf(model: ModelName): string {
    return join(this.node.modelsDir, gthreadFolder(`org/${model}`, this.setting.commits[model]));
  }
  folderOf(model: ModelName): string {
    return join(this.node.modelsDir, `org--${model}`, this.setting.commits[model]);
  }
  stagedOf(model: ModelName): string {
    return join(this.node.poolDir, 'staged', `org--${model}@${this.setting.commits[model]}`);
  }

  async #addPod(model: ModelName): Promise<void> {
    const { plan, setting, node } = this;
    const folder = this.folderOf(model);
    const form = this.formOf(model);
    const place = { plan, model, folder, form, vllmPython: setting.vllmPython };
    const pod = await node.addPod(model, {
      ...engineOptions(place, node.capacityBytes()),
      settings: { fairness, sleep },
      annotations: {
        [annotations.engineHash]: engineHash(model),
        [annotations.weights]: gthreadFolder(`org/${model}`, setting.commits[model]),
        ...(plan.pinned[model] && { [annotations.weightsPinned]: 'true' }),
      },
    });
    this.pods.set(model, pod);
    this.timeline.see(`pod ${model}`, pod.podUid);
  }

  /** A folder that exists is whole, whenever one looks; one that is not there is no fault. */
  async checkDisk(model: ModelName): Promise<void> {
    const upstream = this.setting.upstreams[model];
    for (const [folder, faultOf] of [
      [this.folderOf(model), publishedFault],
      [this.formOf(model), formFault],
    ] as const)
      if (existsSync(folder)) await this.#check(() => faultOf(upstream, folder));
  }

  async checkPool(): Promise<void> {
    for (const model of models)
      await this.#check(() => stagedFault(this.stagedOf(model), this.formOf(model)));
  }

  /** Beside all else, as engines may read them at any time: that delays nobody's next start. */
  #lookAtImages(): void {
    const look = this.#readImages().then(() => void this.#looks.delete(look));
    this.#looks.add(look);
  }

  /** @returns the paths of those that are whole */
  async #readImages(): Promise<string[]> {
    const { vllmPython } = this.setting;
    if (vllmPython === null || this.#isClosed) return [];
    try {
      const { whole, damaged } = await readImages(vllmPython, this.node.poolDir);
      this.timeline.see('images', `${whole.length} whole, ${damaged.length} damaged`);
      this.problems.push(...damaged.map((fault) => `an image is not whole: ${fault}`));
      return whole;
    } catch (error) {
      this.problems.push(`images could not be read: ${error}`);
      return [];
    }
  }

  /** At rest: all are whole, and each real engine's is there for the next one. */
  async checkImages(): Promise<void> {
    await Promise.all(this.#looks);
    if (this.plan.kind === 'sim') return;
    const folderOf = (model: ModelName) => join('images', imagesFolder('default', engineHash(model)));
    const isLinked = (model: ModelName) => {
      const folder = join(this.node.poolDir, folderOf(model));
      return existsSync(folder) && readdirSync(folder).some((name) => name.endsWith('.image'));
    };
    await until('an image of each engine to be linked', () => models.every(isLinked));
    const whole = await this.#readImages();
    for (const model of models)
      if (!whole.some((path) => path.startsWith(`${folderOf(model)}/`)))
        this.problems.push(`no whole image of ${model} was found`);
  }

  async #check(faultOf: () => Promise<string | null>): Promise<void> {
    const fault = await faultOf().catch(String);
    if (fault) this.problems.push(fault);
  }

  /** kill -9, now. @returns false when there is no such process */
  strike({ victim, model, part }: Kill): boolean {
    if (victim === 'converter') return this.jobs.get(model)?.kill() ?? false;
    return victim === 'agent' ? this.#killAgent() : this.#killEngine(model, part);
  }

  #killAgent(): boolean {
    const { child } = this.#agent!;
    return child.signalCode === null && child.kill('SIGKILL');
  }

  #killEngine(model: ModelName, part: Kill['part']): boolean {
    const started = this.timeline.last(`started ${model}`);
    const ended = this.timeline.last(`ended ${model}`);
    if (!started || (ended && ended.atMs > started.atMs)) return false;
    try {
      const pid = partOf(Number(started.more), part);
      // What it frees may be seen before this process goes on.
      const atMs = this.timeline.nowMs();
      process.kill(pid, 'SIGKILL');
      this.timeline.see(`engine killed ${model}`, '', atMs);
      return true;
    } catch {
      return false;
    }
  }

  /** Three questions at once, two of them as streams; each one's end is noted. */
  async askAll(model: ModelName, msMax: number): Promise<Outcome[]> {
    const { kind } = this.plan;
    const asked = questions.map((question, n) =>
      this.askOne(model, {
        question: kind === 'sim' ? `nonce-${randomBytes(6).toString('hex')}` : question,
        stream: n > 0,
        msMax,
      }),
    );
    return Promise.all(asked);
  }

  async askOne(
    model: ModelName,
    { question, stream, msMax }: { question: string; stream: boolean; msMax: number },
  ): Promise<Outcome> {
    const { kind } = this.plan;
    const outcome = await ask({
      kind,
      url: this.pods.get(model)!.url,
      model,
      question,
      stream,
      msMax,
      nowMs: () => this.timeline.nowMs(),
      onFirst: () => this.timeline.see(`first ${model}`),
    });
    const key = `${model} ${question}`;
    if (kind === 'vllm' && this.plan.kills.length === 0 && outcome.status === 200)
      this.#reference[key] ??= outcome.ids;
    const right = isRight(outcome, kind, this.#reference);
    this.timeline.see(
      `answered ${model}`,
      `${outcome.status}${right ? '' : ` ${outcome.refused ?? ''} ${outcome.cut ? 'cut ' : ''}${outcome.text.slice(0, 200)}`}`,
    );
    this.outcomes.push(outcome);
    return outcome;
  }

  isRight(outcome: Outcome): boolean {
    return isRight(outcome, this.plan.kind, this.#reference);
  }

  /** @param logFile what agent, launchers and sidecars said is added to it */
  close(logFile?: string): Promise<void> {
    this.#closing ??= this.#close(logFile);
    return this.#closing;
  }

  async #close(logFile?: string): Promise<void> {
    this.#isClosed = true;
    for (const job of this.jobs.values()) await job.close();
    await Promise.all(this.#looks);
    if (this.#agent) await end(this.#agent, 'SIGKILL');
    if (this.#stranger) await end(this.#stranger, 'SIGKILL');
    await this.node?.close(logFile);
    await this.hub?.close();
    this.#api?.close();
  }
}
