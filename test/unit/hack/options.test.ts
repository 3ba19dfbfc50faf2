import { describe, expect, it } from 'vitest';
import { parseUp, planNodes } from '../../../hack/nodes/options.ts';

const shape = (nodes: { name: string; gpus: string }[]) =>
  nodes.map(({ name, gpus }) => `${name}=${gpus}`).join(' ');

describe('the nodes of ./hack/cluster up', () => {
  it.each([
    ['one node with two A40 by default', [], 'n1=a40:2'],
    [
      'one entry of --gpus for each node in order',
      ['--nodes', '2', '--gpus', 'a40:2,t4:1'],
      'n1=a40:2 n2=t4:1',
    ],
    ['as many nodes as entries without --nodes', ['--gpus=a40:2,t4:1'], 'n1=a40:2 n2=t4:1'],
    ['further nodes like the last entry', ['--nodes=3', '--gpus=a40:2,t4:1'], 'n1=a40:2 n2=t4:1 n3=t4:1'],
    ['several types on one node', ['--gpus', 'a40:1+t4:2'], 'n1=a40:1,t4:2'],
    ['a node without GPUs', ['--gpus', 'none,t4:1'], 'n1= n2=t4:1'],
  ])('are %s', (_, args, expected) => {
    expect(shape(parseUp(args).nodes)).toBe(expected);
  });

  it('have numbers that addresses are made of', () => {
    expect(planNodes('2').map(({ index }) => index)).toEqual([1, 2]);
  });

  it.each([
    [['--nodes', '0'], /--nodes: 0 is not a number from 1 to 32/],
    [['--nodes', '33'], /--nodes: 33/],
    [['--nodes', '1.5'], /--nodes: 1.5/],
    [['--nodes'], /--nodes needs a value/],
    [['--gpus', 'a40'], /--gpus: "a40" is not TYPE:COUNT/],
    [['--gpus', 'a40:0'], /--gpus: "a40:0"/],
    [['--gpus', 'a40:2;reboot'], /--gpus/],
    [['--gpus', 'a40:40+t4:40'], /80 GPUs on one node; at most 64/],
    [['--nodes', '1', '--gpus', 'a40:1,t4:1'], /2 entries for 1 node/],
    [['--gpus', Array(33).fill('a40:1').join(',')], /33 nodes; at most 32/],
    [['--fast'], /unknown argument --fast/],
  ])('are refused for %j', (args, message) => {
    expect(() => parseUp(args)).toThrow(message);
  });
});
