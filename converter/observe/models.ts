/** The cluster's Models: from a file, from stdin, or from the API server. */
import { readFile } from 'node:fs/promises';
import { connect } from '#platform/kubernetes/connect.ts';
import { apiVersion } from '#proto/names.ts';
import { parseModels, type WantedModel } from '../decide/unused.ts';

/** @param file as kubectl prints Models, `-`: stdin; null: the API server is asked */
export async function readModels(file: string | null): Promise<WantedModel[]> {
  if (file !== null) return parseModels(await readFile(file === '-' ? '/dev/stdin' : file, 'utf8'));
  const client = await connect();
  try {
    const { items } = await client.list(`/apis/${apiVersion}/models`);
    return parseModels(JSON.stringify({ items }));
  } finally {
    await client.close();
  }
}
