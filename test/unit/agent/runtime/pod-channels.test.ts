import { existsSync, lstatSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterEach, describe, expect, it } from 'vitest';
import { grantLineBytesMax } from '#proto/grant.ts';
import { openPodChannel, type PodChannel } from '../../../../agent/pod-channels.ts';
import { ask, dialAgent, dialGrant, helloOf, noDemand } from './link-clients.ts';
import { afterwards, cleanUp, folder, keptLog, podUid, until } from './until.ts';

afterEach(cleanUp);

type Emitted = { type: string } & Record<string, unknown>;
const uid = podUid(1);

const podFolder = (): string => {
  const path = join(folder(), uid);
  mkdirSync(path);
  return path;
};

function open(directory = podFolder()) {
  const events: Emitted[] = [];
  const { log, lines } = keptLog();
  const channel: PodChannel = openPodChannel(uid, directory, {
    release: 'r1',
    holdsBack: false,
    emit: (event) => void events.push(event as Emitted),
    log,
  });
  afterwards(() => channel.close());
  const types = () => events.map(({ type }) => type);
  return {
    directory,
    channel,
    events,
    types,
    lines,
    agentSock: join(directory, 'agent.sock'),
    grantSock: join(directory, 'grant.sock'),
  };
}

describe('agent.sock', () => {
  it('welcomes a hello, then carries both ways', async () => {
    const { channel, events, agentSock, types } = open();
    const sidecar = dialAgent(agentSock);
    sidecar.say({ hello: helloOf(uid, { settings: '{"v":1}' }) });
    await until('attached', () => types().includes('attached'));
    expect(events[0]).toMatchObject({ type: 'attached', hello: { podUid: uid, settings: '{"v":1}' } });
    sidecar.say({ demand: { ...noDemand, queued: 2 } });
    sidecar.say({ barrierUp: { epoch: 3, inFlight: 1 } });
    sidecar.say({ ending: { drained: false } });
    await until('three more', () => types().length === 4);
    expect(types()).toEqual(['attached', 'demand', 'barrier-up', 'sidecar-ending']);
    expect(channel.sidecar.send({ barrier: { epoch: 7, drainTimeoutMs: 30_000 } })).toBe(true);
    await until('the barrier', () => sidecar.heard.length === 2);
    expect(sidecar.heard).toEqual([
      { welcome: { protocol: 1, release: 'r1', holdsBack: false } },
      { barrier: { epoch: 7, drainTimeoutMs: 30_000 } },
    ]);
    sidecar.close();
    await until('detached', () => types().at(-1) === 'detached');
    expect(channel.sidecar.send({ end: { graceMs: 1 } })).toBe(false);
  });

  it.each([
    ['a hello of another pod', { hello: helloOf(podUid(2)) }, status.PERMISSION_DENIED, /POD_UID/],
    ['no hello first', { demand: noDemand }, status.FAILED_PRECONDITION, /hello/],
    ['no protocol', { hello: helloOf(uid, { protocol: 0 }) }, status.FAILED_PRECONDITION, /protocol 0/],
    ['a far protocol', { hello: helloOf(uid, { protocol: 3 }) }, status.FAILED_PRECONDITION, /upgrade/],
  ])('refuses %s', async (_, message, code, details) => {
    const { agentSock, events } = open();
    const sidecar = dialAgent(agentSock);
    sidecar.say(message);
    const ended = await until('a status', sidecar.ended);
    expect(ended.code).toBe(code);
    expect(ended.details).toMatch(details);
    expect(events).toEqual([]);
  });

  it('speaks with the next release too', async () => {
    const { agentSock, types } = open();
    dialAgent(agentSock).say({ hello: helloOf(uid, { protocol: 2 }) });
    await until('attached', () => types().includes('attached'));
  });

  it('holds the newest stream alone, without a detach between', async () => {
    const { channel, agentSock, types } = open();
    const first = dialAgent(agentSock);
    first.say({ hello: helloOf(uid) });
    await until('attached', () => types().length === 1);
    const second = dialAgent(agentSock);
    second.say({ hello: helloOf(uid) });
    await until('the old one ended', first.ended);
    channel.sidecar.send({ end: { graceMs: 5 } });
    await until('the end', () => second.heard.length === 2);
    expect(types()).toEqual(['attached', 'attached']);
    expect(first.heard).toHaveLength(1);
  });

  it('cuts off a sidecar that floods', async () => {
    const { agentSock, types } = open();
    const sidecar = dialAgent(agentSock);
    sidecar.say({ hello: helloOf(uid) });
    await until('attached', () => types().length === 1);
    for (let n = 0; n < 5_000; n++) sidecar.say({ demand: noDemand });
    const ended = await until('a status', sidecar.ended);
    expect(ended.code).toBe(status.RESOURCE_EXHAUSTED);
    expect(types().length).toBeLessThan(1_500);
    expect(types().at(-1)).toBe('detached');
  });

  it('cuts off a sidecar that does not read', async () => {
    const { channel, agentSock, types } = open();
    const sidecar = dialAgent(agentSock);
    sidecar.say({ hello: helloOf(uid) });
    await until('attached', () => types().length === 1);
    sidecar.stream.pause();
    const settings = 'x'.repeat(100_000);
    let sent = 0;
    while (channel.sidecar.send({ settings: { settings } }) && sent < 2_000) sent += 1;
    expect(sent).toBeLessThan(600);
    expect(types().at(-1)).toBe('detached');
  });
});

