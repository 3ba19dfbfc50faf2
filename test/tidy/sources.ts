/** The project's own TypeScript files, for the rules that are tests. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Source {
  /** Path from the repository's root. */
  path: string;
  text: string;
  /** The code without comments and string contents; same line numbers. */
  code: string;
  /** Paths from the root, or package names, that it imports; `typeOnly` ones vanish at run time. */
  imports: { to: string; typeOnly: boolean }[];
}

/** Blanks comments and the insides of strings, so that a rule about calls does not trip over prose. */
export function withoutProse(text: string): string {
  const blank = (match: string) => match.replace(/[^\n]/g, ' ');
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/g, (match) =>
    match.startsWith('/') ? blank(match) : `'${blank(match.slice(1, -1))}'`,
  );
}

const aliases: Record<string, string> = { '#api/': 'api/', '#proto/': 'proto/', '#platform/': 'platform/' };

function resolveImport(from: string, specifier: string): string {
  for (const [alias, folder] of Object.entries(aliases)) {
    if (specifier.startsWith(alias)) return folder + specifier.slice(alias.length);
  }
  return specifier.startsWith('.') ? normalize(join(dirname(from), specifier)) : specifier;
}

/** Every import and re-export of a file, dynamic ones included. */
export function importsOf(path: string, text: string): Source['imports'] {
  const found: Source['imports'] = [];
  const pattern =
    /(?:^|\n)\s*(?:import|export)\s+(type\s+)?(?:[\w*{][^'";]*?\s+from\s+)?['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]\s*\)/g;
  for (const match of text.matchAll(pattern)) {
    found.push({ to: resolveImport(path, (match[2] ?? match[3])!), typeOnly: match[1] !== undefined });
  }
  return found;
}

/** All TypeScript files git knows or would take, outside fixtures. */
export function sources(): Source[] {
  const list = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.ts'], {
    cwd: root,
    encoding: 'utf8',
  });
  return list
    .split('\n')
    .filter((path) => path !== '' && !path.startsWith('test/fixtures/'))
    .flatMap((path) => {
      try {
        const text = readFileSync(join(root, path), 'utf8');
        return [{ path, text, code: withoutProse(text), imports: importsOf(path, text) }];
      } catch {
        return []; // deleted in the work tree, still in the index
      }
    });
}
