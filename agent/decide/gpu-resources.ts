/** From what the node sees of its GPUs to the GPU resources, and which of them have to be written. */
import { isDeepStrictEqual } from 'node:util';
import type { GpuOccupant, GpuSpec, GpuStatus } from '#api/gpu.ts';
import type { KubernetesObject, OwnerReference } from '#platform/kubernetes/client.ts';
import { apiVersion, gpuName } from '#proto/names.ts';
import type { GpuMeasurement, GpuReading, Probe } from './facts.ts';
import { type HealthMemory, notProbed, type Verdict } from './health.ts';

/** A GPU resource as the API server keeps it. */
export type GpuObject = KubernetesObject & { spec: GpuSpec; status?: GpuStatus };

/** Everything that GPU resources are made of. */
export interface GpuView {
  nodeName: string;
  /** The last full probe. */
  probe: Probe;
  health: HealthMemory;
  /** The last quick measurement; null when it failed: then the probe's own figures stand in. */
  measured: readonly GpuMeasurement[] | null;
  /** By UUID, as the arbiter sees them. */
  occupants: Readonly<Record<string, readonly GpuOccupant[]>>;
  /** The GPU resources of this node. */
  existing: readonly GpuObject[];
}

/** What the agent wants of one GPU resource: the fields it owns, no others. */
export interface DesiredGpu {
  name: string;
  spec: Pick<GpuSpec, 'nodeName' | 'index' | 'uuid'>;
  status: GpuStatus;
}

/** Occupants listed at most (api/gpu.ts). */
const occupantsMax = 512;
/** Lengths that api/gpu.ts allows. */
const lengths = { product: 128, reason: 128, message: 1024, driver: 64 };

/**
 * A GPU's product as GPU feature discovery labels nodes with it: `NVIDIA A100-SXM4-80GB` → `NVIDIA-A100-SXM4-80GB`.
 * Characters a label may not have are dropped, runs of spaces become one dash.
 */
export function productName(name: string): string {
  return name
    .replace(/[^A-Za-z0-9\-_. \t]/g, '')
    .trim()
    .replace(/\s+/g, '-')
    .slice(0, lengths.product);
}

/** The resource of each GPU known by its UUID; with two of one UUID, the one of the lower index. */
function byUuid(existing: readonly GpuObject[], nodeName: string): Map<string, GpuObject> {
  const own = existing.filter(({ spec }) => spec.nodeName === nodeName);
  own.sort((a, b) => b.spec.index - a.spec.index || (a.metadata.name < b.metadata.name ? 1 : -1));
  return new Map(own.map((gpu) => [gpu.spec.uuid, gpu]));
}

/** Free bytes and their like; absent where unknown. */
function memoryOf(
  reading: GpuReading | undefined,
  measured: GpuMeasurement | undefined,
): GpuStatus['memory'] {
  const { totalBytes, usedBytes, freeBytes } = measured ?? reading ?? {};
  if (totalBytes == null && usedBytes == null && freeBytes == null) return undefined;
  return {
    ...(totalBytes != null && { totalBytes }),
    ...(usedBytes != null && { usedBytes }),
    ...(freeBytes != null && { freeBytes }),
  };
}

interface StatusParts {
  uuid: string;
  reading: GpuReading | undefined;
  measured: GpuMeasurement | undefined;
  verdict: Verdict;
  occupants: readonly GpuOccupant[];
  existing: GpuObject | undefined;
}

function statusOf({ uuid, reading, measured, verdict, occupants, existing }: StatusParts): GpuStatus {
  const product = reading?.name ? productName(reading.name) : existing?.status?.product;
  const driver = reading?.driver ?? existing?.status?.driver;
  const memory = memoryOf(reading, measured);
  const listed = [...occupants].sort((a, b) => (a.podUid < b.podUid ? -1 : 1)).slice(0, occupantsMax);
  return {
    uuid,
    ...(product && { product }),
    ...(memory && { memory }),
    mode: (existing?.spec.bindings?.length ?? 0) > 0 ? 'inference' : 'idle',
    health: verdict.health,
    ...(verdict.reason && { healthReason: verdict.reason.slice(0, lengths.reason) }),
    ...(verdict.message && { healthMessage: verdict.message.slice(0, lengths.message) }),
    ...(driver && { driver: driver.slice(0, lengths.driver) }),
    ...(listed.length > 0 && { occupants: listed }),
  };
}

/**
 * The GPU resources this node should have: one for each GPU that the driver lists or that has a resource already. An index
 * stays with its UUID while that has a resource; a GPU that is new takes its place in the listing, or the first free one.
 * @returns in order of their index
 */
export function desiredGpus(view: GpuView): DesiredGpu[] {
  const { nodeName, probe, health, occupants } = view;
  const resources = byUuid(view.existing, nodeName);
  const readings = new Map(probe.gpus.map((gpu) => [gpu.uuid, gpu]));
  const measured = new Map(view.measured?.map((gpu) => [gpu.uuid, gpu]));
  const taken = new Set(
    view.existing.filter(({ spec }) => spec.nodeName === nodeName).map(({ spec }) => spec.index),
  );
  const indices = new Map<string, number>();
  for (const gpu of [...probe.gpus].sort((a, b) => a.index - b.index)) {
    if (resources.has(gpu.uuid) || indices.has(gpu.uuid)) continue;
    let index = gpu.index;
    if (taken.has(index)) for (index = 0; taken.has(index); ) index += 1;
    taken.add(index);
    indices.set(gpu.uuid, index);
  }
  const desired = [...new Set([...resources.keys(), ...readings.keys()])].map((uuid): DesiredGpu => {
    const existing = resources.get(uuid);
    const index = existing?.spec.index ?? indices.get(uuid)!;
    const status = statusOf({
      uuid,
      reading: readings.get(uuid),
      measured: measured.get(uuid),
      verdict: health[uuid]?.verdict ?? notProbed,
      occupants: occupants[uuid] ?? [],
      existing,
    });
    return {
      name: existing?.metadata.name ?? gpuName(nodeName, index),
      spec: { nodeName, index, uuid },
      status,
    };
  });
  return desired.sort((a, b) => a.spec.index - b.spec.index);
}