describe('grant.sock', () => {
  it('turns lines into events and sends lines', async () => {
    const { channel, events, grantSock } = open();
    const launcher = dialGrant(grantSock);
    launcher.say(ask(uid));
    await until('asked', () => events.length === 1);
    expect(channel.launcher.send({ type: 'grant', id: 'g1', bytes: 1_000 })).toBe(true);
    launcher.say({ type: 'started', pid: 7 });
    launcher.say({ type: 'a-later-word' });
    launcher.raw('{"v":1,"type":"rea');
    launcher.raw('dy"}\n{"v":1,"type":"exited","code":1,"signal":null,"tail":"boom"}\n');
    launcher.say({ type: 'ending' });
    await until('five events', () => events.length === 5);
    expect(events).toEqual([
      { type: 'asked', podUid: uid, uuids: ['GPU-1'], bytes: 1_000, restarts: 0 },
      { type: 'started', podUid: uid },
      { type: 'ready', podUid: uid },
      { type: 'exited', podUid: uid, code: 1, signal: null, tail: 'boom' },
      { type: 'launcher-ending', podUid: uid },
    ]);
    expect(launcher.lines).toEqual([{ v: 1, type: 'grant', id: 'g1', bytes: 1_000 }]);
    launcher.socket.destroy();
    await until('gone', () => events.at(-1)?.type === 'launcher-gone');
    expect(channel.launcher.send({ type: 'drained' })).toBe(false);
  });

  it.each([
    ['a line that is too long', 'x'.repeat(grantLineBytesMax + 1)],
    ['a long line with an end', `${'x'.repeat(grantLineBytesMax + 1)}\n`],
    ['no JSON', 'hello\n'],
    ['another first line', '{"v":1,"type":"ready"}\n'],
    ['another pod', `${JSON.stringify({ v: 1, ...ask(podUid(2)) })}\n`],
    ['wrong bytes', `${JSON.stringify({ v: 1, ...ask(uid, { bytes: -1 }) })}\n`],
  ])('closes on %s', async (_, text) => {
    const { grantSock, events } = open();
    const launcher = dialGrant(grantSock);
    launcher.raw(text);
    await until('closed', launcher.closed);
    expect(events).toEqual([]);
  });

  it('holds the newest launcher alone', async () => {
    const { channel, grantSock, types } = open();
    const first = dialGrant(grantSock);
    first.say(ask(uid));
    await until('asked', () => types().length === 1);
    const second = dialGrant(grantSock);
    second.say(ask(uid, { restarts: 1 }));
    await until('the old one closed', first.closed);
    channel.launcher.send({ type: 'wait', reason: 'NoRoom', message: 'm' });
    await until('a line', () => second.lines.length === 1);
    expect(types()).toEqual(['asked', 'asked']);
  });

  it('closes a launcher that floods', async () => {
    const { grantSock, types } = open();
    const launcher = dialGrant(grantSock);
    launcher.say(ask(uid));
    launcher.raw('{"v":1,"type":"ready"}\n'.repeat(500));
    await until('closed', launcher.closed);
    await until('gone', () => types().at(-1) === 'launcher-gone');
    expect(types().length).toBeLessThan(250);
  });
});

describe('the sockets in a directory', () => {
  it('take the place of what lay there, links and folders included, without following them', async () => {
    const directory = podFolder();
    const precious = join(folder(), 'precious');
    writeFileSync(precious, 'kept');
    symlinkSync(precious, join(directory, 'agent.sock'));
    mkdirSync(join(directory, 'grant.sock', 'inside'), { recursive: true });
    const { agentSock, grantSock, types } = open(directory);
    expect(lstatSync(agentSock).isSocket()).toBe(true);
    expect(lstatSync(grantSock).isSocket()).toBe(true);
    expect(lstatSync(agentSock).mode & 0o777).toBe(0o666);
    expect(existsSync(precious)).toBe(true);
    dialAgent(agentSock).say({ hello: helloOf(uid) });
    await until('attached', () => types().includes('attached'));
  });

  it('are made again when somebody removed them', async () => {
    const { channel, agentSock, grantSock, types } = open();
    rmSync(grantSock);
    rmSync(agentSock);
    channel.ensure();
    dialGrant(grantSock).say(ask(uid));
    dialAgent(agentSock).say({ hello: helloOf(uid) });
    await until('both', () => types().includes('asked') && types().includes('attached'));
    const inode = lstatSync(agentSock).ino;
    channel.ensure();
    expect(lstatSync(agentSock).ino).toBe(inode);
  });

  it('serve an agent that comes after one that died', async () => {
    const first = open();
    const launcher = dialGrant(first.grantSock);
    launcher.say(ask(uid));
    await until('asked', () => first.types().length === 1);
    first.channel.close();
    await until('the connection died', launcher.closed);
    expect(existsSync(first.agentSock)).toBe(true);
    const second = open(first.directory);
    dialAgent(second.agentSock).say({ hello: helloOf(uid, { state: 'SERVING', epoch: 9 }) });
    await until('attached', () => second.types().includes('attached'));
  });
});
