/** One node's processes without Kubernetes (hack/one-node) as the tests here use them. Needs root. */
import { createOneNode, type NodeOptions, type OneNode, type Pod } from '../../hack/one-node/node.ts';

export type { Pod } from '../../hack/one-node/node.ts';
export { until } from '../../hack/one-node/programs.ts';

const effectMsMax = 60_000;

export interface NodeWorld extends OneNode {
  /** kill -9 as soon as the agent carries out such an effect, or some ms later. */
  killAgentAt(effect: string, laterMs?: number): Promise<void>;
  /** A chat completion. @returns status and text */
  chat(
    pod: Pod,
    words: string,
    options?: { maxTokens?: number },
  ): Promise<{ status: number; text: string; timing: string | null }>;
}

/** @param gpus as gpu-sim-setup takes them */
export async function createNodeWorld(gpus = 'a40:1', options: NodeOptions = {}): Promise<NodeWorld> {
  const node = await createOneNode(gpus, options);
  return {
    ...node,
    close: () => node.close(process.env.GREENTHREAD_TEST_LOGS),
    async killAgentAt(effect, laterMs = 0) {
      const { child, ended } = node.agent();
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${effect} in ${effectMsMax} ms`)), effectMsMax);
        child.stderr!.on('data', (chunk) => {
          if (!String(chunk).includes(`"effect":"${effect}"`)) return;
          clearTimeout(timer);
          if (laterMs === 0) child.kill('SIGKILL');
          else setTimeout(() => child.kill('SIGKILL'), laterMs);
          resolve();
        });
      });
      await ended;
    },
    async chat(pod, words, { maxTokens = 8 } = {}) {
      const response = await fetch(`${pod.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          model: `org/${pod.model}`,
          max_tokens: maxTokens,
          messages: [{ role: 'user', content: words }],
        }),
      });
      return {
        status: response.status,
        text: await response.text(),
        timing: response.headers.get('server-timing'),
      };
    },
  };
}
