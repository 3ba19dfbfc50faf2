/** A shell that stays open in a node's box: a fault must strike within milliseconds, a new box entry takes a second. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { repository } from '../../../hack/nodes/places.ts';

/** Longest a command may take, ms. */
const commandMsMax = 20_000;
/** Longest output of a command, characters. */
const outputCharactersMax = 4 * 1024 * 1024;

class NodeShell {
  readonly #process: ChildProcessWithoutNullStreams;
  #output = '';
  #ended = false;
  #turn: Promise<unknown> = Promise.resolve();
  #heard: () => void = () => {};

  constructor(node: string) {
    this.#process = spawn(join(repository, 'hack/cluster'), ['exec', node, 'sh']);
    this.#process.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text;
      this.#heard();
    });
    this.#process.stderr.resume();
    this.#process.stdin.on('error', () => {});
    this.#process.on('close', () => {
      this.#ended = true;
      this.#heard();
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  run(script: string): Promise<string> {
    const next = this.#turn.then(() => this.#run(script));
    this.#turn = next.catch(() => {});
    return next;
  }

  async #run(script: string): Promise<string> {
    const mark = randomBytes(8).toString('hex');
    this.#output = '';
    this.#process.stdin.write(`( ${script}\n) 2>&1 </dev/null; echo "${mark} $?"\n`);
    const end = new RegExp(`${mark} (\\d+)\n`);
    const deadline = Date.now() + commandMsMax;
    for (;;) {
      const found = end.exec(this.#output);
      if (found) {
        const text = this.#output.slice(0, found.index);
        if (found[1] !== '0') throw new Error(`in the node: ${script}: exit ${found[1]}: ${text}`);
        return text;
      }
      if (this.#ended) throw new Error('the shell in the node ended');
      if (Date.now() > deadline || this.#output.length > outputCharactersMax) {
        this.close();
        throw new Error(`in the node: ${script}: no end within ${commandMsMax} ms`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1_000);
        this.#heard = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    this.#process.stdin.end();
    this.#process.kill();
  }
}

const shells = new Map<string, NodeShell>();

/** Runs a shell script in a node's box. @returns its output @throws Error with its output when it fails */
export function inShell(node: string, script: string): Promise<string> {
  let shell = shells.get(node);
  if (!shell || shell.ended) {
    shell = new NodeShell(node);
    shells.set(node, shell);
  }
  return shell.run(script);
}

export function closeShells(): void {
  for (const shell of shells.values()) shell.close();
  shells.clear();
}
