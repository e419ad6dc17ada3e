/**
 * Opens a frame log: the only place where a stored journal becomes one that is used. Everything stored is read,
 * decoded and chained before anything is returned, and held against the watermark. A journal that is not what was
 * promised is refused with what is wrong and where; it is never repaired, shortened or continued.
 */
import { dirname } from "node:path";
import type { Frame } from "../protocol/frame.ts";
import type { Sequence } from "../protocol/ids.ts";
import { bytesEqual } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Disk } from "../runtime/disk.ts";
import { syncDirectory } from "../runtime/disk.ts";
import { OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { ContinuityCheck, requireChain } from "./continuity.ts";
import { FrameIndex } from "./frame-index.ts";
import type { FrameLog, FrameLogOptions, FrameLogRecovery, LogPosition } from "./frame-log.ts";
import type { Head } from "./head.ts";
import { decodeHead, encodeHead } from "./head.ts";
import {
  journalDamaged,
  journalExists,
  journalMissing,
  journalOpenFailed,
  watermarkMissing,
} from "./journal-errors.ts";
import { decodeStoredWaymark } from "./kept-waymarks.ts";
import { establish, LevelFrameLog } from "./level-frame-log.ts";
import { LogFiles } from "./log-files.ts";
import { MemoryTail } from "./memory-tail.ts";
import type { MergedFrame } from "./merge.ts";
import { batchOf, mergedFrames } from "./merge.ts";
import type { FrameStore, StoredFrame, StoreEngine } from "./store.ts";
import { writeBufferBytesDefault, writeBufferBytesMin } from "./store.ts";
import { chargeOf } from "./trimmer.ts";
import type { WatermarkReading } from "./watermark.ts";
import { Watermark } from "./watermark.ts";
import { bootBytes } from "./watermark-slot.ts";
import { emptyAhead, readAhead } from "./write-ahead-files.ts";
import { WriteAheadLog } from "./write-ahead-log.ts";

/** Told about every 64 MiB while a long journal is verified. */
const progressEveryBytes = 64 * 1024 * 1024;
/** Frames below the head cleared in one LevelDB batch. */
const clearSlice = 1_024;

export interface OpenProgress {
  /** Last sequence verified, and the one that must at least be reached. */
  readonly sequence: number;
  readonly expected: number;
  readonly storedBytes: number;
}

/** What a frame log touches of the outside world. */
export interface FrameLogWorld {
  readonly disk: Disk;
  readonly stores: StoreEngine;
  readonly clock: Clock;
  readonly onProgress?: (progress: OpenProgress) => void;
  /** Told of every frame that opening finds and verifies, in order. */
  readonly onFrame?: (frame: Frame) => void;
}

/**
 * Opens or creates a frame log. One process may hold it. OperationalError: JOURNAL_EXISTS (create), JOURNAL_MISSING,
 * WATERMARK_MISSING, WATERMARK_DAMAGED, JOURNAL_DAMAGED, JOURNAL_LOCKED, JOURNAL_OPEN_FAILED.
 */
export async function openFrameLog(
  options: FrameLogOptions,
  log: Log,
  world: FrameLogWorld,
): Promise<{ log: FrameLog; recovery: FrameLogRecovery }> {
  const writeBufferBytes = Math.max(writeBufferBytesMin, options.writeBufferBytes ?? writeBufferBytesDefault);
  const { disk, stores } = world;
  if (options.mode === "create") await create(options, writeBufferBytes, world);
  if (!disk.exists(options.watermarkPath)) {
    throw disk.exists(options.directory)
      ? watermarkMissing(options.watermarkPath)
      : journalMissing(options.directory);
  }
  return stores.guard(options.directory, options.watermarkPath, writeBufferBytes, () =>
    openVerified(options, log, world, writeBufferBytes),
  );
}

async function openVerified(
  options: FrameLogOptions,
  log: Log,
  world: FrameLogWorld,
  writeBufferBytes: number,
): Promise<{ log: FrameLog; recovery: FrameLogRecovery }> {
  // The database first: its lock tells another agent from a watermark that changes while it is read.
  const { disk, stores, clock } = world;
  const store = await stores.open(options.directory, "open", writeBufferBytes);
  const files = new LogFiles(disk, options.directory);
  let watermark: Watermark | undefined;
  let ahead: WriteAheadLog | null = null;
  try {
    const opened = await Watermark.open(disk, options.watermarkPath, options.lineage, options.bootId);
    watermark = opened.watermark;
    const { reading } = opened;
    const head = await readHead(store, options);
    const lostPower = !reading.sameBoot && !reading.durable.clean;
    const waymarks = (await store.rows("waymark")).map(decodeStoredWaymark);
    const beyond = waymarks.find(({ sequence }) => sequence > head.position.sequence);
    if (beyond !== undefined) throw journalDamaged("waymark", beyond.sequence);
    const written = options.ahead === null ? [] : await readAhead(disk, options.ahead);
    const merged = mergedFrames(store.walk(head.position.sequence + 1), written, head.position.sequence);
    const verified = await verify(merged, head, reading, lostPower, options, world);
    const boot = bootBytes(options.bootId);
    if (verified.stranded.length > 0) {
      log.warn(
        "JOURNAL_CUT",
        "a loss of power left frames behind a gap; nothing that was promised is missing",
        {
          sequence: verified.tail.sequence,
          frames: verified.stranded.length,
        },
      );
    }
    await bringIn(store, files, head, verified, options, disk);
    await promise(watermark, verified.tail, reading, boot, lostPower);
    ahead = options.ahead === null ? null : await WriteAheadLog.open(disk, options.ahead);
    const recovery = {
      cleanShutdown: reading.durable.clean,
      sameBoot: reading.sameBoot,
      answered: answeredOf(reading),
    };
    log.info("JOURNAL_OPENED", "journal verified", {
      head: head.position.sequence,
      sequence: verified.tail.sequence,
      frames: verified.index.length,
      bytes: verified.bytes,
      ...recovery,
    });
    const frameLog = new LevelFrameLog({
      options,
      log,
      clock,
      freeBytes: (directory) => disk.freeBytes(directory),
      store,
      ahead,
      files,
      watermark,
      boot,
      writeBufferBytes,
      head,
      noticeHeld: lostPower,
      waymarks,
      tail: verified.tail,
      bytes: verified.bytes,
      index: verified.index,
      memory: verified.memory,
    });
    return { log: frameLog, recovery };
  } catch (error) {
    await store.close();
    await files.close();
    await watermark?.close();
    await ahead?.close();
    throw error;
  }
}

/**
 * Makes an empty journal. The watermark is written first under a preliminary name and gets its own name last, so
 * that a crash at any step leaves either a journal or a preliminary watermark beside something nobody was ever
 * answered from, which the next attempt may replace. A folder with neither name is somebody's journal.
 */
async function create(
  options: FrameLogOptions,
  writeBufferBytes: number,
  world: FrameLogWorld,
): Promise<void> {
  const { disk, stores } = world;
  const prepared = `${options.watermarkPath}.new`;
  if (disk.exists(options.watermarkPath)) throw journalExists(options.watermarkPath);
  for (const folder of [options.directory, ...(options.ahead === null ? [] : [options.ahead.directory])]) {
    if (!disk.exists(folder) || (await disk.list(folder)).length === 0) continue;
    if (!disk.exists(prepared)) throw journalExists(folder);
    await disk.remove(folder);
  }
  try {
    await disk.makeDirectory(dirname(options.watermarkPath));
    await disk.makeDirectory(dirname(options.directory));
    await Watermark.prepare(disk, prepared, options.lineage, options.origin, options.bootId);
    const store = await stores.open(options.directory, "create", writeBufferBytes);
    const files = new LogFiles(disk, options.directory);
    try {
      await store.putHead(encodeHead({ lineage: options.lineage, position: options.origin, pairs: [] }));
      // Survives power loss before the watermark gets its name, which says that this is there.
      await files.sync();
      await syncDirectory(disk, dirname(options.directory));
    } finally {
      await store.close();
      await files.close();
    }
    if (options.ahead !== null) await emptyAhead(disk, options.ahead);
    await Watermark.install(disk, prepared, options.watermarkPath);
  } catch (cause) {
    throw cause instanceof OperationalError ? cause : journalOpenFailed(options.directory, cause);
  }
}

async function readHead(store: FrameStore, options: FrameLogOptions): Promise<Head> {
  const value = await store.head();
  if (value === undefined) throw journalDamaged("no-head", null);
  try {
    const head = decodeHead(value);
    if (!bytesEqual(head.lineage, options.lineage)) throw journalDamaged("lineage", null);
    return head;
  } catch (error) {
    if (error instanceof RemoteProtocolError) throw journalDamaged("head", null, {}, error);
    throw error;
  }
}

interface Verified {
  readonly tail: LogPosition;
  readonly bytes: number;
  readonly index: FrameIndex;
  readonly memory: MemoryTail;
  /** First sequences of frames that a loss of power left behind a gap: no part of the journal, to be deleted. */
  readonly stranded: readonly Sequence[];
  /** Frames that the store does not have: at most what two halves hold. */
  readonly ahead: readonly StoredFrame[];
}

/** Newest sequence the watermark knows to be answered: what is durable was answered, too. */
function answeredOf({ durable, answered }: WatermarkReading): number {
  return answered === undefined
    ? durable.position.sequence
    : Math.max(durable.position.sequence, answered.position.sequence);
}

/** A position that the journal must contain. */
interface Demand {
  readonly which: "durable" | "answered";
  readonly position: LogPosition;
}

function demandsOf(reading: WatermarkReading): Demand[] {
  const demands: Demand[] = [{ which: "durable", position: reading.durable.position }];
  // An answered value binds within its boot: the page cache lost nothing. It may be of this boot without the
  // durable slots being so, when the process died while it replaced them.
  if (reading.answered !== undefined && reading.answeredSameBoot) {
    demands.push({ which: "answered", position: reading.answered.position });
  }
  return demands;
}

async function verify(
  frames: AsyncIterable<MergedFrame>,
  head: Head,
  reading: WatermarkReading,
  lostPower: boolean,
  options: FrameLogOptions,
  { onProgress, onFrame }: FrameLogWorld,
): Promise<Verified> {
  const demands = demandsOf(reading);
  const expected = Math.max(...demands.map((demand) => demand.position.sequence));
  const check = new ContinuityCheck(options.lineage, head.position);
  const index = new FrameIndex();
  const memory = new MemoryTail(options.memoryTailBytes);
  // What was never synced survives a loss of power sector by sector, in any order: the store may have kept a frame and
  // lost the one before it. Behind everything that was promised such a gap is where the journal ends.
  const stranded: Sequence[] = [];
  const ahead: StoredFrame[] = [];
  let bytes = 0;
  let storedBytes = 0;
  let toldAt = 0;
  meet(demands, head.position);
  for await (const { first, value, stored } of frames) {
    if (stranded.length > 0 || (lostPower && demands.length === 0 && first > check.position.sequence + 1)) {
      stranded.push(first);
      continue;
    }
    const frame = check.take(first, value);
    meet(demands, check.position);
    if (!stored) ahead.push({ first, value });
    memory.push(frame);
    onFrame?.(frame);
    index.push({
      first,
      last: frame.last,
      openedAtMs: frame.openedAtMs,
      closedAtMs: frame.closedAtMs,
      dataBytesTotal: frame.dataBytesTotal,
      storedBytes: value.byteLength,
    });
    bytes += chargeOf(value.byteLength);
    storedBytes += value.byteLength;
    if (onProgress !== undefined && storedBytes - toldAt >= progressEveryBytes) {
      toldAt = storedBytes;
      onProgress({ sequence: frame.last, expected, storedBytes });
    }
  }
  const tail = check.position;
  for (const { which, position } of demands) {
    // A tail that was lost looks like a clean, shorter journal; this is what tells them apart.
    throw journalDamaged(
      tail.sequence < position.sequence ? `${which}-lost` : `${which}-position`,
      tail.sequence + 1,
      {
        head: head.position.sequence,
        tail: tail.sequence,
        [which]: position.sequence,
      },
    );
  }
  onProgress?.({ sequence: tail.sequence, expected, storedBytes });
  return { tail, bytes, index, memory, stranded, ahead };
}

/** Strikes out the demands that `position` meets: they lie on frame boundaries, so each is met exactly or never. */
function meet(demands: Demand[], position: LogPosition): void {
  for (let at = demands.length - 1; at >= 0; at -= 1) {
    const demand = demands[at]!;
    if (demand.position.sequence !== position.sequence) continue;
    requireChain(position.chain, demand.position.chain, position.sequence, demand.which);
    demands.splice(at, 1);
  }
}

/**
 * After the proof: frames below the head and behind a gap go, those of the write-ahead halves come into the store, and
 * then the halves are empty. A crash at any step leaves what the next opening proves and settles in the same way.
 */
async function bringIn(
  store: FrameStore,
  files: LogFiles,
  head: Head,
  { stranded, ahead }: Verified,
  options: FrameLogOptions,
  disk: Disk,
): Promise<void> {
  try {
    // A trim that was cut short by a crash.
    for (;;) {
      const firsts = await store.firstsBelow(head.position.sequence + 1, clearSlice);
      if (firsts.length === 0) break;
      await store.deleteFrames(firsts);
    }
    for (let at = 0; at < stranded.length; at += clearSlice) {
      await store.deleteFrames(stranded.slice(at, at + clearSlice));
    }
    for (let at = 0; at < ahead.length; ) {
      const batch = batchOf(ahead.slice(at, at + clearSlice));
      await store.putFrames(batch);
      at += batch.length;
    }
    // Survives power loss from here on: what a killed process had only answered is durable once we go on from it.
    await files.sync();
    // Only now: what was in them is durable in the store. And before the watermark speaks of this boot: within one boot
    // a frame that they hold behind a gap would be damage.
    if (options.ahead !== null) await emptyAhead(disk, options.ahead);
  } catch (cause) {
    throw cause instanceof OperationalError ? cause : journalOpenFailed(options.directory, cause);
  }
}

/** The watermark says what was proven. */
async function promise(
  watermark: Watermark,
  tail: LogPosition,
  reading: WatermarkReading,
  boot: Uint8Array,
  lostPower: boolean,
): Promise<void> {
  try {
    // Written also where the file says so already: that may be all that a failed sync left, and not be on the disk.
    if (!lostPower) await establish(watermark, tail, boot);
    else await watermark.writeDurable(tail, reading.durable.boot, false);
  } catch (cause) {
    throw cause instanceof OperationalError ? cause : journalOpenFailed(watermark.path, cause);
  }
}
