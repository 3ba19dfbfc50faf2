import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { asScript, controlPlane, nodePrograms } from '../../../hack/nodes/components.ts';

const files = { containerd: '/c', kubelet: '/k', etcdData: '/e' };

describe("a box's programs", () => {
  it('get their arguments as they are, whatever a shell would make of them', () => {
    const words = ['a b', "it's", '$HOME', '`x`', '*', '\\', '"', 'ü', ''];
    const script = asScript({ name: 'print', command: ['printf', '%s\\n', ...words] });
    expect(execFileSync('sh', { input: script, encoding: 'utf8' })).toBe(`${words.join('\n')}\n`);
  });

  it('listen on no address of all networks by our flags', () => {
    const all = [...controlPlane(files), ...nodePrograms({ name: 'n2', index: 2, labels: '' }, files)];
    expect(all.flatMap(({ command }) => command).filter((word) => word.includes('0.0.0.0'))).toEqual([]);
  });

  it('know their own node', () => {
    const programs = nodePrograms({ name: 'n2', index: 2, labels: 'a=b' }, files);
    const kubelet = programs.find(({ name }) => name === 'kubelet')!;
    expect(kubelet.command).toEqual(
      expect.arrayContaining(['--hostname-override=n2', '--node-ip=10.77.0.12', '--node-labels=a=b']),
    );
  });
});
