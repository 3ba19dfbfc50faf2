/** Clients of several Models at the cluster's edge, each in its own manner, until a moment. */
import { setTimeout as delay } from 'node:timers/promises';
import { StreamClients, type Streamed } from '../../../hack/clients/chat-stream.ts';
import { edgeUrl } from '../harness/cluster.ts';

/** How one client of a Model asks: so many streams at once, then a pause. */
export interface Manner {
  clients: number;
  /** Streams that a client sends together. */
  together: number;
  /** Tokens of an answer, evenly from one to the other. */
  tokens: [least: number, most: number];
  /** Mean of the pauses between two questions of a client, ms; they are exponential. */
  pauseMs: number;
}

export interface CrowdOptions {
  /** Upstream id, as bodies name it. */
  modelName: string;
  manners: Record<string, Manner>;
  lastMs: number;
  /** Longest silence that a client waits for, ms. */
  silenceMs: number;
}

const between = ([least, most]: [number, number]): number =>
  least + Math.floor(Math.random() * (most - least + 1));
const exponential = (meanMs: number): number => -Math.log(1 - Math.random()) * meanMs;

/** Asks until `lastMs` have passed, then waits for what still streams. @returns what came back, by Model */
export async function crowd(options: CrowdOptions): Promise<Map<string, Streamed[]>> {
  const { modelName, manners, lastMs, silenceMs } = options;
  const streams = new StreamClients();
  const endAt = performance.now() + lastMs;
  const answers = new Map<string, Streamed[]>(Object.keys(manners).map((name) => [name, []]));

  const client = async (name: string, { together, tokens, pauseMs }: Manner): Promise<void> => {
    await delay(Math.random() * Math.min(pauseMs, lastMs));
    while (performance.now() < endAt) {
      const asked = Array.from({ length: together }, () =>
        streams.send({ url: edgeUrl(name), model: modelName, tokens: between(tokens), silenceMs }),
      );
      answers.get(name)!.push(...(await Promise.all(asked.map(({ answer }) => answer))));
      await delay(Math.min(exponential(pauseMs), Math.max(0, endAt - performance.now())));
    }
  };
  try {
    await Promise.all(
      Object.entries(manners).flatMap(([name, manner]) =>
        Array.from({ length: manner.clients }, () => client(name, manner)),
      ),
    );
  } finally {
    await streams.close();
  }
  return answers;
}

const shareOf = (sorted: number[], share: number): number =>
  sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
const seconds = (ms: number): string => (ms / 1_000).toFixed(2).padStart(7);

/** One line for each Model: its streams and how long their first tokens took, s. */
export function figures(answers: Map<string, Streamed[]>): string {
  const head = `${'model'.padEnd(14)} streams  tokens     p50     p95     p99     max  longest silence within a stream, s`;
  const lines = [...answers].map(([name, all]) => {
    const waits = all.map(({ firstMs, endMs }) => firstMs ?? endMs).sort((a, b) => a - b);
    const tokens = all.reduce((sum, { pieces }) => sum + pieces, 0);
    const silence = Math.max(...all.map(({ silenceMs }) => silenceMs));
    return [
      name.padEnd(14),
      String(all.length).padStart(7),
      String(tokens).padStart(7),
      ...[0.5, 0.95, 0.99, 1].map((share) => seconds(shareOf(waits, share))),
      seconds(silence),
    ].join(' ');
  });
  return [head, ...lines].join('\n');
}
