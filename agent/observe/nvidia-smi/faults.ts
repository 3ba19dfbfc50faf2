/**
 * What nvidia-smi's failures mean. It prints its errors on standard output as well as on standard error, and its exit codes
 * are NVML's return values (its manual page; 16, 17, 18, 28 by nvml.h, 18 as reported from the field).
 */
import type { ProbeFault } from '../../decide/facts.ts';
import type { SmiOutput } from './run.ts';

/** Longest piece of nvidia-smi's own text in a message, characters. */
const quotedCharactersMax = 200;

const fault = (reason: string, message: string, busId: string | null = null): ProbeFault => ({
  reason,
  message,
  busId,
});

/** Sentences of nvidia-smi's; `$1` is a bus id where there is one, `$2` the rest of the sentence. */
const sentences: [RegExp, (match: RegExpExecArray) => ProbeFault][] = [
  [
    /Driver\/library version mismatch/i,
    () =>
      fault(
        'DriverMismatch',
        'the loaded driver and the NVML library differ: an upgrade waits for a reboot of the node or a reload of the driver',
      ),
  ],
  [
    /couldn't communicate with the NVIDIA driver/i,
    () => fault('DriverNotLoaded', "the NVIDIA driver is not loaded: see the node's kernel log (dmesg)"),
  ],
  [
    /Failed to initialize NVML: Unknown Error/i,
    () =>
      fault(
        'DeviceAccessLost',
        'the GPUs are closed to this container, as after a systemctl daemon-reload: restart the agent',
      ),
  ],
  [
    /Failed to initialize NVML: (?<text>.*)/i,
    (match) => fault('NVMLFailed', `NVML does not start: ${quoted(match.groups?.text ?? '')}`),
  ],
  [
    /Unable to determine the device handle for (?:gpu)?\s*(?<bus>[0-9a-f]{4,8}:[0-9a-f:.]+?): (?<text>.*)/i,
    (match) => lostBoard(match.groups?.bus ?? null, match.groups?.text ?? ''),
  ],
  [
    /infoROM is corrupted at gpu (?<bus>[0-9a-f:.]+)/i,
    (match) =>
      fault('InforomCorrupt', "the board's infoROM is corrupt: have it checked", match.groups?.bus ?? null),
  ],
  [
    /No devices were found/i,
    () => fault('Missing', "the driver finds no GPU: see the node's kernel log (dmesg) for RmInitAdapter"),
  ],
];

function lostBoard(busId: string | null, text: string): ProbeFault {
  if (/reset/i.test(text)) {
    return fault(
      'ResetRequired',
      'the driver wants the GPU reset: end its processes, then nvidia-smi --gpu-reset',
      busId,
    );
  }
  return fault('GpuLost', `the driver lost the GPU (${quoted(text)}): reboot the node`, busId);
}

/** By exit code, where no sentence said more. */
const exits: Record<number, [reason: string, message: string]> = {
  2: ['QueryRefused', 'this nvidia-smi does not know what the agent asks for: install driver 418 or newer'],
  3: ['QueryRefused', 'this driver does not support what the agent asks for'],
  4: ['NoPermission', 'nvidia-smi may not open the GPUs: run the agent with access to the devices'],
  6: ['Missing', "the driver finds no such GPU: see the node's kernel log (dmesg)"],
  8: ['PowerCablesMissing', 'external power is not attached to the GPU: check its cables'],
  9: ['DriverNotLoaded', "the NVIDIA driver is not loaded: see the node's kernel log (dmesg)"],
  10: ['InterruptFault', "the kernel sees an interrupt fault of a GPU: see the node's kernel log (dmesg)"],
  12: ['NoDriver', "the driver's NVML library was not found: mount libnvidia-ml.so.1 into the agent"],
  13: ['DriverMismatch', 'the NVML library is older than nvidia-smi: install both from one driver'],
  14: ['InforomCorrupt', "a board's infoROM is corrupt: have it checked"],
  15: ['GpuLost', 'the driver lost a GPU: reboot the node'],
  16: ['ResetRequired', 'the driver wants a GPU reset: end its processes, then nvidia-smi --gpu-reset'],
  17: ['DeviceAccessLost', 'the operating system blocks the GPUs: restart the agent'],
  18: [
    'DriverMismatch',
    'the loaded driver and the NVML library differ: reboot the node or reload the driver',
  ],
  28: ['Missing', "the driver finds no such GPU: see the node's kernel log (dmesg)"],
};

const outcomes: Record<Exclude<SmiOutput['outcome'], 'exited'>, [reason: string, message: string]> = {
  'timed-out': ['ProbeTimeout', 'nvidia-smi did not answer in time: a GPU may hang, see dmesg'],
  'not-found': ['NoDriver', 'nvidia-smi is not on PATH: install the NVIDIA driver and its container toolkit'],
  'not-permitted': ['NoPermission', 'nvidia-smi may not be run: check its mode and the security profile'],
  'too-long': ['OutputTooLong', 'nvidia-smi printed more than the agent reads'],
  killed: ['ProbeFailed', 'nvidia-smi was killed by a signal'],
};

/** One line of nvidia-smi's, fit for a message. */
export function quoted(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > quotedCharactersMax ? `${line.slice(0, quotedCharactersMax)}…` : line;
}

/** Standard output around the XML document, and standard error: where sentences stand. */
function prose({ stdout, stderr }: SmiOutput): string[] {
  const around = stdout.replace(/<(?:\?xml|!DOCTYPE|nvidia_smi_log)[\s\S]*?(?:<\/nvidia_smi_log>|$)/, '\n');
  return `${around}\n${stderr}`.split('\n');
}

/**
 * The faults that a call of nvidia-smi tells of, in its words or by its exit code.
 * @returns empty when it ended well and complained of nothing; whether its output can be read is the parser's to say
 */
export function faultsOf(output: SmiOutput): ProbeFault[] {
  if (output.outcome !== 'exited') return [fault(...outcomes[output.outcome])];
  const lines = prose(output);
  const told = lines.flatMap((line) => {
    for (const [pattern, meaning] of sentences) {
      const match = pattern.exec(line);
      if (match) return [meaning(match)];
    }
    return [];
  });
  if (told.length > 0 || output.exitCode === 0) return told;
  const known = exits[output.exitCode ?? -1];
  if (known) return [fault(...known)];
  const first = lines.find((line) => line.trim() !== '') ?? 'it said nothing';
  return [fault('ProbeFailed', `nvidia-smi ended with ${output.exitCode}: ${quoted(first)}`)];
}
