/**
 * One JSON object a line on stderr. Fields that could hold a secret are the caller's to leave out: only names, figures
 * and sentences go in.
 */

export const levels = ['debug', 'info', 'warn', 'error'] as const;
export type Level = (typeof levels)[number];
export type Fields = Record<
  string,
  string | number | boolean | null | undefined | readonly (string | number)[]
>;

export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
  /** A log whose lines all carry these fields. */
  with(fields: Fields): Log;
}

/** @param program `agent`, `controller`, `sidecar`, `converter`; @param least lines below this level are not written */
export function createLog(
  program: string,
  least: Level = 'info',
  write = (line: string) => void process.stderr.write(line),
): Log {
  const from = (base: Fields): Log => {
    const at = (level: Level) => (message: string, fields?: Fields) => {
      if (levels.indexOf(level) < levels.indexOf(least)) return;
      write(
        `${JSON.stringify({ time: new Date().toISOString(), level, program, message, ...base, ...fields })}\n`,
      );
    };
    return {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      with: (fields) => from({ ...base, ...fields }),
    };
  };
  return from({});
}

/** What an unknown thrown thing says. */
export const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error));
