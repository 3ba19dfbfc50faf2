/**
 * `nvidia-smi -q -x`, by the presence of elements and not by schema number: v11, v12 and v13 each cover several dialects
 * (drivers 418 to 595), and containers such as `<remapped_rows>` may hold a text instead of children.
 */
import { XMLParser } from 'fast-xml-parser';
import type { GpuReading, ProbeFault } from '../../decide/facts.ts';
import { anyOf, figure, flag, isAbsent, memory, note, sumOf } from './values.ts';

/** What could be read of one document, and why not more. */
export interface ParsedQuery {
  gpus: GpuReading[];
  faults: ProbeFault[];
}

type Element = string | { [name: string]: Element | Element[] };

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  isArray: (name) => name === 'gpu',
  // Hundreds of clock steps that nobody asks for.
  stopNodes: ['nvidia_smi_log.gpu.supported_clocks'],
});

/** The text of a leaf below an element; undefined when a step of the path is missing, repeated or a text itself. */
function leaf(element: Element | undefined, ...path: string[]): string | undefined {
  let at: Element | Element[] | undefined = element;
  for (const name of path) {
    if (typeof at !== 'object' || Array.isArray(at)) return undefined;
    at = at[name];
  }
  return typeof at === 'string' ? at : undefined;
}

/** The driver's advice in one spelling; older drivers give it as two flags. */
function recoveryAction(gpu: Element, anomalies: string[]): string | null {
  const told = leaf(gpu, 'gpu_recovery_action');
  if (told !== undefined && !isAbsent(told)) {
    const word = told.trim().replace(/^(GPU|Node) /, '');
    if (!['None', 'Reset', 'Reboot', 'Drain P2P', 'Drain and Reset'].includes(word)) note(anomalies, told);
    return word;
  }
  const reset = flag(leaf(gpu, 'gpu_reset_status', 'reset_required'), anomalies);
  const drain = flag(leaf(gpu, 'gpu_reset_status', 'drain_and_reset_recommended'), anomalies);
  if (reset) return 'Reset';
  if (drain) return 'Drain and Reset';
  return reset === null && drain === null ? null : 'None';
}

/** Uncorrectable errors since the driver was loaded: by memory kind (Turing and newer), or as double-bit errors. */
function eccUncorrectable(gpu: Element, anomalies: string[]): number | null {
  const count = (...path: string[]) => figure(leaf(gpu, 'ecc_errors', 'volatile', ...path), '', anomalies);
  return (
    sumOf(
      ...[
        'sram_uncorrectable',
        'sram_uncorrectable_parity',
        'sram_uncorrectable_secded',
        'dram_uncorrectable',
      ].map((name) => count(name)),
    ) ??
    count('double_bit', 'total') ??
    count('double_bit', 'device_memory')
  );
}

function slowdown(gpu: Element, anomalies: string[]): boolean | null {
  const reason = (name: string) =>
    flag(
      leaf(gpu, 'clocks_event_reasons', `clocks_event_reason_${name}`) ??
        leaf(gpu, 'clocks_throttle_reasons', `clocks_throttle_reason_${name}`),
      anomalies,
    );
  return anyOf(reason('hw_thermal_slowdown'), reason('hw_power_brake_slowdown'));
}

function powerWatts(gpu: Element, anomalies: string[]): number | null {
  for (const path of [
    ['gpu_power_readings', 'instant_power_draw'],
    ['gpu_power_readings', 'power_draw'],
    ['gpu_power_readings', 'average_power_draw'],
    ['power_readings', 'power_draw'],
  ]) {
    const watts = figure(leaf(gpu, ...path), 'W', anomalies);
    if (watts !== null) return watts;
  }
  return null;
}

const trimmed = (text: string | undefined): string | null =>
  text === undefined || isAbsent(text) ? null : text.trim();

/** One `<gpu>`; null when it does not even say its UUID. */
function reading(gpu: Element, index: number, driver: string | null): GpuReading | null {
  const uuid = trimmed(leaf(gpu, 'uuid'));
  if (uuid === null) return null;
  const anomalies: string[] = [];
  const flagAt = (...path: string[]) => flag(leaf(gpu, ...path), anomalies);
  const memoryAt = (name: string) => memory(leaf(gpu, 'fb_memory_usage', name), anomalies);
  const percent = figure(leaf(gpu, 'utilization', 'gpu_util'), '%', anomalies);
  return {
    uuid,
    index,
    name: trimmed(leaf(gpu, 'product_name')) ?? '',
    busId: trimmed(leaf(gpu, '@id')) ?? trimmed(leaf(gpu, 'pci', 'pci_bus_id')),
    driver,
    totalBytes: memoryAt('total'),
    usedBytes: memoryAt('used'),
    freeBytes: memoryAt('free'),
    reservedBytes: memoryAt('reserved'),
    utilizationRatio: percent === null ? null : percent / 100,
    temperatureCelsius: figure(leaf(gpu, 'temperature', 'gpu_temp'), 'C', anomalies),
    powerWatts: powerWatts(gpu, anomalies),
    migEnabled: flagAt('mig_mode', 'current_mig'),
    recoveryAction: recoveryAction(gpu, anomalies),
    remapPending: flagAt('remapped_rows', 'remapped_row_pending'),
    remapFailure: flagAt('remapped_rows', 'remapped_row_failure'),
    retirementPending: anyOf(
      flagAt('retired_pages', 'pending_blacklist'),
      flagAt('retired_pages', 'pending_retirement'),
    ),
    eccUncorrectable: eccUncorrectable(gpu, anomalies),
    repairPending: anyOf(
      flagAt('ecc_errors', 'channel_repair_pending'),
      flagAt('ecc_errors', 'tpc_repair_pending'),
    ),
    unrepairable: flagAt('ecc_errors', 'unrepairable_memory'),
    sramThresholdExceeded: flagAt('ecc_errors', 'aggregate', 'sram_threshold_exceeded'),
    thermalSlowdown: slowdown(gpu, anomalies),
    temperatureMarginCelsius: figure(leaf(gpu, 'temperature', 'gpu_temp_tlimit'), 'C', anomalies),
    fabricState: trimmed(leaf(gpu, 'fabric', 'state')),
    anomalies,
  };
}

