/**
 * What the journal promises to those who use it: the agent's journal and the gateway's intake log are two
 * instances. Types only; `open.ts` makes one. The store behind it is never trusted (docs/journal.md).
 */
import type { Frame } from "../protocol/frame.ts";
import type { ChainPosition, ChainValue, LineageBytes, Sequence } from "../protocol/ids.ts";
import type { OperationalError } from "../runtime/errors.ts";
import type { AheadOptions } from "./write-ahead-log.ts";

/** A position with the counters that lag and loss are computed from. */
export interface LogPosition extends ChainPosition {
  /** Data bytes of the history up to `sequence`. */
  readonly dataBytesTotal: number;
  /** Wall clock label of the frame that ends here; 0 at the origin. */
  readonly closedAtMs: number;
}

/** A position with what a gap from it needs to know. */
export interface MarkedPosition extends ChainPosition {
  readonly dataBytesTotal: number;
}

/** A small value of the log's owner, under a number of his own. Null: it goes. */
export interface NoteChange {
  readonly number: number;
  readonly value: Uint8Array | null;
}

/** Frames are to go although the peer does not have them. */
export interface DropOrder {
  /**
   * Positions that the peer is known to have been at, or may have reached by what it was sent. Those behind them get
   * waymarks; older waymarks than the first of them go.
   */
  readonly anchors: readonly Sequence[];
  /** Told of each frame that will go, in order, before anything is written. */
  readonly dropping: (frame: Frame) => void;
  /** Asked once then: what has to be durable before the first of them is gone. */
  readonly notes: () => readonly NoteChange[];
}

/** Why an append would not be taken now. `full`: quota reached; `reserve`: the file system is nearly full. */
export type LogRoom = "ok" | "full" | "reserve";

export interface FrameLog {
  /** Position before the first frame kept. */
  readonly head: LogPosition;
  /** Position after the last appended frame: survives a kill of the process. */
  readonly tail: LogPosition;
  /** Position after the last synced frame: survives power loss of the host. */
  readonly durable: LogPosition;
  /** Stored bytes of the frames kept; a frame counts as 1 KiB at least, which pays for its key and index row. */
  readonly bytes: number;
  /** Set from the first failed put or sync on; every later append and sync fails. Close, open again, verify. */
  readonly poisoned: boolean;
  /** Settles with the failure that set it: what fails behind the writers has no caller to tell. */
  readonly whenPoisoned: Promise<OperationalError>;
  /** Oldest position at which a peer may be and can be proven: the oldest waymark, or the head. */
  readonly floor: MarkedPosition;
  roomFor(storedBytes: number): LogRoom;
  /**
   * Appends the frame that continues `tail`; appends may not overlap. When it settles, the frame survives a kill
   * of the process and the watermark's *answered* says so. The frame is kept in a bounded memory tail.
   * OperationalError `JOURNAL_FULL`, `JOURNAL_RESERVE` (nothing was written, the handle stays good) or
   * `JOURNAL_POISONED` (reopen; the frame may or may not exist).
   */
  append(frame: Frame): Promise<void>;
  /**
   * Makes everything appended before the call durable (log files, directory, then watermark). Concurrent calls
   * share work. OperationalError `JOURNAL_POISONED` on failure; never retried.
   */
  sync(): Promise<LogPosition>;
  /**
   * Consecutive frames from the one that holds `from` on, up to about `rawBytesMax` bytes of bodies (at least one
   * if there is one). Verified unless they come from the memory tail. Empty when `from` is behind `tail`.
   * OperationalError `JOURNAL_DAMAGED` on a hole or mismatch, `JOURNAL_TRIMMED` below `head`.
   */
  frames(from: Sequence, rawBytesMax: number): Promise<Frame[]>;
  /** Chain value at a sequence: from head, tail, a frame kept, a waymark, or the thinned pairs; undefined when unknown. */
  chainAt(sequence: Sequence): Promise<ChainValue | undefined>;
  /** The same with the total of data bytes: from head, tail, a frame kept or a waymark; undefined when unknown. */
  positionAt(sequence: Sequence): Promise<MarkedPosition | undefined>;
  /** Removes whole frames that end at or before `through`, which the peer has. */
  trim(through: Sequence): Promise<void>;
  /**
   * Removes whole frames that end at or before `through`, which the peer may not have. Head, notes and waymarks are one
   * atomic, durable change before the first frame is gone.
   */
  drop(through: Sequence, order: DropOrder): Promise<void>;
  /** End of the oldest frames that count for at least `bytes`, at most `through`; the head where there is none. */
  endOfOldest(bytes: number, through: Sequence): Sequence;
  /** All notes, by rising number. */
  notes(): Promise<readonly { readonly number: number; readonly value: Uint8Array }[]>;
  /** One atomic change of notes, durable when it settles. */
  changeNotes(changes: readonly NoteChange[]): Promise<void>;
  /** Frames whose last sequence is above `from`, without bodies: for lag after a restart. */
  index(from: Sequence): Promise<readonly FrameSummary[]>;
  /** `clean`: mark the watermark as shut down cleanly after a last sync. */
  close(how: "clean" | "abandon"): Promise<void>;
}

export interface FrameSummary {
  readonly first: Sequence;
  readonly last: Sequence;
  readonly openedAtMs: number;
  readonly closedAtMs: number;
  readonly dataBytesTotal: number;
}

export interface FrameLogOptions {
  /** Folder of the LevelDB database; made when `origin` is allowed to start it. */
  readonly directory: string;
  /** Watermark file, outside `directory`. */
  readonly watermarkPath: string;
  /** Where short frames are written first; null: every frame goes into the database at once. */
  readonly ahead: AheadOptions | null;
  readonly lineage: LineageBytes;
  /** Where this log begins when it is empty: genesis, or the position of the hand-over. */
  readonly origin: LogPosition;
  /** `create`: neither database nor watermark may exist yet. `open`: both must. */
  readonly mode: "create" | "open";
  readonly compression: "lz4" | "none";
  readonly bytesMax: number;
  /** Appends are refused when the file system has less free than this. */
  readonly reserveBytes: number;
  /** Bytes of newest frames kept in memory for readers that keep up. */
  readonly memoryTailBytes: number;
  /** Identity of this boot of the host (Linux boot id): decides which watermark must be reached. */
  readonly bootId: string;
  /**
   * LevelDB's write buffer, bytes; 32 MiB when left out. Up to two are held in memory and replayed on open, so a
   * site with many groups gives each of them less.
   */
  readonly writeBufferBytes?: number;
}

/** What opening found out. */
export interface FrameLogRecovery {
  /** The log was closed by `close("clean")`. */
  readonly cleanShutdown: boolean;
  /**
   * The host has not been restarted since the log was last written. After a restart without a clean shutdown this
   * stays false, however often the log is opened, until the first append: a notice of possible loss cannot be
   * used up by a crash.
   */
  readonly sameBoot: boolean;
  /** Answered in the watermark when opened: after power loss the records between tail and this may be lost. */
  readonly answered: Sequence;
}
