/** The agent as a process: from the environment to a running agent, until a signal. */
import { connect } from '#platform/kubernetes/connect.ts';
import { createLog, errorText } from '#platform/log.ts';
import { arbiter } from './decide/arbiter/arbiter.ts';
import { readEnvironment } from './decide/environment.ts';
import { createRunSmi } from './observe/nvidia-smi/run.ts';
import { type RunningAgent, startAgent } from './runtime.ts';

/** What is still being written when a signal comes gets this long, ms. */
const stopMsMax = 2_000;

/**
 * Runs until SIGTERM or SIGINT, then ends the process and nothing else: engines, sidecars and launchers go on.
 * @param kubeconfig outside a cluster; without it KUBECONFIG or the pod's service account
 */
export async function run(kubeconfig: string | undefined): Promise<void> {
  const startLog = createLog('agent');
  let agent: RunningAgent | undefined;
  let ending = false;
  const end = (signal: string): void => {
    if (ending) return;
    ending = true;
    startLog.info('the agent ends, everything else goes on', { signal });
    setTimeout(() => process.exit(0), stopMsMax);
    void (agent?.stop() ?? Promise.resolve()).finally(() => process.exit(0));
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => end(signal));
  try {
    const environment = readEnvironment(process.env);
    const log = createLog('agent', environment.logLevel);
    agent = await startAgent({
      environment,
      arbiter,
      connect: () => connect({ kubeconfig }),
      run: createRunSmi(),
      log,
    });
    log.info('the agent runs', {
      node: environment.node,
      pods: environment.podsDir,
      metrics: agent.metricsPort,
    });
  } catch (error) {
    startLog.error('the agent cannot start', { error: errorText(error) });
    process.exit(1);
  }
}
