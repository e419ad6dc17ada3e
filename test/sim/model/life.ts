/**
 * Pause and end of a group's life as its operator knows them: what was ordered, and what has been taken (docs/group-life.md).
 * What a process that died made of an order nobody knows until it is given again. Imports nothing of the product.
 */
import { require } from "./violation.ts";

export class GroupLife {
  readonly #name: string;
  /** `unknown`: an order was given and its end not seen. */
  #pause: "none" | "stands" | "unknown" = "none";
  #sinceMs = 0;
  /** Sites at which it has ended. */
  readonly #ended = new Set<string>();

  constructor(name: string) {
    this.#name = name;
  }

  /** An order to pause or to go on is given; what becomes of it is told to one of the two below, or to nobody. */
  ordered(): void {
    this.#pause = "unknown";
  }

  paused(nowMs: number): void {
    this.#pause = "stands";
    this.#sinceMs = nowMs;
  }

  resumed(): void {
    this.#pause = "none";
  }

  get stands(): boolean {
    return this.#pause === "stands";
  }

  /** L1: records stay at home. */
  judgeBatch(last: number): void {
    require("I4", !this.stands, () => `${this.#name} ships up to ${last}, and is paused by an order`);
  }

  /** A pause that stands is shown, whatever restarts, and nobody who ships nothing calls itself protected. */
  judgeShown(isShown: boolean, state: string): void {
    require("I11", !this.stands || isShown, () => `${this.#name} is paused by an order and does not say so`);
    require("I11", !(this.stands && state === "protected"), () =>
      `${this.#name} says protected, and is paused by an order`);
  }

  /** For how long a pause has stood, ms; 0: none does. */
  stoodMs(nowMs: number): number {
    return this.stands ? nowMs - this.#sinceMs : 0;
  }

  ended(site: string): void {
    this.#ended.add(site);
  }

  hasEnded(site: string): boolean {
    return this.#ended.has(site);
  }

  /** L4: what has ended is never served, fed or handed over again. */
  judgeEnded(site: string, what: string): void {
    require("I6", !this.#ended.has(site), () => `${this.#name} was retired at ${site}, and ${what}`);
  }
}
