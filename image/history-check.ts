/**
 * Reads the before-images of one open history through, at a pace, one check at a time, and keeps what the last one found
 * beside them. Reads only, whoever asks; what it found is told once in the log. Never outlives the history it reads.
 */
import { join } from "node:path";
import { fieldsOf, malformed } from "../protocol/fields.ts";
import type { HistoryCheckRecord, HistoryCheckState } from "../protocol/history-check.ts";
import { boundedDamage, describeHistoryCheck, parseHistoryCheckRecord } from "../protocol/history-check.ts";
import type { Sequence, VolumeEntry } from "../protocol/ids.ts";
import type { HistoryCheck } from "../protocol/status.ts";
import type { Clock, Timer } from "../runtime/clock.ts";
import { rfc3339 } from "../runtime/clock.ts";
import { readDocument, writeDocument } from "../runtime/durable-document.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { History } from "./history/history.ts";
import type { DamagedChunk } from "./history/verify.ts";

/** A verify's begin, or null for a check that was ordered here. */
export type CheckName = Sequence | null;

interface Kept {
  readonly name: CheckName;
  readonly record: HistoryCheckRecord;
}

export interface CheckProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface HistoryCheckerWorld {
  readonly history: History;
  readonly volumes: readonly VolumeEntry[];
  readonly clock: Clock;
  readonly log: Log;
}

export class HistoryChecker {
  readonly #world: HistoryCheckerWorld;
  readonly #loaded: Promise<void>;
  #kept: Kept | undefined;
  #failed: { readonly name: CheckName; readonly error: unknown } | undefined;
  #running: { readonly name: CheckName; readonly done: Promise<HistoryCheckRecord> } | undefined;
  #progress: CheckProgress | null = null;
  #listeners = new Set<(progress: CheckProgress) => void>();
  #stopped = false;
  #pause: { readonly timer: Timer; readonly wake: () => void } | undefined;

  constructor(world: HistoryCheckerWorld) {
    this.#world = world;
    this.#loaded = this.#load();
  }

  /** Null: none is under way. */
  get progress(): CheckProgress | null {
    return this.#progress;
  }

