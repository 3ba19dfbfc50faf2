/**
 * `node hack/hub/main.ts --listen HOST:PORT --files DIR`: the hub stub of hub.ts until SIGTERM. Prints its address on
 * stdout once it listens.
 */
import { parseArgs } from 'node:util';
import { startHub } from './hub.ts';

const usage = 'usage: main.ts --files DIR [--listen HOST:PORT] [--page-size N] [--cdn-url URL]';
const { values } = parseArgs({
  options: {
    listen: { type: 'string', default: '127.0.0.1:0' },
    files: { type: 'string' },
    'page-size': { type: 'string' },
    'cdn-url': { type: 'string' },
  },
});
const listen = /^\[?([^\]]+?)\]?:(\d+)$/.exec(values.listen);
if (!values.files || !listen) {
  console.error(usage);
  process.exit(2);
}
const hub = await startHub({
  files: values.files,
  host: listen[1]!,
  port: Number(listen[2]),
  ...(values['page-size'] ? { pageSize: Number(values['page-size']) } : {}),
  ...(values['cdn-url'] ? { cdnUrl: values['cdn-url'] } : {}),
});
console.log(hub.url);
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => void hub.close().then(() => process.exit(0)));
}
