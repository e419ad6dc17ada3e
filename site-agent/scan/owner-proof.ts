/**
 * Whether the owner's own data can be taken for right where the standby differs: read twice, some time apart, without an error
 * and with the same digest. What clients write meanwhile is read again. Reads only; orders nothing.
 */
import { createHash } from "node:crypto";
import type { VolumeNumber } from "../../protocol/ids.ts";
import { scanChunkBytes } from "../../protocol/scan-digest.ts";
import type { BlockRange } from "./scan-document.ts";

/** Read for one repair, bytes; ranges beyond it are left to the verify behind it: 64 MiB twice is two seconds. */
export const provenBytesMax = 64 * 1024 * 1024;
/** Pairs of reads until a range that clients keep writing to is left out. */
const triesMax = 3;

export interface OwnerProofWorld {
  readonly read: (volume: VolumeNumber, offset: number, length: number) => Promise<Uint8Array>;
  /** Settles after the time between two reads. */
  readonly rest: () => Promise<void>;
  readonly unreadable: (range: BlockRange, error: unknown) => void;
}

/** The ranges for which it can, whole. */
export async function provenRanges(
  ranges: readonly BlockRange[],
  world: OwnerProofWorld,
): Promise<BlockRange[]> {
  let open: BlockRange[] = [];
  let bytes = 0;
  for (const range of ranges) {
    bytes += range.end - range.start;
    if (bytes <= provenBytesMax) open.push(range);
  }
  const proven: BlockRange[] = [];
  for (let attempt = 0; attempt < triesMax && open.length > 0; attempt += 1) {
    const first = await digestsOf(open, world);
    await world.rest();
    const second = await digestsOf(open, world);
    for (const range of open) {
      const digest = first.get(range);
      if (digest !== undefined && digest === second.get(range)) proven.push(range);
    }
    // What could not be read once is not asked again: whose disk fails is then no question any more.
    open = open.filter((range) => first.has(range) && second.has(range) && !proven.includes(range));
  }
  return ranges.filter((range) => proven.includes(range));
}

/** Without those that cannot be read. */
async function digestsOf(
  ranges: readonly BlockRange[],
  { read, unreadable }: OwnerProofWorld,
): Promise<Map<BlockRange, string>> {
  const digests = new Map<BlockRange, string>();
  for (const range of ranges) {
    try {
      const hash = createHash("sha256");
      for (let at = range.start; at < range.end; at += scanChunkBytes)
        hash.update(await read(range.volume, at, Math.min(scanChunkBytes, range.end - at)));
      digests.set(range, hash.digest("hex"));
    } catch (error) {
      unreadable(range, error);
    }
  }
  return digests;
}