/** A resource as one manifest, for people and for the first write. */
export function gpuManifest({ name, spec, status }: DesiredGpu, owner: OwnerReference | null): GpuObject {
  return {
    apiVersion,
    kind: 'GPU',
    metadata: { name, ...(owner && { ownerReferences: [owner] }) },
    spec,
    status,
  };
}

/** One call to the API server: the object without its status, or its status alone. */
export interface GpuWrite {
  name: string;
  part: 'object' | 'status';
  body: KubernetesObject;
}

/** Bytes that moved by no more than this, or by no more than this share, are not worth a write. */
const movedBytesMin = 64 * 2 ** 20;
const movedShareMin = 0.01;
/** Moved bytes of one GPU are written at most this often, ms. */
export const bytesEveryMs = 5_000;

function moved(before: number | undefined, now: number | undefined): boolean {
  if (before === undefined || now === undefined) return before !== now;
  const by = Math.abs(now - before);
  return by > movedBytesMin && by > before * movedShareMin;
}

type Owned = Omit<GpuStatus, 'conditions'>;

/** The agent's fields of a status, in one form: no undefined, occupants by pod UID. */
function owned(status: GpuStatus | undefined): Owned {
  const { conditions: _, occupants = [], ...rest } = status ?? {};
  const sorted = [...occupants].sort((a, b) => (a.podUid < b.podUid ? -1 : 1));
  return JSON.parse(JSON.stringify({ ...rest, ...(sorted.length > 0 && { occupants: sorted }) })) as Owned;
}

/** The figures in a status that move by themselves, each by a name. */
function movingBytes({ memory, occupants = [] }: Owned): Map<string, number | undefined> {
  return new Map([
    ['used', memory?.usedBytes],
    ['free', memory?.freeBytes],
    ...occupants.flatMap(({ podUid, awakeBytes, residueBytes }): [string, number | undefined][] => [
      [`${podUid} awake`, awakeBytes],
      [`${podUid} residue`, residueBytes],
    ]),
  ]);
}

/** All of a status but those figures: a change here is a change of state. */
function states({ memory, occupants = [], ...rest }: Owned) {
  return {
    ...rest,
    totalBytes: memory?.totalBytes,
    occupants: occupants.map(({ awakeBytes: _, residueBytes: __, ...occupant }) => occupant),
  };
}

/** Whether a status has to be written: at once, when its turn comes, or not at all. */
function statusUrgency(before: GpuStatus | undefined, now: GpuStatus): 'now' | 'soon' | 'no' {
  const [old, fresh] = [owned(before), owned(now)];
  if (!isDeepStrictEqual(states(old), states(fresh))) return 'now';
  const oldBytes = movingBytes(old);
  return [...movingBytes(fresh)].some(([name, bytes]) => moved(oldBytes.get(name), bytes)) ? 'soon' : 'no';
}

/** Whether the object without its status differs in what the agent owns. */
function objectDiffers(existing: GpuObject, desired: DesiredGpu, owner: OwnerReference | null): boolean {
  const { nodeName, index, uuid } = existing.spec;
  const owners = existing.metadata.ownerReferences ?? [];
  return (
    !isDeepStrictEqual({ nodeName, index, uuid }, desired.spec) ||
    (owner !== null && !owners.some(({ uid }) => uid === owner.uid))
  );
}

/**
 * What differs between the wanted resources and those there are.
 * @param options.owner the Node; null when it is not known: owners are left alone then
 * @param options.writtenAtMs when each status was last written, by name
 * @returns the writes, an object before its status; `againMs`: when bytes that moved may be written, null when none wait
 */
export function gpuWrites(
  desired: readonly DesiredGpu[],
  existing: readonly GpuObject[],
  options: {
    owner: OwnerReference | null;
    nowMs: number;
    writtenAtMs: Readonly<Record<string, number>>;
  },
): { writes: GpuWrite[]; againMs: number | null } {
  const { owner, nowMs, writtenAtMs } = options;
  const byName = new Map(existing.map((gpu) => [gpu.metadata.name, gpu]));
  const writes: GpuWrite[] = [];
  let againMs: number | null = null;
  for (const gpu of desired) {
    const { name } = gpu;
    const { status, ...object } = gpuManifest(gpu, owner);
    const before = byName.get(name);
    if (!before || objectDiffers(before, gpu, owner)) writes.push({ name, part: 'object', body: object });
    const urgency = statusUrgency(before?.status, gpu.status);
    const dueMs = (writtenAtMs[name] ?? Number.NEGATIVE_INFINITY) + bytesEveryMs;
    if (urgency === 'now' || (urgency === 'soon' && dueMs <= nowMs)) {
      const body = { apiVersion, kind: 'GPU', metadata: { name }, status };
      writes.push({ name, part: 'status', body });
    } else if (urgency === 'soon') {
      againMs = Math.min(againMs ?? dueMs, dueMs);
    }
  }
  return { writes, againMs };
}
