/**
 * The two halves of a write-ahead log at rest: made with a journal, read when it is opened, and emptied when what they
 * held is in the store. Believes no more of them than their records prove; whether that is enough is the watermark's to
 * say, so a half that is gone, or has another length, is one that holds nothing, or what is still there of it.
 */
import { dirname } from "node:path";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { Disk } from "../runtime/disk.ts";
import { syncDirectory } from "../runtime/disk.ts";
import { errorCode, OperationalError } from "../runtime/errors.ts";
import { journalDamaged, journalOpenFailed } from "./journal-errors.ts";
import { requireSame } from "./merge.ts";
import type { StoredFrame } from "./store.ts";
import { scanAhead } from "./write-ahead-frames.ts";
import type { AheadOptions } from "./write-ahead-log.ts";
import { halfPath } from "./write-ahead-log.ts";

/** Longest half that is read: eight times what is made, so that one of another setting is. */
const halfBytesMax = 64 * 1024 * 1024;
/**
 * Written at once when a half is emptied. The page cache keeps what comes in one write in pieces as large as it can, and goes over
 * all blocks of a piece at each append to it: of 4 KiB, one takes 5 us then, and 13 where a half was written as a whole.
 */
const filledBytes = 16 * 1024;
const halves = [0, 1] as const;

/**
 * The frames of both halves by rising sequence. JOURNAL_DAMAGED for what no version of this code writes, and for two
 * frames of one sequence that differ; JOURNAL_OPEN_FAILED when a half that is there cannot be read.
 */
export async function readAhead(disk: Disk, options: AheadOptions): Promise<StoredFrame[]> {
  const found: StoredFrame[] = [];
  for (const half of halves) found.push(...(await readHalf(disk, halfPath(options, half))));
  found.sort((a, b) => a.first - b.first);
  return found.filter((frame, at) => {
    const before = found[at - 1];
    if (before?.first !== frame.first) return true;
    requireSame(frame, before);
    return false;
  });
}

async function readHalf(disk: Disk, path: string): Promise<StoredFrame[]> {
  const bytes = await contentOf(disk, path);
  try {
    return bytes === undefined ? [] : scanAhead(bytes);
  } catch (error) {
    if (error instanceof RemoteProtocolError) throw journalDamaged("ahead", null, { path }, error);
    throw error;
  }
}

/** Undefined when it is not there. */
async function contentOf(disk: Disk, path: string): Promise<Uint8Array | undefined> {
  try {
    const file = await disk.open(path, "read");
    try {
      const length = await file.size();
      if (length > halfBytesMax) throw journalDamaged("ahead-length", null, { path, length });
      return await file.read(0, length);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined;
    throw error instanceof OperationalError ? error : journalOpenFailed(path, error);
  }
}

/**
 * Both halves have their length and hold nothing but zeroes, durably, whatever was there: the frames in them must be
 * durable elsewhere, or be wanted no more. May be done again after a crash at any step of it. Fails with the system's
 * errors.
 */
export async function emptyAhead(disk: Disk, options: AheadOptions): Promise<void> {
  const { directory, halfBytes } = options;
  const nothing = Buffer.alloc(halfBytes);
  const isNew = !disk.exists(directory);
  if (isNew) await disk.makeDirectory(directory);
  for (const half of halves) {
    const path = halfPath(options, half);
    const found = await contentOf(disk, path);
    const file = await disk.open(path, found?.byteLength === halfBytes ? "update" : "replace");
    try {
      if (found === undefined || Buffer.compare(found, nothing) !== 0) {
        for (let at = 0; at < halfBytes; at += filledBytes)
          await file.write(at, nothing.subarray(at, Math.min(at + filledBytes, halfBytes)));
      }
      // Survives power loss before the first record: no leftover comes back between those of a new filling, and no append
      // has a length or a block to commit. Also where there were zeroes: those of a process that died before this.
      await file.sync();
    } finally {
      await file.close();
    }
  }
  // Survives power loss: an append is answered only when the names of the halves are durable.
  await syncDirectory(disk, directory);
  if (isNew) await syncDirectory(disk, dirname(directory));
}
