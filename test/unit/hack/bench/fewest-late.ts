/**
 * The fewest late requests that any schedule on a grid has, by trying all of them: every set that fits, in every slot. None of
 * what makes the proof quick is in here: it is what the proof is held against.
 */
import type { Grid, GridRequest } from '../../../../hack/benchmarks/policy/proof-grid.ts';

interface State {
  /** By model: slots until it serves; -1: it holds nothing. */
  holds: number[];
  /** By request: slots in which it was served; those whose windows are over have all. */
  served: number[];
  late: number;
}

const endOf = ({ from, need, spare }: GridRequest): number => from + need + spare;

function afterSlot(grid: Grid, { holds, served, late }: State, set: number, slot: number): State {
  const held = holds.map((hold, model) =>
    set & (1 << model) ? (hold === -1 ? grid.wakeSlots[model]! : hold) : -1,
  );
  const after: State = { holds: held.map((hold) => (hold > 0 ? hold - 1 : hold)), served: [...served], late };
  for (const [at, request] of grid.requests.entries()) {
    const { from, need, model } = request;
    if (slot >= from && slot < endOf(request) && held[model] === 0)
      after.served[at] = Math.min(need, served[at]! + 1);
    if (slot + 1 === endOf(request) && after.served[at]! < need) {
      after.late++;
      after.served[at] = need;
    }
  }
  return after;
}

export function fewestLate(grid: Grid): number {
  const sets = [...grid.fits.keys()].filter((set) => grid.fits[set] === 1);
  const last = Math.max(...grid.requests.map(endOf));
  const first = Math.min(...grid.requests.map(({ from }) => from)) - Math.max(...grid.wakeSlots) - 1;
  let states: State[] = [
    { holds: new Array(grid.models).fill(-1), served: grid.requests.map(() => 0), late: 0 },
  ];
  for (let slot = first; slot < last; slot++) {
    const following = new Map<string, State>();
    for (const state of states) {
      for (const set of sets) {
        const after = afterSlot(grid, state, set, slot);
        const key = `${after.holds}|${after.served}`;
        const known = following.get(key);
        if (!known || after.late < known.late) following.set(key, after);
      }
    }
    states = [...following.values()];
  }
  return Math.min(...states.map(({ late }) => late));
}
