/**
 * One running agent: the loop, what feeds it and what carries out its effects. It keeps nothing on disk that it needs to go
 * on: killed at any moment, the next one learns all from sidecars, launchers, engines and the GPUs.
 */
import { Registry } from 'prom-client';
import type { GpuOccupant } from '#api/gpu.ts';
import type { KubernetesClient } from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';
import { createCarrier } from './act/carry-out.ts';
import { createReporter } from './act/report.ts';
import { type Cluster, joinCluster } from './cluster.ts';
import type { ArbiterEffect, ArbiterEvent } from './decide/arbiter/words.ts';
import type { Environment } from './decide/environment.ts';
import { withLostFiles } from './decide/staging/lost-files.ts';
import { type GpuRounds, startGpuRounds } from './gpu-rounds.ts';
import { createLoop, type Loop } from './loop.ts';
import { createMemory, type Memory } from './memory.ts';
import { type ArbiterMetrics, createArbiterMetrics } from './metrics/arbiter.ts';
import { registerHostMetrics } from './metrics/host.ts';
import { type Books, registerLedgerMetrics } from './metrics/ledger.ts';
import { type MetricsServer, serveMetrics } from './metrics/server.ts';
import type { RunSmi } from './observe/nvidia-smi/run.ts';
import type { Owner } from './observe/process-pods.ts';
import { type NodePods, serveNodePods } from './pods.ts';
import { type Staging, startStaging } from './staging.ts';

/** The loop hears something at least this often: what has no timer of its own is not forgotten, ms. */
const heartbeatMs = 5_000;
/** A loop that handled nothing for this long hangs, ms. */
const silenceMsMax = 60_000;

/** The arbiter as the loop uses it. */
export interface Arbiter<State> {
  /** @param canary each boot and wake is followed by a canary's question */
  initial(startedAtMs: number, canary: boolean): State;
  decide(state: State, event: ArbiterEvent, effects: ArbiterEffect[]): { state: State };
  ledger(state: State): readonly Books[];
  /** By GPU UUID. @param wallClock monotonic ms as wall clock, RFC 3339 */
  occupants(state: State, wallClock: (monotonicMs: number) => string): Record<string, GpuOccupant[]>;
}

export interface AgentParts<State> {
  environment: Environment;
  arbiter: Arbiter<State>;
  connect(): Promise<KubernetesClient>;
  run: RunSmi;
  /** To which pod a process belongs; by its control group unless given. */
  owner?: (pid: number) => Promise<Owner>;
  log: Log;
}

export interface RunningAgent {
  metricsPort: number;
  /** Ends the agent and nothing else: engines, sidecars and launchers go on. */
  stop(): Promise<void>;
}

/** The rooms of one agent; each is set before the loop hears its first event. */
interface Rooms<State> {
  loop: Loop<State>;
  pods: NodePods;
  gpus: GpuRounds;
  memory: Memory;
  metrics: ArbiterMetrics;
  staging: Staging;
  explain(effect: Explain): void;
  cluster?: Cluster;
}

type Explain = Extract<ArbiterEffect, { type: 'explain' }>;

const nowMs = (): number => performance.now();

/** By one offset for the agent's life, in whole seconds: the same moment always reads the same. */
function wallClock(): (monotonicMs: number) => string {
  const offsetMs = Date.now() - nowMs();
  return (ms) => new Date(offsetMs + ms).toISOString().replace(/\.\d+Z$/, 'Z');
}

const reporterOf = <State>(rooms: Rooms<State>, { environment, log }: AgentParts<State>) =>
  createReporter({
    node: environment.node,
    pod: (podUid) => rooms.pods.reference(podUid),
    isListed: (podUid) => rooms.pods.fact(podUid) !== undefined,
    client: () => rooms.cluster?.client() ?? null,
    log,
    nowMs,
  });

function loopOf<State>(rooms: Rooms<State>, parts: AgentParts<State>): Loop<State> {
  const { arbiter, environment, log } = parts;
  const { explain } = rooms;
  const carry = createCarrier({
    toSidecar: (podUid, message) => rooms.pods.channel(podUid)?.sidecar.send(message) ?? false,
    toLauncher: (podUid, message) => rooms.pods.channel(podUid)?.launcher.send(message) ?? false,
    engine: (podUid) => rooms.pods.channel(podUid)?.engine ?? null,
    wakeSent: (podUid) => rooms.metrics.wakeSent(podUid, nowMs()),
    measure: () => rooms.gpus.measure(),
    remember: (effect) => rooms.memory.keep(effect, rooms.pods.fact(effect.podUid)),
    explain,
    post: (event) => rooms.loop.post(event),
    nowMs,
  });
  return createLoop<State>({
    initial: arbiter.initial(nowMs(), environment.canary),
    decide(state, event, effects) {
      rooms.metrics.heard(event);
      rooms.staging.heard(event);
      return arbiter.decide(state, event, effects);
    },
    carryOut(effect, atMs) {
      rooms.metrics.did(effect, atMs);
      if (effect.type === 'grant') rooms.staging.granted(effect.podUid);
      if (effect.type !== 'explain' && effect.type !== 'measure')
        log.debug('effect', { effect: effect.type, podUid: effect.podUid });
      carry(effect);
    },
    stepped(event, effects) {
      if (effects.length > 0 || event.type === 'pods') rooms.gpus.changed();
    },
    nowMs,
    log,
  });
}

