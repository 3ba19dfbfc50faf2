/** `nvidia-smi -L`: the GPUs that still answer, one a line; a sick one costs its own line alone. */

/** A GPU as `-L` names it; `index` is its true place, however many before it are lost. */
export interface ListedGpu {
  index: number;
  name: string;
  uuid: string;
}

/** MIG devices stand indented below their GPU and are left out. */
export function parseList(stdout: string): ListedGpu[] {
  return stdout.split('\n').flatMap((line) => {
    const match = /^GPU (\d+): (.*) \(UUID: (GPU-[^)\s]+)\)\s*$/.exec(line);
    return match ? [{ index: Number(match[1]), name: match[2]!, uuid: match[3]! }] : [];
  });
}
