/**
 * An owner driven by hand: its disks, a naive model of what the standby's images hold, and the frames that make the one of
 * the other. It knows for every digest what comparing it must show, and holds every answer against that.
 */
import assert from "node:assert/strict";
import { wanRoutes } from "../../../protocol/control.ts";
import { lineageToText } from "../../../protocol/ids.ts";
import type { BlockRecord, ScanMark, ScanPurpose } from "../../../protocol/record.ts";
import { chunkDigest, differingBits, leafDigests, scanChunkBytes } from "../../../protocol/scan-digest.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { type Reply, Source, type StandbySite, volumes } from "../standby-site.ts";

export interface Chunk {
  readonly volume: number;
  readonly offset: number;
  readonly length: number;
}

/** Every chunk of every volume, in the order of a scan. */
export const chunks: readonly Chunk[] = volumes.flatMap(({ number, sizeBytes }) =>
  Array.from({ length: Math.ceil(sizeBytes / scanChunkBytes) }, (_, index) => ({
    volume: number,
    offset: index * scanChunkBytes,
    length: Math.min(scanChunkBytes, sizeBytes - index * scanChunkBytes),
  })),
);

/** Of 64 KiB at most, so that a frame stays within its limits. */
const recordsPerFrame = 10;
const framesPerBatch = 4;

export class HandOwner {
  readonly source: Source;
  /** What the owner's disks hold. */
  readonly disks: Buffer[];
  /** What the standby's images hold once everything put so far is applied. */
  readonly standby: Buffer[];
  /** For each digest put so far what comparing it must show: hex of its bits, "" when nothing differs. */
  readonly #expected = new Map<number, string>();
  /** What answers have told. */
  readonly #known = new Map<number, string>();
  readonly #pending: BlockRecord[] = [];
  /** Frames that the standby has said it holds. */
  #sent = 0;
  #asked = 0;
  /** Digests told, and told to be unknown: a run that saw neither proves nothing. */
  told = 0;
  differed = 0;
  unknown = 0;

  constructor(seed: number, disks: readonly Buffer[], standby: readonly Buffer[]) {
    this.source = new Source(seed, false);
    this.disks = disks.map((disk) => Buffer.from(disk));
    this.standby = standby.map((disk) => Buffer.from(disk));
  }

  get next(): number {
    return this.source.last + this.#pending.length + 1;
  }

