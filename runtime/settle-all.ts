/**
 * Waiting for several things that must not cut each other off: the end of one group in trouble must not let the process
 * leave while others still put theirs in order. Never swallows: the first error is thrown when all have ended.
 */
export async function settleAll(work: readonly Promise<unknown>[]): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}