  /** What the last check found, without what is not there any more; null: none came to its end. */
  get newest(): HistoryCheck | null {
    if (this.#kept === undefined) return null;
    const { history, volumes } = this.#world;
    const { record } = this.#kept;
    const oldest = history.oldest?.sequence ?? Number.POSITIVE_INFINITY;
    const captured = history.captured ?? -1;
    const damaged = record.damaged.filter(({ at, set }) =>
      set === null ? at[0] >= history.oldestSegment : set[1] > oldest && set[0] <= captured,
    );
    const gone = record.damaged.length - damaged.length;
    const left = { ...record, damaged, damagedChunks: record.damagedChunks - gone };
    return describeHistoryCheck(left, volumes, rfc3339);
  }

  /** The state of the check named so, which is begun unless it is there; a failure is told once, then it begins anew. */
  async ask(name: Sequence, bytesPerSecond: number | null): Promise<HistoryCheckState> {
    await this.#loaded;
    if (this.#running === undefined) {
      if (this.#kept?.name === name) return { kind: "done", record: this.#kept.record };
      if (this.#failed?.name === name) {
        const { error } = this.#failed;
        this.#failed = undefined;
        return { kind: "failed", reason: { code: errorCode(error), message: errorText(error) } };
      }
      this.#begin(name, bytesPerSecond);
    }
    return {
      kind: "running",
      ...(this.#progress ?? { doneBytes: 0, totalBytes: this.#world.history.bytes }),
    };
  }

  /** A check of its own, or the one under way, to its end. OperationalErrors of `History.verify`, `POINT_CLOSED`. */
  async run(
    bytesPerSecond: number | null,
    onProgress: (progress: CheckProgress) => void,
  ): Promise<HistoryCheck> {
    await this.#loaded;
    this.#listeners.add(onProgress);
    try {
      const record = await (this.#running ?? this.#begin(null, bytesPerSecond)).done;
      return describeHistoryCheck(record, this.#world.volumes, rfc3339);
    } finally {
      this.#listeners.delete(onProgress);
    }
  }

  /** Settles when nothing of it reads the history any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#pause?.timer.cancel();
    this.#pause?.wake();
    await Promise.allSettled([this.#loaded, this.#running?.done]);
  }

  #begin(name: CheckName, bytesPerSecond: number | null) {
    const done = this.#check(name, bytesPerSecond).finally(() => {
      this.#running = undefined;
      this.#progress = null;
    });
    this.#running = { name, done };
    done.catch((error: unknown) => {
      if (this.#stopped) return;
      this.#failed = { name, error };
      this.#world.log.warn(
        "HISTORY_NOT_CHECKED",
        `the before-images were not read through: ${errorText(error)}`,
        {
          reason: errorCode(error),
        },
      );
    });
    return this.#running;
  }

  async #check(name: CheckName, bytesPerSecond: number | null): Promise<HistoryCheckRecord> {
    const { history, clock } = this.#world;
    const startedAtMs = clock.wallMs();
    const startMs = clock.monotonicMs();
    const report = await history.verify(async ({ bytes, bytesTotal }) => {
      this.#progress = { doneBytes: bytes, totalBytes: bytesTotal };
      for (const listener of this.#listeners) listener(this.#progress);
      const dueMs = startMs + (bytes * 1_000) / (bytesPerSecond ?? Number.POSITIVE_INFINITY);
      await this.#pauseFor(dueMs - clock.monotonicMs());
      if (this.#stopped) throw stopped();
    });
    const record: HistoryCheckRecord = {
      startedAtMs,
      durationMs: Math.round(clock.monotonicMs() - startMs),
      bytes: report.bytes,
      chunks: report.chunks,
      damagedChunks: report.damaged.length + (report.isCut ? 1 : 0),
      damaged: boundedDamage(report.damaged.map(damageRecord)),
    };
    await this.#keep({ name, record });
    return record;
  }

  async #pauseFor(delayMs: number): Promise<void> {
    if (delayMs <= 0 || this.#stopped) return;
    await new Promise<void>((resolve) => {
      this.#pause = { timer: this.#world.clock.after(delayMs, resolve), wake: resolve };
    });
    this.#pause = undefined;
  }

  async #keep(kept: Kept): Promise<void> {
    const { history, volumes, log } = this.#world;
    const before = this.#kept?.record.damaged ?? [];
    this.#kept = kept;
    const { damaged, damagedChunks } = kept.record;
    // The same damage, found again by the next check, is no news.
    if (damagedChunks > 0 && JSON.stringify(damaged) !== JSON.stringify(before)) {
      const { damaged: named } = describeHistoryCheck(kept.record, volumes, rfc3339);
      log.error("HISTORY_DAMAGED", `${damagedChunks} chunks of before-images are damaged`, undefined, {
        hint: "Points that need them cannot be read in these ranges; the images and the newest point are not touched.",
        damaged: named.slice(0, damagedLogged),
      });
    }
    const { disk, directory } = history.folder;
    // Survives a restart, so that whoever asks for this check is answered and it need not be made again.
    await writeDocument(disk, join(directory, checkFile), { version: 1, ...kept });
  }

  async #load(): Promise<void> {
    const { history, log } = this.#world;
    const { disk, directory } = history.folder;
    try {
      this.#kept = await readDocument(disk, join(directory, checkFile), parseKept);
    } catch (error) {
      // Only a result: the next check makes another one.
      log.warn("HISTORY_CHECK_UNREADABLE", `what the last check found is lost: ${errorText(error)}`);
    }
  }
}

const checkFile = "check.json";
/** Damaged chunks in one line of the log. */
const damagedLogged = 16;

function parseKept(value: unknown): Kept {
  const { version, name, record } = fieldsOf(value, "check");
  if (version !== 1) malformed("version");
  return { name: typeof name === "number" ? name : null, record: parseHistoryCheckRecord(record) };
}

function damageRecord({ place, part, set, ranges }: DamagedChunk) {
  return {
    at: [place.segment, place.offset],
    part,
    set: set === undefined ? null : ([set.first, set.last] as const),
    ranges: ranges.map(({ volume, first, blocks }) => [volume, first, blocks] as const),
  } as const;
}

function stopped(): OperationalError {
  return new OperationalError({
    code: "POINT_CLOSED",
    message: "the images are being closed, and with them their history",
    reaction: "retry",
    hint: "Try again when `splitsite status` shows the group at work.",
  });
}
