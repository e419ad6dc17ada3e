/**
 * The chain: one hash over content and order of all records up to a sequence. Equal chains, equal histories.
 * Pure. chain(n) = SHA-256(chain(n-1) || SHA-256(record n's encoded bytes)); chain(0) = genesis.
 */
import { createHash, hash } from "node:crypto";
import { ByteWriter } from "./bytes.ts";
import type { ChainValue, LineageBytes, VolumeEntry } from "./ids.ts";

const genesisLabel = Buffer.from("splitsite genesis 1\n", "latin1");

/** Chain value before the first record: binds a history to its lineage and its volumes' numbers and sizes. */
export function genesisChain(lineage: LineageBytes, volumes: readonly VolumeEntry[]): ChainValue {
  const digest = createHash("sha256").update(genesisLabel).update(lineage);
  const rows = [...volumes].sort((a, b) => a.number - b.number);
  digest.update(new ByteWriter(2).u16(rows.length).bytes);
  for (const row of rows) {
    const name = Buffer.from(row.name, "utf8");
    digest.update(
      new ByteWriter(11 + name.length).u16(row.number).u64(row.sizeBytes).u8(name.length).put(name).bytes,
    );
  }
  return new Uint8Array(digest.digest());
}

/** Carries a chain value over records; one instance per stream, so that no buffer is made per record. */
export class ChainWalker {
  /** First half: the previous chain value; second half: the digest of the record. */
  readonly #pair = Buffer.alloc(64);

  constructor(start: ChainValue) {
    this.#pair.set(start, 0);
  }

  /** Takes in one record by its encoded bytes (header and data). */
  advance(encodedRecord: Uint8Array): void {
    // Digests pass as strings: a string of 32 characters is a third cheaper than a buffer with memory of its own.
    this.#pair.write(hash("sha256", encodedRecord, "binary"), 32, "latin1");
    this.#pair.write(hash("sha256", this.#pair, "binary"), 0, "latin1");
  }

  /** A copy of the chain value after the records taken so far. */
  get value(): ChainValue {
    return new Uint8Array(this.#pair.subarray(0, 32));
  }
}
