/** Wires the controller: settings, watches, election, loop. `strip-finalizers` as the argument prepares an uninstall. */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { connect } from '#platform/kubernetes/connect.ts';
import { createLog, errorText } from '#platform/log.ts';
import { createMetrics, serveEndpoints } from './act/endpoints.ts';
import { joinElection } from './act/lease.ts';
import { createPerformer } from './act/perform.ts';
import { stripFinalizers } from './act/uninstall.ts';
import { createLoop } from './loop.ts';
import { readEnvironment } from './observe/environment.ts';
import { watchCluster } from './observe/watches.ts';

/** Giving the lease back may take this long at most, ms; then it expires by itself. */
const releaseMsMax = 3_000;

async function control(): Promise<void> {
  const { controller: settings, listen, logLevel, leaseName, identity: given } = readEnvironment(process.env);
  const log = createLog('controller', logLevel);
  const identity = given ?? `${hostname()}_${randomUUID().slice(0, 8)}`;
  const client = await connect();
  const metrics = createMetrics({
    isLeader: () => election.isLeader(),
    watchAgeSeconds: () => watches.ages(),
    phases: () => loop.phases(),
  });
  const loop = createLoop({
    settings,
    perform: createPerformer(client, identity, log),
    onPlanned: metrics.planned,
    onPerformed: metrics.performed,
    log,
  });
  const watches = watchCluster(client, settings, loop.dispatch, log);
  const election = joinElection(
    client,
    {
      namespace: settings.namespace,
      name: leaseName,
      identity,
      onLeading: () => loop.dispatch({ type: 'leading' }),
      // What is under way may still arrive, so nothing but the end of the process is safe.
      onLost: () => process.exit(1),
    },
    log,
  );
  await serveEndpoints(metrics.registry, loop.isSynced, listen);
  const end = () => {
    loop.stop();
    watches.stop();
    setTimeout(() => process.exit(0), releaseMsMax).unref();
    void election
      .release()
      .catch((error: unknown) => log.warn('the lease was not given back', { error: errorText(error) }))
      .finally(() => process.exit(0));
  };
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
  log.info('started', { identity, namespace: settings.namespace, port: listen.port });
}

async function main(): Promise<void> {
  if (process.argv[2] === 'strip-finalizers') {
    const { GREENTHREAD_NAMESPACE: namespace, GREENTHREAD_DEPLOYMENT: deployment } = process.env;
    if (!namespace || !deployment)
      throw new Error('strip-finalizers needs GREENTHREAD_NAMESPACE and GREENTHREAD_DEPLOYMENT');
    const client = await connect();
    await stripFinalizers(client, { namespace, deployment }, createLog('controller'));
    await client.close();
    return;
  }
  await control();
}

main().catch((error: unknown) => {
  process.stderr.write(`controller: ${errorText(error)}\n`);
  process.exit(1);
});
