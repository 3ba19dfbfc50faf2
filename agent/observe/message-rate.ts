/** Counts messages in each second of the clock. */

/** @returns called for each message: whether it is within the bound */
export function messageRate(perSecondMax: number): () => boolean {
  let second = 0;
  let count = 0;
  return () => {
    const now = Math.floor(performance.now() / 1_000);
    count = now === second ? count + 1 : 1;
    second = now;
    return count <= perSecondMax;
  };
}
