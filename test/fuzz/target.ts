/**
 * What a fuzz target is: a pure decoder behind one call, with the rules that every input must keep. A target says what
 * the input came to as a short stable text; anything that must not happen is thrown. Equal bytes, equal outcome: all
 * choices inside a run come from the input itself, so that a kept input replays by itself.
 */
import { RemoteProtocolError } from "../../protocol/remote-error.ts";

export interface FuzzTarget {
  /** Name of the target and of its corpus folder. */
  readonly name: string;
  /** Longest input worth making, bytes: above the decoder's own bound where that is small. */
  readonly inputBytesMax: number;
  /** Valid inputs of our own encoders; the corpus folder holds more. */
  seeds(): readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
  /** Decodes `input`, which it must not change, and checks the rules. Returns the outcome, `ok` or an error's code. */
  run(input: Uint8Array): string;
  /** Makes the checksums of a mutated input right again, in place, so that mutations get behind them. */
  readonly repair?: (input: Buffer) => void;
}

/** A rule was broken: the finding of a fuzz run. */
export class FuzzViolation extends Error {
  constructor(message: string) {
    super(message);
    this.name = "FuzzViolation";
  }
}

export function require(condition: boolean, message: string): asserts condition {
  if (!condition) throw new FuzzViolation(message);
}

const stableCode = /^[A-Z][A-Z0-9_]{2,39}$/;

/** Runs a decoder: its outcome, or the stable code of the declared error. Every other exception passes through. */
export function outcomeOf(decode: () => string): string {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof RemoteProtocolError)) throw error;
    require(stableCode.test(error.code), `code ${error.code} is not stable`);
    return error.code;
  }
}

/** A number that belongs to the input, for choices inside a run (FNV-1a over at most 64 bytes and the length). */
export function inputHash(input: Uint8Array): number {
  let hash = 0x811c9dc5 ^ input.length;
  const step = Math.max(1, input.length >>> 6);
  for (let at = 0; at < input.length; at += step) hash = Math.imul(hash ^ input[at]!, 0x01000193);
  return hash >>> 0;
}
