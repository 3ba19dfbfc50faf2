/** Before the suites on the real cluster: cluster, hub and chart are up. Ends what it started itself. */
import { execa } from 'execa';
import { installChart } from '../../../hack/installation/chart.ts';
import { downCluster, upCluster } from '../../../hack/installation/cluster.ts';
import { startHub } from '../../../hack/installation/hub.ts';

/** Nodes and GPUs that the suites count on. */
const gpus = process.env.GREENTHREAD_TEST_GPUS ?? 'a40:2,t4:1';

export default async function setup(): Promise<() => Promise<void>> {
  const command = new URL('../../../hack/cluster', import.meta.url).pathname;
  const wasUp = (await execa(command, ['status'], { reject: false })).exitCode === 0;
  const cluster = await upCluster(['--gpus', gpus]);
  // Workers inherit this: kubectl, helm and our client find the cluster.
  Object.assign(process.env, cluster.env);
  await startHub(cluster);
  await installChart(cluster, { simulated: true });
  return async () => {
    if (!wasUp) await downCluster();
  };
}
