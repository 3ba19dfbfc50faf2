/** Whether a run's kills have struck: lives in which nobody was killed show nothing. */
import type { Hit } from './killing.ts';
import type { Kill, Kind } from './plan.ts';

/** So much of what was planned has to strike in time: of a kind of engine, of each victim, of each phase. */
const shareMin = { kind: 0.5, victim: 1 / 3, phase: 0.1 };
/** Fewer kills of one victim or in one phase may all come too late by chance. */
const plannedMin = 6;

export interface Planned {
  kind: Kind;
  kill: Kill;
  hit: Hit;
}

export const phaseOf = ({ when }: Kill): string => ('phase' in when ? when.phase : 'recovery');

/** @returns what struck too seldom, a sentence each; none: the run shows something */
export function hitFaults(planned: readonly Planned[]): string[] {
  const faultsOf = (group: (one: Planned) => string, share: number, least: number): string[] =>
    Object.entries(Object.groupBy(planned, group)).flatMap(([name, all]) => {
      const struck = all!.filter(({ hit }) => hit === 'hit').length;
      if (all!.length < least || struck >= share * all!.length) return [];
      return [
        `${name}: ${struck} of ${all!.length} kills struck in time, fewer than ${Math.round(share * 100)} %`,
      ];
    });
  return [
    ...faultsOf(({ kind }) => kind, shareMin.kind, 1),
    ...faultsOf(({ kind, kill }) => `${kind}, ${kill.victim}`, shareMin.victim, plannedMin),
    ...faultsOf(({ kind, kill }) => `${kind}, ${phaseOf(kill)}`, shareMin.phase, plannedMin),
  ];
}
