import { describe, expect, it } from 'vitest';
import { tellingLine } from '../../../../agent/decide/arbiter/boot.ts';

describe('the line that tells why an engine ended', () => {
  it.each([
    [
      'is the exception below its traceback',
      'Traceback:\n  File "x"\nValueError: no such dtype\n',
      'ValueError: no such dtype',
    ],
    [
      'is the error, whatever the other stream still said',
      'ERROR: out of room\nINFO: started with model=m\n',
      'ERROR: out of room',
    ],
    ['is the last of several errors', 'ERROR: first\nRuntimeError: second', 'RuntimeError: second'],
    ['is the last line where none speaks of an error', 'INFO: a\nINFO: b\n\n', 'INFO: b'],
    ['is empty without output', '', ''],
  ])('%s', (_, tail, line) => {
    expect(tellingLine(tail)).toBe(line);
  });

  it('keeps the end of a very long one', () => {
    expect(tellingLine(`error ${'x'.repeat(5_000)}end`)).toMatch(/^x{200,400}end$/);
  });
});
