/** Who may use the files: the cluster's Models and model pods, from files, from stdin, or from the API server. */
import { readFile } from 'node:fs/promises';
import { connect } from '#platform/kubernetes/connect.ts';
import { errorText } from '#platform/log.ts';
import { apiVersion, labels } from '#proto/names.ts';
import { FetchFailure } from '../decide/failures.ts';
import { parseModels, parsePods, type Users } from '../decide/unused.ts';

const readText = (file: string): Promise<string> => readFile(file === '-' ? '/dev/stdin' : file, 'utf8');

/** As kubectl would print it. */
async function askForList(path: string, labelSelector?: string): Promise<string> {
  const client = await connect();
  try {
    const { items } = await client.list(path, labelSelector === undefined ? {} : { labelSelector });
    return JSON.stringify({ items });
  } finally {
    await client.close();
  }
}

/**
 * Pods of all nodes: several may share one disk.
 * @throws FetchFailure BadSettings: what pods use is known, or nothing is removed
 */
const askForPods = (): Promise<string> =>
  askForList('/api/v1/pods', labels.replica).catch((error: unknown) => {
    throw new FetchFailure(
      'BadSettings',
      `it cannot be asked which pods run (${errorText(error)}): start this in an agent's pod, or add --pods FILE, a file as kubectl get pods -A -l ${labels.replica} -o json prints it`,
    );
  });

/**
 * Models first: a pod that its Model gives up in between is then seen in one of them.
 * @param files as kubectl prints Models and pods, `-`: stdin; null: the API server is asked
 * @throws FetchFailure BadSettings
 */
export async function readUsers(files: { models: string | null; pods: string | null }): Promise<Users> {
  const { models, pods } = files;
  const wanted = parseModels(
    models === null ? await askForList(`/apis/${apiVersion}/models`) : await readText(models),
  );
  return { models: wanted, pods: parsePods(pods === null ? await askForPods() : await readText(pods)) };
}
