/** What all lives of one kind share: upstream models, the hub's folder, a certificate. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readRepository } from '../../hack/hub/repository.ts';
import { vllmPython } from '../../hack/installation/vllm.ts';
import { type Kind, type ModelName, models } from './plan.ts';
import { makeUpstreams, readUpstream, type Upstream } from './upstream.ts';
import type { Setting } from './world.ts';

function certificateIn(folder: string): Setting['certificate'] {
  const keyFile = join(folder, 'api.key');
  const certificateFile = join(folder, 'api.crt');
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', keyFile];
  const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'];
  if (!existsSync(certificateFile))
    execFileSync('openssl', ['req', '-x509', ...key, '-out', certificateFile, ...subject], {
      stdio: 'ignore',
    });
  return { keyFile, certificateFile };
}

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