  #put(record: BlockRecord): number {
    this.#pending.push(record);
    return this.next - 1;
  }

  write(count: number, bytesMax = 32 * 1024): void {
    for (let index = 0; index < count; index += 1) {
      const record = this.source.record(bytesMax);
      const { volume, offset, length } = record;
      for (const held of [this.disks[volume]!, this.standby[volume]!]) {
        if (record.kind === "write") held.set(record.data, offset);
        else held.fill(0, offset, offset + length);
      }
      this.#put(record);
    }
  }

  /** Writes that the standby will never get: the owner's disks hold them, and a gap stands for them. */
  drop(count: number, bytesMax = 32 * 1024): void {
    this.cut();
    let dataBytes = 0;
    for (let index = 0; index < count; index += 1) {
      const record = this.source.record(bytesMax);
      const { volume, offset, length } = record;
      if (record.kind === "write") this.disks[volume]!.set(record.data, offset);
      else this.disks[volume]!.fill(0, offset, offset + length);
      if (record.kind === "write") dataBytes += length;
    }
    this.source.gap(count, dataBytes);
  }

  mark(mark: ScanMark, purpose: ScanPurpose, begin = 0): number {
    return this.#put({ kind: "scanMark", volume: 0, offset: 0, length: 0, mark, purpose, begin });
  }

  digest({ volume, offset, length }: Chunk, level: "chunk" | "leaf"): number {
    const of = (disk: Buffer): Uint8Array => {
      const leaves = leafDigests(disk.subarray(offset, offset + length));
      return level === "leaf" ? leaves : chunkDigest(leaves);
    };
    const digests = of(this.disks[volume]!);
    const bits = differingBits(level, of(this.standby[volume]!), digests);
    const sequence = this.#put({ kind: "scanDigest", volume, offset, length, level, digests });
    this.#expected.set(sequence, bits === undefined ? "" : Buffer.from(bits).toString("hex"));
    return sequence;
  }

  /** The range as the owner has it now; what is zero goes as zeroes. */
  content(volume: number, offset: number, length: number): void {
    const data = Buffer.from(this.disks[volume]!.subarray(offset, offset + length));
    this.standby[volume]!.set(data, offset);
    const isZero = data.every((byte) => byte === 0);
    this.#put({ kind: "scanContent", volume, offset, length, data: isZero ? null : data });
  }

  /** Frames of everything put since the last one. */
  cut(): void {
    while (this.#pending.length > 0) this.source.put(this.#pending.splice(0, recordsPerFrame));
  }

  /** Sends until the standby has everything; an end of the connection is the caller's to see. */
  async send(site: StandbySite): Promise<void> {
    this.cut();
    while (this.#sent < this.source.frames.length) {
      const { json } = await site.batch(
        this.source,
        this.source.frames.slice(this.#sent, this.#sent + framesPerBatch),
      );
      assert.ok(json.kind === "acknowledged" || json.kind === "wanted", JSON.stringify(json));
      const held = json.kind === "acknowledged" ? json.durable : json.sequence - 1;
      this.#sent = this.source.frames.filter((frame) => frame.last <= held).length;
    }
  }

  /** Greets, and learns how much the standby has kept. */
  async greet(site: StandbySite): Promise<Reply["json"]> {
    const { json } = await site.send(wanRoutes.hello("erp"), this.source.hello({ initial: "data" }));
    if (json.kind === "attached")
      this.#sent = this.source.frames.filter((frame) => frame.last <= json.durable.sequence).length;
    return json;
  }

  async ask(site: StandbySite, after = this.#asked): Promise<Reply["json"]> {
    const { lineage, token } = this.source;
    const reply = await site.send(wanRoutes.scan("erp"), { lineage: lineageToText(lineage), token, after });
    const { json } = reply;
    if (json.kind !== "findings") return json;
    const rows = new Map<number, string>(
      json.differing.map((row: { sequence: number; bits: string }) => [row.sequence, row.bits]),
    );
    for (const [sequence, bits] of this.#expected) {
      if (sequence <= json.since || sequence > json.through) continue;
      assert.equal(rows.get(sequence) ?? "", bits, `what is told of the digest at ${sequence}`);
      this.#known.set(sequence, bits);
    }
    for (const sequence of rows.keys()) assert.ok(this.#expected.has(sequence), `no digest at ${sequence}`);
    this.#asked = Math.max(this.#asked, json.through);
    return json;
  }

  /** Bits of the digest at `sequence`; undefined: the standby does not know. Waits until it says which. */
  async learn(site: StandbySite, sequence: number): Promise<string | undefined> {
    for (;;) {
      const known = this.#known.get(sequence);
      if (known !== undefined) {
        this.told += 1;
        if (known !== "") this.differed += 1;
        return known;
      }
      const answer = await this.ask(site);
      if (this.#known.has(sequence)) continue;
      if (answer.kind === "findings" && answer.since >= sequence) {
        this.unknown += 1;
        return undefined;
      }
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  /** Everything is in the images. */
  async applied(site: StandbySite): Promise<void> {
    await site.applied(this.source);
  }
}

/** Indices of the set bits. */
export function bitsOf(hex: string): number[] {
  const found: number[] = [];
  for (const [index, byte] of Buffer.from(hex, "hex").entries())
    for (let bit = 0; bit < 8; bit += 1) if ((byte & (1 << bit)) !== 0) found.push(index * 8 + bit);
  return found;
}

/** Whether the other process went away in the middle of it: then it is done again. */
export async function unlessGone(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (errorCode(error) === "ERR_ASSERTION") throw error;
    return false;
  }
}