/** A GPU of which nothing but its identity is known. */
export function identityOnly(identity: Pick<GpuReading, 'uuid' | 'index' | 'name' | 'busId'>): GpuReading {
  return {
    ...identity,
    driver: null,
    totalBytes: null,
    usedBytes: null,
    freeBytes: null,
    reservedBytes: null,
    utilizationRatio: null,
    temperatureCelsius: null,
    powerWatts: null,
    migEnabled: null,
    recoveryAction: null,
    remapPending: null,
    remapFailure: null,
    retirementPending: null,
    eccUncorrectable: null,
    repairPending: null,
    unrepairable: null,
    sramThresholdExceeded: null,
    thermalSlowdown: null,
    temperatureMarginCelsius: null,
    fabricState: null,
    anomalies: [],
  };
}

/** The GPUs of a whole document. @throws Error when it is not well-formed */
function parseDocument(xml: string): GpuReading[] {
  const log = (parser.parse(xml, true) as { nvidia_smi_log?: Element }).nvidia_smi_log ?? '';
  // Newer drivers put a note on the deprecation of the old field behind the version.
  const version = trimmed(leaf(log, 'kmd_version')) ?? trimmed(leaf(log, 'driver_version'));
  const driver = version?.split(' ')[0] ?? null;
  const gpus = typeof log === 'object' && !Array.isArray(log) ? log.gpu : undefined;
  if (!Array.isArray(gpus)) return [];
  return gpus.flatMap((gpu, index) => reading(gpu, index, driver) ?? []);
}

const inner = (text: string, name: string): string | undefined =>
  new RegExp(`<${name}>([^<]*)</${name}>`).exec(text)?.[1];

/** A document that breaks off: GPUs told of in full are read, the one after them keeps what names it. */
function parseTruncated(xml: string): ParsedQuery {
  const end = xml.lastIndexOf('</gpu>');
  const whole = end < 0 ? [] : parseDocument(`${xml.slice(0, end + '</gpu>'.length)}</nvidia_smi_log>`);
  const rest = end < 0 ? xml : xml.slice(end);
  const uuid = trimmed(inner(rest, 'uuid'));
  const message = 'nvidia-smi broke off in the middle of its answer: a GPU may hang, see dmesg';
  const fault: ProbeFault = { reason: 'OutputTruncated', message, busId: null };
  if (uuid === null) return { gpus: whole, faults: [fault] };
  const broken = identityOnly({
    uuid,
    index: whole.length,
    name: trimmed(inner(rest, 'product_name')) ?? '',
    busId: /<gpu id="([^"]*)"/.exec(rest)?.[1] ?? null,
  });
  return { gpus: [...whole, broken], faults: [{ ...fault, uuid }] };
}

/**
 * Reads what `nvidia-smi -q -x` printed.
 * @param stdout its standard output; text around the document is not looked at
 * @returns never throws: an output that is empty, breaks off or is no such document is a fault
 */
export function parseQuery(stdout: string): ParsedQuery {
  const broken = (reason: string, message: string): ParsedQuery => ({
    gpus: [],
    faults: [{ reason, message, busId: null }],
  });
  if (stdout.trim() === '') return broken('OutputEmpty', 'nvidia-smi answered nothing at all');
  const start = stdout.indexOf('<nvidia_smi_log>');
  const end = stdout.indexOf('</nvidia_smi_log>', start);
  const xml = end < 0 ? stdout.slice(start) : stdout.slice(start, end + '</nvidia_smi_log>'.length);
  try {
    if (start < 0) {
      return /^\s*<[?!n]/.test(stdout)
        ? broken('OutputTruncated', 'nvidia-smi broke off at the beginning of its answer')
        : broken('OutputUnreadable', `nvidia-smi -q -x answered no XML: update the driver`);
    }
    if (end < 0) return parseTruncated(xml);
    const gpus = parseDocument(xml);
    return gpus.length > 0
      ? { gpus, faults: [] }
      : broken('Missing', 'the driver lists no GPU: see the kernel log (dmesg)');
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return broken('OutputUnreadable', `nvidia-smi answered XML that cannot be read: ${text.slice(0, 200)}`);
  }
}
