/** The agent's environment (set by the chart's DaemonSet), read once at start. */
import { paths, ports } from '#proto/names.ts';

export interface Environment {
  /** The node's name, by fieldRef spec.nodeName. */
  node: string;
  release: string;
  /** One directory per model pod, named by its UID. */
  podsDir: string;
  /** Weights on the node; measurements are kept beside them. */
  modelsDir: string;
  /** A tmpfs of the node's for staged weights and images. */
  poolDir: string;
  /** The chart's bound of it; null: the agent's own. */
  poolBytes: number | null;
  metrics: { host: string; port: number };
  /** Each boot and wake is followed by a canary's question. */
  canary: boolean;
  logLevel: 'debug' | 'info' | 'warn' | 'error';
}

/** As disks and vendors count. */
const megabyte = 1_000_000;
const logLevels = ['debug', 'info', 'warn', 'error'] as const;
/** `sun_path` of a Unix socket's address, without the closing zero (unix(7)), bytes. */
export const socketPathBytesMax = 107;
/** What a pod directory's longest path adds: `/<uid>/engine.sock`. */
const insideBytesMax = 1 + 36 + 1 + 'engine.sock'.length;

/** `host:port`, `[v6]:port` or `:port`; null when it is none of them. */
function hostAndPort(text: string): { host: string; port: number } | null {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  return match && port <= 65_535 ? { host: match[1] || match[2] || '0.0.0.0', port } : null;
}

/**
 * @throws RangeError naming every variable that is missing or wrong, and what belongs there
 */
export function readEnvironment(env: Readonly<Record<string, string | undefined>>): Environment {
  const wrong: string[] = [];
  const node = env.NODE_NAME ?? '';
  if (!node) wrong.push('NODE_NAME is missing: set it by fieldRef spec.nodeName');
  const folder = (name: string, fallback: string): string => {
    const path = env[name] || fallback;
    if (!path.startsWith('/')) wrong.push(`${name} is ${JSON.stringify(path)}: write an absolute path`);
    return path.replace(/(?<=.)\/+$/, '');
  };
  const podsDir = folder('GREENTHREAD_PODS_DIR', paths.podsOnNode);
  if (Buffer.byteLength(podsDir) + insideBytesMax > socketPathBytesMax) {
    const most = socketPathBytesMax - insideBytesMax;
    wrong.push(`GREENTHREAD_PODS_DIR is too long for the sockets in it: use at most ${most} bytes`);
  }
  const metrics = hostAndPort(env.METRICS_ADDRESS || `:${ports.agentMetrics}`);
  if (!metrics)
    wrong.push(`METRICS_ADDRESS is ${JSON.stringify(env.METRICS_ADDRESS)}: write HOST:PORT or :PORT`);
  const logLevel = logLevels.find((level) => level === (env.LOG_LEVEL || 'info'));
  if (!logLevel)
    wrong.push(`LOG_LEVEL is ${JSON.stringify(env.LOG_LEVEL)}: write one of ${logLevels.join(', ')}`);
  const modelsDir = folder('GREENTHREAD_MODELS_DIR', paths.models);
  const poolDir = folder('GREENTHREAD_POOL_DIR', paths.poolOnNode);
  const poolText = env.GREENTHREAD_PINNED_MEMORY_MB || '0';
  if (!/^\d{1,9}$/.test(poolText))
    wrong.push(
      `GREENTHREAD_PINNED_MEMORY_MB is ${JSON.stringify(poolText)}: write whole MB, 0 for the agent's own bound`,
    );
  const poolBytes = Number(poolText) === 0 ? null : Number(poolText) * megabyte;
  const canaryText = env.GREENTHREAD_CANARY || 'false';
  if (canaryText !== 'true' && canaryText !== 'false')
    wrong.push(`GREENTHREAD_CANARY is ${JSON.stringify(canaryText)}: write true or false`);
  if (wrong.length > 0 || !metrics || !logLevel) throw new RangeError(wrong.join('; '));
  const release = env.GREENTHREAD_RELEASE || 'development';
  return {
    node,
    release,
    podsDir,
    modelsDir,
    poolDir,
    poolBytes,
    metrics,
    canary: canaryText === 'true',
    logLevel,
  };
}
