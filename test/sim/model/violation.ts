/** A broken invariant: which one, and in words what was seen against what must hold. Ends the run that finds it. */

export type InvariantId =
  | "I1"
  | "I2"
  | "I3"
  | "I4"
  | "I6"
  | "I7"
  | "I8"
  | "I11"
  /** The product's own assertion failed, or something it calls unexpected happened. */
  | "ASSERT";

export class Violation extends Error {
  readonly invariant: InvariantId;

  constructor(invariant: InvariantId, message: string) {
    super(`${invariant}: ${message}`);
    this.name = "Violation";
    this.invariant = invariant;
  }
}

/** Throws unless `holds`. The message is made only when it is needed. */
export function require(invariant: InvariantId, holds: boolean, message: () => string): void {
  if (!holds) throw new Violation(invariant, message());
}
