/**
 * By setting: after each boot and each wake one short question, whose answer is compared with the one after the boot before
 * clients hear that it serves. An engine that talks nonsense is ended, and boots again under a new grant (docs/canary.md).
 */
import type { Hello } from '#proto/link.ts';
import { type CanaryAnswer, compareCanary, parseCanaryAnswer } from '../canary.ts';
import { explain } from './explain.ts';
import { engineAnswerMsMax } from './limits.ts';
import { enter, isDue, type Proof, type Replica, type Step, unheardUntilMs } from './state.ts';
import { beginServing } from './transitions.ts';
import type { ArbiterEvent } from './words.ts';

/** It is awake: serves, or is asked first. @param fresh a turn begins */
export function serveProven(step: Step, replica: Replica, after: Proof['after'], fresh: boolean): void {
  if (!step.state.canary || replica.reference === 'none' || replica.unproven === false) {
    beginServing(step, replica, fresh);
    return;
  }
  enter(step, replica, 'proving', step.now + engineAnswerMsMax);
  replica.proof = { after, fresh, id: null };
}

/** Asks those that have not been asked. One whose sidecar is silent since the agent's start may be serving all the while. */
export function driveProving(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    const { proof, reference } = replica;
    if (!proof || proof.id !== null || replica.mustRestart) continue;
    if (!replica.attached && !isDue(step, unheardUntilMs(step.state, replica))) continue;
    if (replica.unproven === false) {
      beginServing(step, replica, proof.fresh);
      continue;
    }
    proof.id = ++replica.probes;
    const kind = reference === null || reference === 'none' ? null : reference.kind;
    step.effects.push({ type: 'probe-engine', podUid: replica.podUid, id: proof.id, kind });
  }
}

/** A sidecar has said what it keeps, and whether it was told that its engine serves. */
export function takeReference(step: Step, replica: Replica, { state, canary = '' }: Hello): void {
  // Behind a barrier it may have slept and woken: the words that followed can be lost with the agent that said them.
  replica.unproven ??= state !== 'SERVING';
  if (!step.state.canary || replica.reference === 'none') return;
  if (replica.reference === null) replica.reference = parseCanaryAnswer(canary);
  else if (JSON.stringify(replica.reference) !== canary) sendReference(step, replica, replica.reference);
}

function sendReference(step: Step, replica: Replica, answer: CanaryAnswer): void {
  step.effects.push({ type: 'keep-canary', podUid: replica.podUid, answer });
}

function serve(step: Step, replica: Replica): void {
  beginServing(step, replica, replica.proof!.fresh);
}

/** Silence is no nonsense: a long batch that was thawed comes before the question. Its clients wait for nothing more. */
export function unanswered(step: Step, replica: Replica, message: string): void {
  const text = `${replica.model} serves unproven: the canary was not answered, ${message}`;
  explain(step, replica, 'CanarySilent', text, 'warn');
  serve(step, replica);
}

/** It stays where it is, its clients wait, until it may be ended. */
function alarm(step: Step, replica: Replica, figures: string): void {
  const text = `${replica.model} woke and talks nonsense: ${figures}`;
  explain(step, replica, 'CanaryAlarm', text, 'warn');
  const { proof } = replica;
  enter(step, replica, 'proving');
  replica.proof = proof;
  replica.mustRestart = {
    reason: 'TalksNonsense',
    message: 'after its wake it answered otherwise than after its boot',
  };
}

function answered(step: Step, replica: Replica, answer: CanaryAnswer): void {
  const { reference, proof, demand } = replica;
  const verdict = reference === null || reference === 'none' ? null : compareCanary(reference, answer);
  if (proof!.after === 'wake' && verdict) {
    if (verdict.alarm) alarm(step, replica, verdict.message);
    else serve(step, replica);
    return;
  }
  if (verdict?.alarm) {
    const text = `${replica.model} answers otherwise than after its boot before: ${verdict.message}`;
    explain(step, replica, 'CanaryBootDiffers', text, 'warn');
  }
  // Beside thawed streams it would be no measure for quiet ones; without a sidecar nobody knows of any.
  if (proof!.after === 'boot' || (replica.attached && demand.inFlight === 0)) {
    replica.reference = answer;
    sendReference(step, replica, answer);
  }
  serve(step, replica);
}

export function onProbed(step: Step, replica: Replica, event: ArbiterEvent & { type: 'probed' }): void {
  const { outcome, id } = event;
  if (replica.proof?.id !== id || replica.mustRestart) return;
  switch (outcome.type) {
    case 'answered':
      answered(step, replica, outcome.answer);
      return;
    case 'broken':
      if (replica.proof.after === 'wake' && replica.reference !== null) alarm(step, replica, outcome.message);
      else unanswered(step, replica, outcome.message);
      return;
    case 'not-offered':
      if (replica.reference === null) {
        replica.reference = 'none';
        const text = `${replica.model} takes neither completions nor embeddings: its wakes are not proven`;
        explain(step, replica, 'CanaryNotOffered', text);
        serve(step, replica);
      } else unanswered(step, replica, 'the engine offers its question no more');
      return;
    case 'silent':
      unanswered(step, replica, outcome.message);
      return;
    default:
      outcome satisfies never;
  }
}
