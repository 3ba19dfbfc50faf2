/** From the log lines of agent, launchers and converters to the words of a timeline. */
import type { Program } from '../../hack/one-node/programs.ts';
import { type ModelName, models, otherOf, type Phase } from './plan.ts';
import type { Timeline } from './timeline.ts';

/** A phase's words: where it begins, and which of these ends it. */
export const phaseWords: Record<Phase, (model: ModelName) => { begin: string; end: string[] }> = {
  fetch: (model) => ({ begin: `fetching ${model}`, end: [`published ${model}`] }),
  convert: (model) => ({ begin: `published ${model}`, end: [`converted ${model}`] }),
  // From its first chunk on: before that threads are started, which takes longer than some dozen MiB.
  stage: (model) => ({ begin: `flows ${model}`, end: [`staged ${model}`] }),
  boot: (model) => ({ begin: `started ${model}`, end: [`ready ${model}`] }),
  serve: (model) => ({ begin: `first ${model}`, end: [`answered ${model}`] }),
  // Over when its bytes were measured free: then the one that waited is let go.
  sleep: (model) => ({ begin: `sleep ${model}`, end: [`wake ${otherOf(model)}`, `grant ${otherOf(model)}`] }),
  wake: (model) => ({ begin: `wake ${model}`, end: [`first ${model}`] }),
};

type Line = Record<string, unknown> & { message?: string };

/** Each line of what a program says on stderr, if it is JSON. */
function eachLine({ child }: Program, tell: (line: Line) => void): void {
  let rest = '';
  child.stderr!.on('data', (chunk) => {
    const lines = (rest + String(chunk)).split('\n');
    rest = lines.pop()!;
    for (const text of lines) {
      if (!text.startsWith('{')) continue;
      try {
        tell(JSON.parse(text) as Line);
      } catch {
        // an engine's own line that looks like one
      }
    }
  });
}

const modelOf = (text: unknown): ModelName | undefined =>
  models.find((model) => String(text).includes(`--${model}/`));

/** Effects that move an engine, and what they are called here. */
const effects: Record<string, string> = {
  grant: 'grant',
  barrier: 'barrier',
  'sleep-engine': 'sleep',
  'wake-engine': 'wake',
  'ask-engine': 'ask',
  'restart-engine': 'restart',
};

/** @param podModel whose pod it is */
export function listenToAgent(
  agent: Program,
  timeline: Timeline,
  podModel: (podUid: string) => ModelName | undefined,
): void {
  eachLine(agent, (line) => {
    const podUid = String(line.podUid ?? '');
    const effect = effects[String(line.effect)];
    if (effect) timeline.see(`${effect} ${podModel(podUid) ?? podUid}`);
    else if (line.message === 'staging begins') timeline.see(`staging ${modelOf(line.weights)}`);
    else if (line.reason === 'Staged')
      timeline.see(`staged ${podModel(podUid) ?? podUid}`, String(line.message));
    else if (line.level === 'warn' || line.level === 'error')
      timeline.see(
        'agent says',
        `${podModel(podUid) ?? ''} ${line.message} ${line.error ?? line.reason ?? ''}`,
      );
  });
}

const launcherWords: Record<string, string> = {
  'engine started': 'started',
  'engine is ready': 'ready',
  'engine ended': 'ended',
};

export function listenToLauncher(launcher: Program, timeline: Timeline, model: ModelName): void {
  eachLine(launcher, (line) => {
    const word = launcherWords[line.message ?? ''];
    if (word) timeline.see(`${word} ${model}`, String(line.pid ?? line.signal ?? line.code ?? ''));
  });
}

/** The converter's own words, but one on its waiting. */
const converterWords: Record<string, string> = {
  fetching: 'fetching',
  published: 'published',
  converting: 'converting',
  converted: 'converted',
};

export function listenToConverter(converter: Program, timeline: Timeline, model: ModelName): void {
  eachLine(converter, (line) => {
    const word = converterWords[line.message ?? ''];
    if (word) timeline.see(`${word} ${model}`, line.bytes === undefined ? '' : `${line.bytes} bytes`);
    else timeline.see(`converter says ${model}`, `${line.message} ${line.detail ?? ''}`);
  });
}
