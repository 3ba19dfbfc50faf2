/** `--once --dry-run`: the GPU resources this node would publish, as YAML. Needs no cluster. */
import { stringify } from 'yaml';
import type { ProbeFault } from './decide/facts.ts';
import { desiredGpus, gpuManifest } from './decide/gpu-resources.ts';
import { judge, ofFault, sameBoard } from './decide/health.ts';
import { probe } from './observe/nvidia-smi/probe.ts';
import { createRunSmi, type RunSmi } from './observe/nvidia-smi/run.ts';

/** Names of Nodes are DNS-1123 subdomains. */
const nodeNamePattern = /^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$/;
const nodeNameCharactersMax = 253;

/** A fault that belongs to no GPU whose UUID is known: no resource can carry it. */
function faultDocument(nodeName: string, fault: ProbeFault) {
  const { health, reason, message } = ofFault(fault);
  return {
    nodeName,
    ...(fault.busId && { busId: fault.busId }),
    health,
    healthReason: reason,
    healthMessage: message,
  };
}

export interface DryRunOptions {
  nodeName: string | undefined;
  write(text: string): void;
  /** Complaints that are not YAML. */
  complain(text: string): void;
  run?: RunSmi;
  timeoutMs?: number;
}

/**
 * Probes once and prints.
 * @returns the exit code: 0 when at least one GPU is known, 1 when none is (what is wrong is printed, as YAML too), 2 when
 *   NODE_NAME is missing
 */
export async function dryRun(options: DryRunOptions): Promise<number> {
  const { nodeName = '', write, complain, run = createRunSmi(), timeoutMs } = options;
  if (nodeName.length > nodeNameCharactersMax || !nodeNamePattern.test(nodeName)) {
    complain(
      `NODE_NAME ${nodeName === '' ? 'is not set' : `is no node's name: ${nodeName}`}: set it to this node's name, such as NODE_NAME=gpu-worker-1\n`,
    );
    return 2;
  }
  const seen = await probe(run, timeoutMs === undefined ? {} : { timeoutMs });
  const { memory: health } = judge({}, seen);
  const desired = desiredGpus({ nodeName, probe: seen, health, measured: null, occupants: {}, existing: [] });
  const homeless = seen.faults.filter(
    ({ uuid, busId }) => uuid === undefined && !seen.gpus.some((gpu) => sameBoard(gpu.busId, busId)),
  );
  const documents = [
    ...desired.map((gpu) => stringify(gpuManifest(gpu, null), { lineWidth: 0 })),
    ...homeless.map(
      (fault) =>
        `# No GPU resource: its UUID is not known.\n${stringify(faultDocument(nodeName, fault), { lineWidth: 0 })}`,
    ),
  ];
  write(documents.join('---\n'));
  return desired.length > 0 ? 0 : 1;
}
