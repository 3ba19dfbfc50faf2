/** What the engine says of itself over engine.sock: its models and its metrics. A GET, bounded, never wakes it. */
import { request } from 'node:http';

/** An engine that is busy starting or hung must not hold a scrape up. */
const askTimeoutMs = 1_000;
export const answerBytesMax = 8 * 1024 * 1024;

/**
 * @param path such as `/metrics`
 * @returns the body of a 200, as text
 * @throws Error when there is no engine, it answers otherwise, too late, or too much
 */
export function askEngine(socketPath: string, path: string, timeoutMs = askTimeoutMs): Promise<string> {
  return new Promise((resolve, reject) => {
    const req = request({ socketPath, path, agent: false, headers: { host: 'localhost' } }, (res) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      res.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > answerBytesMax) req.destroy(new Error(`GET ${path}: more than ${answerBytesMax} bytes`));
        else chunks.push(chunk);
      });
      res.on('error', reject);
      res.on('end', () => {
        if (res.statusCode !== 200) reject(new Error(`GET ${path}: ${res.statusCode}`));
        else resolve(Buffer.concat(chunks).toString('utf8'));
      });
    });
    const timer = setTimeout(
      () => req.destroy(new Error(`GET ${path}: no answer in ${timeoutMs} ms`)),
      timeoutMs,
    );
    req.on('error', reject);
    req.on('close', () => {
      clearTimeout(timer);
      reject(new Error(`GET ${path}: the connection ended`));
    });
    req.end();
  });
}

/** The engine's own families out of its exposition: `vllm:*`, no process figures that would pass for ours. */
export const vllmFamilies = (text: string): string =>
  text
    .split('\n')
    .filter((line) => line.startsWith('vllm:') || /^# (HELP|TYPE) vllm:/.test(line))
    .join('\n');
