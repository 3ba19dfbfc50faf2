/** The names of weights. Whoever may write a pod's annotations writes this one: nothing in it may lead out of a folder. */
import { modelFolder } from '#proto/names.ts';

/** As proto/weights.ts has it (weightsVersion), which reads a file; a unit test holds them together. */
const formPattern = /^([A-Za-z0-9][A-Za-z0-9._-]{0,190})\/([0-9a-f]{40})\.gthread-1$/;

export interface WeightsName {
  /** Below the models path. */
  weights: string;
  /** `org--name`. */
  model: string;
  commit: string;
  /** Name of the folder in the pool. */
  key: string;
}

/** @returns null for what names no published form */
export function parseWeights(text: string): WeightsName | null {
  const match = formPattern.exec(text);
  if (!match) return null;
  const [weights, model, commit] = match as unknown as [string, string, string];
  return { weights, model, commit, key: `${model}@${commit}` };
}

/** Whether a manifest is of these weights. */
export const isOf = (name: WeightsName, manifest: { modelName: string; commit: string }): boolean =>
  manifest.commit === name.commit && modelFolder(manifest.modelName) === name.model;
