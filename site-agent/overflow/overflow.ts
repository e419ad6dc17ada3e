/**
 * Lets a journal that is full go on: drops what the standby does not have, once it is noted what that touched, and keeps the
 * notes until a resync has mended it (docs/overflow.md, OV1 to OV3). Lives as long as the engine whose journal it is; what it
 * knows beyond that is in the journal's notes. It never drops beyond a checkpoint, and never forgets a bit by itself.
 */
import type { FrameLog, LogPosition } from "../../journal/frame-log.ts";
import { journalDamaged } from "../../journal/journal-errors.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import type { Log } from "../../runtime/log.ts";
import { Turns } from "../../runtime/turns.ts";
import { DirtyMap } from "./dirty-map.ts";
import type { OverflowNote } from "./notes.ts";
import {
  decodeOverflow,
  decodePage,
  digestOfPages,
  encodeOverflow,
  encodePage,
  overflowNumber,
  pageNumber,
} from "./notes.ts";
import { touchedBy } from "./touched.ts";

/** A drop brings the journal to this share of its quota, so that it happens once for many writes. */
const keptShare = 3 / 4;
/**
 * Dropped in one change at most, charged bytes: writes wait for the first one only. 64 MiB are read in some 0.1 s, and are at
 * most 65,536 frames.
 */
const sliceBytes = 64 * 1024 * 1024;
/** Gaps that the standby may have been told of without an answer: an older one is settled by the greeting after it. */
const gapEndsMax = 8;

/** An overflow as this life of the owner sees it. */
export interface OngoingOverflow extends OverflowNote {
  /**
   * The standby may have been told of a gap: it lacks a resync, whatever it says. So it is for whoever finds the note of an
   * earlier life: a word in the journal that says less could be older than what was sent (LevelDB drops rows without an error
   * when its log is damaged), and a resync too many compares digests.
   */
  readonly declared: boolean;
}

export interface OverflowWorld {
  /** Open, verified. */
  readonly journal: FrameLog;
  readonly journalBytesMax: number;
  /** What the standby is known to hold. */
  readonly acknowledged: () => Sequence;
  /**
   * Ends of the newest gaps that it may have been told of, rising: added to by this, and kept by whoever lives longer than a
   * journal's handle.
   */
  readonly gapEnds: Sequence[];
  /** Told before frames are dropped, and when they are gone or a gap is told of. */
  readonly dropping: () => void;
  readonly dropped: () => void;
  readonly log: Log;
}

export class Overflow {
  readonly #world: OverflowWorld;
  readonly #map: DirtyMap;
  #note: OngoingOverflow | null;
  /** Changes of notes run one after another. */
  readonly #steps = new Turns();

  private constructor(world: OverflowWorld, map: DirtyMap, note: OngoingOverflow | null) {
    this.#world = world;
    this.#map = map;
    this.#note = note;
  }

  /** Reads what the journal notes. JOURNAL_DAMAGED when that is not what was written. */
  static async open(world: OverflowWorld): Promise<Overflow> {
    const { map, note } = await readNotes(world.journal);
    return new Overflow(world, map, note === null ? null : { ...note, declared: true });
  }

  /** Null: nothing was dropped that a resync has not mended. */
  get note(): OngoingOverflow | null {
    return this.#note;
  }

  /** Changes with drops and `clear` only. */
  get map(): Pick<DirtyMap, "chunks" | "count" | "has"> {
    return this.#map;
  }

