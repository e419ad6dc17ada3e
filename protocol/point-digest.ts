/**
 * The digest of a whole group at a point: what anybody can check a copy against without trust in either site. Pure. Owns its
 * form and that of the record that carries it (docs/formats/point-digest.md).
 */
import { strict as assert } from "node:assert";
import { createHash } from "node:crypto";
import { ByteWriter } from "./bytes.ts";
import {
  chainOf,
  countOf,
  fieldsOf,
  lineageOf,
  malformed,
  nameOf,
  nullOr,
  textOf,
  volumesOf,
} from "./fields.ts";
import type { Lineage, Sequence, VolumeEntry } from "./ids.ts";
import { bytesFromHex, bytesToHex, lineageFromText } from "./ids.ts";
import { chunkDigest, leafDigests, scanChunkBytes } from "./scan-digest.ts";

export interface VolumeDigest extends VolumeEntry {
  /** Hex. */
  readonly digest: string;
}

/** A point and what the volumes held there. */
export interface PointDigest {
  readonly group: string;
  readonly lineage: Lineage;
  readonly sequence: Sequence;
  /** Wall-clock label; null: the beginning. */
  readonly time: string | null;
  /** Chain value at `sequence`, hex. */
  readonly chain: string;
  /** By rising number. */
  readonly volumes: readonly VolumeDigest[];
  /** Of all of it, hex. */
  readonly digest: string;
}

/** The record that is written beside an exported image. */
export interface PointRecord extends PointDigest {
  readonly version: 1;
  /** The volume whose image it stands beside. */
  readonly volume: string;
}

const domain = Buffer.from("splitsite point 1\n", "latin1");

/** Digest of one volume, from its chunks in order. */
export class VolumeDigester {
  readonly #sizeBytes: number;
  readonly #hash = createHash("sha256");
  #at = 0;
  /** Digests of chunks of zeroes, by length: there are two lengths at most. */
  readonly #zero = new Map<number, Uint8Array>();

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** Bytes of the next chunk; 0: there is none. */
  get nextBytes(): number {
    return Math.min(scanChunkBytes, this.#sizeBytes - this.#at);
  }

  /** Where the next chunk begins. */
  get offset(): number {
    return this.#at;
  }

  /** The next chunk's whole content. */
  add(content: Uint8Array): void {
    assert.equal(content.byteLength, this.nextBytes, "the next chunk, whole");
    this.#take(content.byteLength, chunkDigest(leafDigests(content)));
  }

  /** The next chunk is nothing but zeroes. */
  addZeroes(): void {
    const length = this.nextBytes;
    assert(length > 0, "there is another chunk");
    const digest = this.#zero.get(length) ?? chunkDigest(leafDigests(new Uint8Array(length)));
    this.#zero.set(length, digest);
    this.#take(length, digest);
  }

  #take(length: number, digest: Uint8Array): void {
    this.#hash.update(digest);
    this.#at += length;
  }

  /** Hex; once every chunk was given. */
  end(): string {
    assert.equal(this.nextBytes, 0, "every chunk was given");
    return this.#hash.digest("hex");
  }
}

/** The digest of a point from those of its volumes, hex. */
export function pointDigest(point: Pick<PointDigest, "lineage" | "sequence" | "chain" | "volumes">): string {
  const volumes = point.volumes.toSorted((a, b) => a.number - b.number);
  const writer = new ByteWriter(domain.byteLength + 16 + 8 + 32 + 2 + volumes.length * rowBytes)
    .put(domain)
    .put(lineageFromText(point.lineage)!)
    .u64(point.sequence)
    .put(bytesFromHex(point.chain)!)
    .u16(volumes.length);
  for (const { number, sizeBytes, digest } of volumes)
    writer.u16(number).u64(sizeBytes).put(bytesFromHex(digest)!);
  return bytesToHex(createHash("sha256").update(writer.bytes).digest());
}

/** Number, size, digest. */
const rowBytes = 2 + 8 + 32;

/** RemoteProtocolError `MALFORMED` for anything else; whether its digest is right is for the reader to ask. */
export function parsePointRecord(value: unknown): PointRecord {
  const fields = fieldsOf(value, "point record");
  if (fields["version"] !== 1) malformed("version");
  return { version: 1, volume: nameOf(fields["volume"], "volume"), ...parsePointDigest(fields) };
}

export function parsePointDigest(value: unknown): PointDigest {
  const fields = fieldsOf(value, "point digest");
  return {
    group: nameOf(fields["group"], "group"),
    lineage: lineageOf(fields["lineage"]),
    sequence: countOf(fields["sequence"], "sequence"),
    time: nullOr(fields["time"], (time) => textOf(time, "time")),
    chain: chainOf(fields["chain"]),
    volumes: volumesOf(fields["volumes"], (row, entry) => ({ ...entry, digest: chainOf(row["digest"]) })),
    digest: chainOf(fields["digest"]),
  };
}