function gpusOf<State>(rooms: Rooms<State>, parts: AgentParts<State>, registry: Registry): GpuRounds {
  const clock = wallClock();
  return startGpuRounds({
    node: parts.environment.node,
    run: parts.run,
    owner: parts.owner,
    isModelPod: rooms.pods.isModelPod,
    model(podUid) {
      const known = rooms.pods.reference(podUid);
      return known && { namespace: known.namespace, model: known.model };
    },
    occupants: () =>
      withLostFiles(parts.arbiter.occupants(rooms.loop.state(), clock), rooms.staging.lost, clock),
    onGpus(found) {
      rooms.loop.post({ type: 'gpus', gpus: found });
      rooms.memory.look(rooms.pods.facts());
    },
    onMeasured: (measurement) => rooms.loop.post({ type: 'measured', ...measurement }),
    registry,
    log: parts.log,
  });
}

function clusterOf<State>(
  { loop, pods, gpus, memory, staging }: Rooms<State>,
  parts: AgentParts<State>,
): Cluster {
  return joinCluster({
    node: parts.environment.node,
    connect: parts.connect,
    onPods(objects) {
      // First, so that no pod is granted a boot before its image's room is judged.
      staging.listed(objects);
      pods.listed(objects);
      memory.look(pods.facts());
    },
    onGpus(resources, facts) {
      gpus.listed(resources);
      loop.post({ type: 'gpu-resources', resources: facts });
    },
    publishWith: gpus.publishWith,
    log: parts.log,
  });
}

/**
 * Starts everything; what cannot start yet (the API server, the driver) is tried again for ever.
 * @throws Error when the pods directory cannot be served or the metrics address is taken
 */
export async function startAgent<State>(parts: AgentParts<State>): Promise<RunningAgent> {
  const { environment, log } = parts;
  const registry = new Registry();
  const rooms = { metrics: createArbiterMetrics(registry) } as Rooms<State>;
  rooms.explain = reporterOf(rooms, parts);
  rooms.staging = startStaging({
    ...environment,
    alive: (podUid) => rooms.pods.isModelPod(podUid),
    explain: rooms.explain,
    onBoots: (boots) => rooms.loop.post({ type: 'host-memory', boots }),
    onLost: () => rooms.gpus.changed(),
    registry,
    log,
    nowMs,
  });
  rooms.loop = loopOf(rooms, parts);
  registerHostMetrics(registry);
  registerLedgerMetrics(
    registry,
    () => parts.arbiter.ledger(rooms.loop.state()),
    () => rooms.cluster?.watchAges() ?? {},
  );
  const { post } = rooms.loop;
  rooms.memory = createMemory({
    modelsDir: environment.modelsDir,
    product: (uuid) => rooms.gpus.product(uuid),
    post,
    log,
  });
  rooms.pods = serveNodePods({
    root: environment.podsDir,
    release: environment.release,
    holdsBack: environment.canary,
    post,
    log,
  });
  rooms.gpus = gpusOf(rooms, parts, registry);
  const heartbeat = setInterval(() => post({ type: 'tick' }), heartbeatMs);

  const closeAll = (): void => {
    rooms.loop.stop();
    clearInterval(heartbeat);
    rooms.cluster?.close();
    rooms.gpus.stop();
    rooms.pods.close();
  };
  const alive = (): string | null => {
    const at = rooms.loop.handledAtMs();
    return at !== null && nowMs() - at > silenceMsMax ? `nothing was handled for ${silenceMsMax} ms` : null;
  };
  const metrics = async (): Promise<string> => {
    rooms.gpus.showMetrics();
    return registry.metrics();
  };
  let server: MetricsServer;
  try {
    const pages = { metrics, contentType: registry.contentType, alive, ready: rooms.gpus.unpublished };
    server = await serveMetrics(environment.metrics, pages, log);
  } catch (error) {
    closeAll();
    await rooms.staging.close();
    const { host, port } = environment.metrics;
    throw new Error(`METRICS_ADDRESS ${host}:${port}: ${errorText(error)}`);
  }
  rooms.cluster = clusterOf(rooms, parts);

  return {
    metricsPort: server.port,
    async stop() {
      closeAll();
      server.close();
      await rooms.staging.close();
      await rooms.memory.settled();
    },
  };
}
