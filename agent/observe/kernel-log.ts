/**
 * The kernel log by /dev/kmsg, one record a read: first everything since the machine started that it still holds, then what
 * comes. Needs the device in the container (privileged, or a device allowance) and CAP_SYSLOG where dmesg is restricted.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { errorText, type Log } from '#platform/log.ts';

/** The kernel cuts records to less than this (CONSOLE_EXT_LOG_MAX); a smaller buffer is refused, bytes. */
const recordBytesMax = 8 * 1024;
/** How often a log that had nothing new is read again, ms. */
const pollMs = 1_000;

/** A file that answers one record a read. */
export interface KernelLogFile {
  /** @returns bytes read; 0 at the end. Rejects with EAGAIN when there is none yet, EPIPE when some were overwritten */
  read(buffer: Buffer): Promise<number>;
  close(): Promise<void>;
}

async function openDevice(): Promise<KernelLogFile> {
  const file = await open('/dev/kmsg', constants.O_RDONLY | constants.O_NONBLOCK);
  return {
    read: async (buffer) => (await file.read(buffer, 0, buffer.length, null)).bytesRead,
    close: () => file.close(),
  };
}

/** The message of `priority,sequence,microseconds,flags;message`, its escapes undone; null for anything else. */
export function messageOf(record: string): string | null {
  const match = /^\d+,\d+,\d+,[^;]*;([^\n]*)/.exec(record);
  return match
    ? match[1]!.replace(/\\x([0-9a-f]{2})/gi, (_, hex: string) =>
        String.fromCharCode(Number.parseInt(hex, 16)),
      )
    : null;
}

/**
 * Follows the kernel log until stopped. Where it may not be read, that is said once and nothing follows.
 * @param tell every message
 */
export function followKernelLog(
  tell: (message: string) => void,
  log: Log,
  openLog: () => Promise<KernelLogFile> = openDevice,
): { stop(): void } {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let wake: (() => void) | undefined;
  const pause = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve;
      timer = setTimeout(resolve, pollMs);
    });

  async function follow(file: KernelLogFile): Promise<void> {
    const buffer = Buffer.alloc(recordBytesMax);
    while (!stopped) {
      try {
        const bytes = await file.read(buffer);
        const message = messageOf(buffer.toString('utf8', 0, bytes));
        if (message !== null) tell(message);
        if (bytes === 0) await pause();
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        // EPIPE: records were overwritten before they were read; the next read goes on behind them.
        if (code === 'EPIPE') continue;
        if (code !== 'EAGAIN') throw error;
        await pause();
      }
    }
  }

  async function run(): Promise<void> {
    try {
      const file = await openLog();
      await follow(file).finally(() => file.close());
    } catch (error) {
      log.info('XIDs are not read: the kernel log is closed to the agent', { error: errorText(error) });
    }
  }
  void run();

  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
      wake?.();
    },
  };
}
