/** What all lives of one kind share: upstream models, the hub's folder, a certificate. */
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readRepository } from '../../hack/hub/repository.ts';
import { vllmPython } from '../../hack/installation/vllm.ts';
import { certificateIn } from '../../hack/one-node/certificate.ts';
import { type Kind, type ModelName, models } from './plan.ts';
import { makeUpstreams, readUpstream, type Upstream } from './upstream.ts';
import type { Setting } from './world.ts';

/** A folder for `settingFor`, to be removed at the end. */
export const makeFolder = (): Promise<string> => mkdtemp(join(tmpdir(), 'gt-faults-'));

/** @param folder what is there already is used again */
export async function settingFor(kind: Kind, folder: string): Promise<Setting> {
  const python = kind === 'vllm' ? await vllmPython() : null;
  const certificate = certificateIn(folder);
  const files = join(folder, `hub-${kind}`);
  await makeUpstreams(files, python);
  const upstreams = {} as Record<ModelName, Upstream>;
  const commits = {} as Record<ModelName, string>;
  for (const model of models) {
    upstreams[model] = await readUpstream(files, model);
    commits[model] = (await readRepository(files, `org/${model}`))!.commit;
  }
  return { files, upstreams, commits, vllmPython: python, certificate };
}
