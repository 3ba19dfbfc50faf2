/**
 * Services' names for pods: `NAME.NAMESPACE.svc.cluster.local` as A records (RFC 1035), over UDP. Names outside the cluster
 * do not exist here: nothing of this network leaves the machine.
 */
import { createSocket, type Socket } from 'node:dgram';

const zone = '.svc.cluster.local';
const headerBytes = 12;
/** RFC 1035: what every resolver takes over UDP; our answers are one record. */
const messageBytesMax = 512;
/** Services move rarely, tests quickly. */
const ttlSeconds = 2;

const types = { A: 1, AAAA: 28, OPT: 41 } as const;
const classInternet = 1;
const codes = { noError: 0, formatError: 1, noSuchName: 3, notImplemented: 4 } as const;

interface Question {
  name: string;
  type: number;
  /** Where the question ends in the message. */
  end: number;
}

/** @returns null when there is no single well-formed question */
function readQuestion(message: Buffer): Question | null {
  if (message.length > messageBytesMax || message.readUInt16BE(4) !== 1) return null;
  const labels: string[] = [];
  let at = headerBytes;
  while (at < message.length) {
    const length = message[at]!;
    at += 1;
    if (length === 0) break;
    // 63 is the longest label; larger values are pointers, which no question needs.
    if (length > 63 || at + length > message.length) return null;
    labels.push(message.toString('latin1', at, at + length));
    at += length;
  }
  if (at + 4 > message.length || message.readUInt16BE(at + 2) !== classInternet) return null;
  return { name: labels.join('.').toLowerCase(), type: message.readUInt16BE(at), end: at + 4 };
}

function reply(message: Buffer, code: number, questionEnd: number, record?: Buffer): Buffer {
  const header = Buffer.from(message.subarray(0, headerBytes));
  // A response, authoritative; "recursion desired" comes back as it was asked.
  header.writeUInt16BE(0x8480 | (message.readUInt16BE(2) & 0x0100) | code, 2);
  header.writeUInt16BE(questionEnd > headerBytes ? 1 : 0, 4);
  header.writeUInt16BE(record ? 1 : 0, 6);
  header.writeUInt32BE(0, 8);
  return Buffer.concat([header, message.subarray(headerBytes, questionEnd), record ?? Buffer.alloc(0)]);
}

function addressRecord(address: string): Buffer {
  const record = Buffer.alloc(16);
  record.writeUInt16BE(0xc000 | headerBytes, 0); // the question's own name
  record.writeUInt16BE(types.A, 2);
  record.writeUInt16BE(classInternet, 4);
  record.writeUInt32BE(ttlSeconds, 6);
  record.writeUInt16BE(4, 10);
  for (const [at, byte] of address.split('.').entries()) record[12 + at] = Number(byte);
  return record;
}

/**
 * The answer to one DNS message.
 *
 * @param addressOf the IPv4 address of `NAMESPACE/NAME`, or null
 * @returns null for what is no question at all: nothing is sent
 */
export function answer(message: Buffer, addressOf: (service: string) => string | null): Buffer | null {
  if (message.length < headerBytes || (message[2]! & 0x80) !== 0) return null;
  if ((message[2]! & 0x78) !== 0) return reply(message, codes.notImplemented, headerBytes);
  const question = readQuestion(message);
  if (!question) return reply(message, codes.formatError, headerBytes);
  const parts = question.name.endsWith(zone) ? question.name.slice(0, -zone.length).split('.') : [];
  const address = parts.length === 2 ? addressOf(`${parts[1]}/${parts[0]}`) : null;
  if (!address) return reply(message, codes.noSuchName, question.end);
  const record = question.type === types.A ? addressRecord(address) : undefined;
  return reply(message, codes.noError, question.end, record);
}

/** Answers at an address, port 53, until the process ends. @param onError is called when it cannot */
export function serveNames(
  address: string,
  addressOf: (service: string) => string | null,
  onError: (error: Error) => void,
): Socket {
  const socket = createSocket('udp4');
  socket.on('message', (message, from) => {
    const response = answer(message, addressOf);
    if (response) socket.send(response, from.port, from.address);
  });
  socket.on('error', onError);
  socket.bind(53, address);
  return socket;
}
