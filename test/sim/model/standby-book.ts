/**
 * What a standby has said about one history, and what it may therefore never take back (I4): every position it called
 * durable survives anything that happens to it, and a seal lies at or above all of them. Also the tiny machine of who
 * may change what (I6): after a token was raised, nothing of an older one is taken, ever. Imports nothing of the product.
 */
import { require } from "./violation.ts";

export interface ClaimToken {
  readonly epoch: number;
  readonly owner: string;
}

export class StandbyBook {
  readonly name: string;
  /** Newest position ever called durable, to anybody. */
  durableMax = 0;
  /** What an earlier life of it, which is lost with all it held, had called durable: its owner may still believe it. */
  believedMax = 0;
  /** Newest position ever called applied. */
  appliedMax = 0;
  /** Newest epoch that it named as its own. */
  epochMax = 0;
  /** Senders that were told that they are superseded. */
  readonly #refused = new Set<string>();
  /** Set once: where the history was cut for the new owner. */
  sealed: number | undefined;

  constructor(name: string) {
    this.name = name;
  }

  /** What it has said so far. */
  copy(): StandbyBook {
    const copied = new StandbyBook(this.name);
    copied.durableMax = this.durableMax;
    copied.appliedMax = this.appliedMax;
    copied.believedMax = this.believedMax;
    copied.epochMax = this.epochMax;
    return copied;
  }

  /** It said that everything up to `durable` is durable, and up to `applied` in the images. */
  claimed(durable: number, applied: number | undefined, shippedMax: number): void {
    require("I4", durable <= shippedMax, () =>
      `${this.name} calls ${durable} durable, but only ${shippedMax} were sent`);
    require("I4", durable >= this.durableMax, () =>
      `${this.name} calls ${durable} durable after ${this.durableMax}`);
    require("I6", this.sealed === undefined || durable <= this.sealed, () =>
      `${this.name} calls ${durable} durable above the seal ${this.sealed}`);
    this.durableMax = durable;
    if (applied === undefined) return;
    require("I4", applied <= durable, () =>
      `${this.name} calls ${applied} applied, above durable ${durable}`);
    this.appliedMax = Math.max(this.appliedMax, applied);
  }

  /** It accepted something from `sender`, or told it that all is well. */
  accepted(sender: ClaimToken): void {
    require("I6", !this.#refused.has(key(sender)), () =>
      `${this.name} accepts ${key(sender)}, which it had called superseded`);
    require("I6", sender.epoch >= this.epochMax, () =>
      `${this.name} accepts ${key(sender)} although it knew epoch ${this.epochMax}`);
    this.epochMax = sender.epoch;
  }

  /** It told `sender` that `by` owns the group. */
  superseded(sender: ClaimToken, by: ClaimToken): void {
    require("I6", by.epoch > sender.epoch, () =>
      `${this.name} calls ${key(sender)} superseded by ${key(by)}`);
    require("I6", by.epoch >= this.epochMax, () =>
      `${this.name} goes back from epoch ${this.epochMax} to ${by.epoch}`);
    this.#refused.add(key(sender));
    this.epochMax = by.epoch;
  }

  /** A new owner began at `sequence`; `openable`: with what it may have received that is what there was to open. */
  sealedAt(sequence: number, openable: boolean, shippedMax: number): void {
    if (this.sealed !== undefined) {
      require("I6", sequence === this.sealed, () =>
        `${this.name}: seal moved from ${this.sealed} to ${sequence}`);
      return;
    }
    require("I4", openable, () =>
      `${this.name}: sealed at ${sequence}, which is not what it could open; ${this.durableMax} were called durable`);
    require("I4", sequence <= shippedMax, () =>
      `${this.name}: sealed at ${sequence}, but only ${shippedMax} were sent`);
    this.sealed = sequence;
  }
}

function key(token: ClaimToken): string {
  return `${token.owner} epoch ${token.epoch}`;
}