  /**
   * Drops frames that end at or before `checkpoint` until the journal is at three quarters of its quota, as far as there are
   * any: false when that is not enough. `freed` is told after each change.
   */
  dropBehind(checkpoint: Sequence, freed: () => void): Promise<boolean> {
    return this.#steps.take(async () => {
      const { journal, journalBytesMax, acknowledged } = this.#world;
      const kept = Math.floor(journalBytesMax * keptShare);
      while (journal.bytes > kept) {
        const through = journal.endOfOldest(Math.min(journal.bytes - kept, sliceBytes), checkpoint);
        if (through <= journal.head.sequence) return false;
        if (through <= acknowledged()) await journal.trim(through);
        else await this.#drop(through);
        freed();
      }
      return true;
    });
  }

  /**
   * Before the standby is told of a gap from `first` on: the gap's end, which is the head and stays a position that can be
   * proven. From then on the standby lacks a resync. Undefined: nothing is dropped from there on.
   */
  declare(first: Sequence): Promise<LogPosition | undefined> {
    return this.#steps.take(async () => {
      const { journal, gapEnds, dropped, log } = this.#world;
      const { head } = journal;
      const note = this.#note;
      if (note === null || head.sequence < first) return undefined;
      gapEnds.push(head.sequence);
      if (gapEnds.length > gapEndsMax) gapEnds.shift();
      this.#note = { ...note, declared: true };
      log.info("OVERFLOW_DECLARED", "the standby is told what it will never receive", {
        first,
        last: head.sequence,
      });
      dropped();
      return head;
    });
  }

  /** The standby has what was dropped up to `through`. False: more was dropped since, and everything stays noted. */
  clear(through: Sequence): Promise<boolean> {
    return this.#steps.take(async () => {
      if (this.#note?.through !== through) return false;
      const numbers = [...this.#map.pages.map(pageNumber), overflowNumber];
      await this.#world.journal.changeNotes(numbers.map((number) => ({ number, value: null })));
      this.#map.clear();
      this.#note = null;
      this.#world.log.info("OVERFLOW_OVER", "the standby has again everything that was dropped", { through });
      return true;
    });
  }

  async #drop(through: Sequence): Promise<void> {
    const { journal, acknowledged, gapEnds, log } = this.#world;
    this.#world.dropping();
    const held = acknowledged();
    const since = (await journal.positionAt(held)) ?? journal.floor;
    const before = this.#note;
    let oldestAtMs: number | undefined;
    let dropped: OngoingOverflow | null = null;
    const after = (): OngoingOverflow => ({
      through,
      declared: before?.declared ?? false,
      since: before?.since ?? {
        sequence: since.sequence,
        dataBytesTotal: since.dataBytesTotal,
        atMs: oldestAtMs ?? 0,
      },
      pages: digestOfPages(this.#map.pages),
    });
    await journal.drop(through, {
      anchors: [held, ...gapEnds.filter((end) => end > held)],
      dropping: ({ last, openedAtMs, records }) => {
        if (last <= held) return;
        oldestAtMs ??= openedAtMs;
        for (const record of records) {
          const range = touchedBy(record);
          if (range !== null) this.#map.touch(range.volume, range.start, range.end);
        }
      },
      notes: () => {
        dropped = after();
        return [
          ...this.#map.takeChanged().map((page) => ({ number: pageNumber(page), value: encodePage(page) })),
          { number: overflowNumber, value: encodeOverflow(dropped) },
        ];
      },
    });
    if (dropped === null) return;
    this.#note = dropped;
    const fields = { through, acknowledged: held, dirtyChunks: this.#map.count };
    if (before === null)
      log.warn(
        "OVERFLOW_BEGAN",
        "the journal is full: what the standby lacks is noted and dropped, and a resync will bring it",
        fields,
      );
    else log.debug("OVERFLOW_DROPPED", "the journal is full again", fields);
    this.#world.dropped();
  }
}

/** What a journal notes of its overflow. JOURNAL_DAMAGED when that is not what was written, or not all of it. */
export async function readNotes(
  journal: Pick<FrameLog, "notes">,
): Promise<{ readonly map: DirtyMap; readonly note: OverflowNote | null }> {
  const map = new DirtyMap();
  let note: OverflowNote | null = null;
  for (const { number, value } of await journal.notes()) {
    try {
      if (number === overflowNumber) note = decodeOverflow(value);
      else map.add(decodePage(number, value));
    } catch (error) {
      if (error instanceof RemoteProtocolError) throw journalDamaged("note", null, { note: number }, error);
      throw error;
    }
  }
  // Frames that are gone make no hole: bits that are gone with them nobody would miss.
  if (digestOfPages(map.pages) !== (note?.pages ?? digestOfPages([])))
    throw journalDamaged("dirty-map", null, { pages: map.pages.length });
  return { map, note };
}
