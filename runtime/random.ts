/** Randomness as the product sees it: jitter and identities. Injected, so that a run can be replayed. */
import { randomBytes } from "node:crypto";

export interface Random {
  /** Uniform in [0, 1). */
  fraction(): number;
  /** 16 bytes of a version 4 UUID. */
  uuidBytes(): Uint8Array;
}

export const systemRandom: Random = {
  fraction: () => randomBytes(4).readUInt32BE() / 2 ** 32,
  uuidBytes() {
    const bytes = new Uint8Array(randomBytes(16));
    bytes[6] = (bytes[6]! & 0x0f) | 0x40;
    bytes[8] = (bytes[8]! & 0x3f) | 0x80;
    return bytes;
  },
};
