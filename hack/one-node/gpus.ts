/** Simulated GPUs in a folder of their own, and their own books. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gpuBinaries, linesOf } from './programs.ts';

export interface TokenLine {
  model: string;
  awake: boolean;
  bytes: number;
  request: string;
}

export interface Gpus {
  uuids: string[];
  /** With it a program sees these GPUs and nvidia-smi. */
  env: { PATH: string; GPU_SIM_DIR: string };
  /** What models can hold on the first GPU altogether, bytes. */
  capacityBytes(): number;
  /** What nvidia-smi says is used on the first GPU, bytes. */
  usedBytes(): number;
  /** Lines that GPUs wrote about memory that was taken and not free. */
  violations(): string[];
  /** Token-log lines of the first GPU. */
  tokens(): TokenLine[];
  /** gpu-sim-set on all of them. */
  set(...changes: string[]): void;
}

/** @param gpus as gpu-sim-setup takes them, `a40:1` @param folder theirs alone; it is made */
export async function createGpus(gpus: string, folder: string): Promise<Gpus> {
  const binaries = await gpuBinaries();
  const env = { PATH: `${binaries}:${process.env.PATH}`, GPU_SIM_DIR: folder };
  const tool = (name: string, ...args: string[]): string =>
    execFileSync(join(binaries, name), args, { encoding: 'utf8', env: { ...process.env, ...env } });
  const uuids = tool('gpu-sim-setup', '--node', 'n1', '--gpus', gpus, '--dir', folder).trim().split('\n');
  const card = JSON.parse(readFileSync(join(folder, uuids[0]!, 'gpu.json'), 'utf8')) as {
    totalMiB: number;
    reservedMiB: number;
  };
  return {
    uuids,
    env,
    capacityBytes: () => (card.totalMiB - card.reservedMiB) * 2 ** 20,
    usedBytes: () =>
      Number(tool('nvidia-smi', '--query-gpu=memory.used', '--format=csv,noheader,nounits').split('\n')[0]) *
      2 ** 20,
    violations: () => uuids.flatMap((uuid) => linesOf(join(folder, uuid, 'violations'))),
    tokens: () => linesOf(join(folder, uuids[0]!, 'tokens.log')).map((line) => JSON.parse(line) as TokenLine),
    set: (...changes) => void tool('gpu-sim-set', 'all', ...changes),
  };
}
