/**
 * The past of a group's images as a role keeps it: opens the history beside them, gives back what nobody wants, says
 * which points there are, and lets them be read until the images are closed. Both roles have one around each
 * `GroupImage`. Never changes an image, and never lets a view outlive the images it reads.
 */
import { dirname } from "node:path";
import type { BlockDevice } from "../block/device.ts";
import type { HistoryCheckState } from "../protocol/history-check.ts";
import type { LineageBytes, Sequence, VolumeEntry, VolumeNumber } from "../protocol/ids.ts";
import type { PointChoice } from "../protocol/point.ts";
import type { PointDigest } from "../protocol/point-digest.ts";
import type { HistoryCheck, HistoryStatus, PinStatus } from "../protocol/status.ts";
import type { Clock } from "../runtime/clock.ts";
import { rfc3339 } from "../runtime/clock.ts";
import type { Disk } from "../runtime/disk.ts";
import { syncDirectory } from "../runtime/disk.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { OpenOrderedStore } from "../runtime/ordered-store.ts";
import type { HistorySettings } from "../runtime/settings/types.ts";
import type { GroupImage } from "./group-image.ts";
import { History } from "./history/history.ts";
import type { Pin } from "./history/pins.ts";
import { openView } from "./history/view.ts";
import type { CheckProgress } from "./history-check.ts";
import { HistoryChecker } from "./history-check.ts";
import type { AppliedPosition } from "./marker.ts";
import { PointDigests } from "./point-digests.ts";
import { bucketPoints, PointTable } from "./point-table.ts";
import { VerifyDigest } from "./verify-digest.ts";

/**
 * Between two looks at what may be given back, ms: each may log and ask the file system. The history may be longer than
 * its limit by what is captured in between.
 */
const retainIntervalMs = 1_000;
/** Pace of a digest that nobody ordered where scans have none, bytes/s: apply reads and writes the same disk. */
const digestBytesPerSecondMax = 256 * 1024 * 1024;
/** Points read from the index at once while they are counted. */
const countPoints = 1_024;

export interface PastFolder {
  readonly disk: Disk;
  /** Made when it is not there; the folder above it lasts. */
  readonly directory: string;
  readonly openIndex: OpenOrderedStore;
  readonly settings: HistorySettings;
  /** Free space of the file system that the log beside it leaves alone, bytes. */
  readonly reserveBytes: number;
  /** False while no position of the images can be opened, so that nothing they hold is worth keeping; default true. */
  readonly isWorthKeeping?: () => boolean;
  /** True where a point may have to be pinned whatever the settings say: a history is opened for it. Default false. */
  readonly mayPin?: boolean;
  readonly log: Log;
  /** Where histories are short, so that segments are begun and given back in them. */
  readonly segmentBytes?: number | undefined;
}

/** What was given up before a history could even be opened, by the history that is there instead. */
const givenUp = new WeakMap<History, OperationalError>();

/**
 * How `GroupImage` opens the history; undefined when there is none and none is wanted. One that is there is opened
 * whatever the settings say: passed over, it could not be told later from one that reaches up to the images.
 * `mayHold`: the images may hold records up to here in part, beyond what their marker says.
 */
export function historyOpener(
  folder: PastFolder,
  lineage: LineageBytes,
  mayHold: Sequence,
): ((applied: AppliedPosition, applyingLast: Sequence) => Promise<History>) | undefined {
  const { disk, directory, settings, log } = folder;
  if (settings.windowMs === 0 && folder.mayPin !== true && !disk.exists(directory)) return undefined;
  return async (applied, applyingLast) => {
    let opened: History | undefined;
    const open = async (): Promise<History> => {
      opened = await History.open({
        disk,
        directory,
        lineage,
        applied,
        mayHold: Math.max(mayHold, applyingLast),
        openIndex: folder.openIndex,
        windowMs: settings.windowMs,
        isWorthKeeping: folder.isWorthKeeping,
        // Asked anew each time: on a disk that fills up the oldest points go before anything has to wait for space.
        get bytesMax() {
          return opened === undefined ? settings.bytesMax : roomFor(folder, opened.bytes);
        },
        log,
        ...(folder.segmentBytes === undefined ? {} : { segmentBytes: folder.segmentBytes }),
      });
      return opened;
    };
    try {
      return await open();
    } catch (error) {
      if (errorCode(error) !== "DOCUMENT_DAMAGED") throw error;
      const damage = new OperationalError({
        code: "HISTORY_DAMAGED",
        message: `what is pinned and where the history begins cannot be read; it was put aside as ${aside(directory)}`,
        reaction: "reopen",
        hint: "Points before now cannot be opened any more; images and newest point are not touched.",
        cause: error,
      });
      log.error("HISTORY_DAMAGED", "the history is put aside and begun anew", damage);
      await putAside(disk, directory);
      const history = await open();
      givenUp.set(history, damage);
      return history;
    }
  };
}

function aside(directory: string): string {
  return `${directory}.damaged`;
}

/** Kept for whoever wants to look at it; of several only the last. A crash in between puts it aside again. */
async function putAside(disk: Disk, directory: string): Promise<void> {
  await disk.remove(aside(directory));
  await disk.rename(directory, aside(directory));
  await syncDirectory(disk, dirname(directory));
}

/**
 * What the history may have, bytes: its limit, or less where the file system would come near the reserve. It leaves twice as
 * much alone as the log beside it, which takes nothing more at the reserve itself: old points give way to new writes.
 */
function roomFor({ disk, directory, settings, reserveBytes }: PastFolder, bytes: number): number {
  const room = bytes + disk.freeBytes(directory) - 2 * reserveBytes;
  return Math.max(1, Math.min(settings.bytesMax, room));
}

/** One volume at a point, to be read and closed. */
export interface PointView {
  readonly sizeBytes: number;
  /** OperationalError `POINT_CLOSED` (`retry`) once the images are being closed; else as the device. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

export class Past {
  readonly #image: GroupImage;
  readonly #history: History | undefined;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #bytesMax: number;
  readonly #isOpenable: (sequence: Sequence) => boolean;
  readonly #isWhole: (volume: VolumeNumber, sequence: Sequence) => boolean;
  readonly #table = new PointTable();
  readonly #counted: Promise<void>;
  readonly #checker: HistoryChecker | undefined;
  readonly #digests: PointDigests | undefined;
  #verifyDigest: VerifyDigest | undefined;
  #isCounted = false;
  #retainedMs = Number.NEGATIVE_INFINITY;
  readonly #views = new Set<BlockDevice>();
  /** Openings and reads under way; bounded by the views and who asks for them. */
  readonly #underWay = new Set<Promise<unknown>>();
  #closed = false;

  /**
   * `isOpenable`: false for ends of steps at which the images were between two states of their source; default all.
   * `isWhole`: whether a volume is part of a point; default every one of each.
   */
  constructor(
    image: GroupImage,
    settings: HistorySettings,
    clock: Clock,
    log: Log,
    isOpenable: (sequence: Sequence) => boolean = () => true,
    isWhole: (volume: VolumeNumber, sequence: Sequence) => boolean = () => true,
  ) {
    this.#image = image;
    this.#isOpenable = isOpenable;
    this.#isWhole = isWhole;
    this.#history = image.history;
    this.#clock = clock;
    this.#log = log;
    this.#bytesMax = settings.bytesMax;
    const { history } = image;
    this.#checker =
      history && new HistoryChecker({ history, volumes: image.volumes, clock: this.#clock, log: this.#log });
    this.#digests = history && new PointDigests(history.folder, clock, log);
    // A day of points takes a second to count: nobody waits for it, and status says how many are counted so far.
    this.#counted = this.#count();
  }

  async #count(): Promise<void> {
    const through = this.#history?.captured;
    if (this.#history !== undefined && through !== undefined) {
      try {
        for (let from = 0; from <= through && !this.#closed; ) {
          const points = await this.#history.points(from, countPoints);
          for (const point of points) if (point.sequence <= through) this.#table.add(point);
          from = (points.at(-1)?.sequence ?? through) + 1;
        }
      } catch (error) {
        // The step that meets it next ends this history; it is counted again when it is opened again.
        this.#log.warn("HISTORY_NOT_COUNTED", `the points could not be counted: ${errorText(error)}`);
      }
    }
    this.#isCounted = true;
    this.addNewest();
  }

  /** Behind each apply step: counts its point. */
  addNewest(): void {
    if (!this.#isCounted || this.#history === undefined) return;
    const { oldest, newest } = this.#history;
    if (oldest === undefined || newest === undefined) {
      this.#table.clear();
      return;
    }
    if (this.#table.count === 0) this.#table.add(oldest);
    this.#table.add(newest);
  }

  /** Behind steps whose marker is durable, and once before the first: counts, and gives back what nobody wants. */
  async stepped(): Promise<void> {
    this.addNewest();
    const nowMs = this.#clock.monotonicMs();
    if (this.#history === undefined || nowMs - this.#retainedMs < retainIntervalMs) return;
    this.#retainedMs = nowMs;
    const before = this.#history.oldest?.sequence;
    await this.#history.retain(this.#clock.wallMs());
    const after = this.#history.oldest?.sequence;
    if (after === before || after === undefined) return;
    await this.#counted;
    this.#table.keepFrom(await this.#history.points(after, bucketPoints));
  }

  get volumes(): readonly VolumeEntry[] {
    return this.#image.volumes;
  }

  /** What a point holds: the volumes that were whole when it was made, with the sizes they have now. */
  volumesAt({ sequence }: Pick<AppliedPosition, "sequence">): VolumeEntry[] {
    return this.volumes.filter(({ number }) => this.#isWhole(number, sequence));
  }

  /** Names of the others. */
  leftOutAt({ sequence }: Pick<AppliedPosition, "sequence">): string[] {
    return this.volumes.filter(({ number }) => !this.#isWhole(number, sequence)).map(({ name }) => name);
  }

  /** null: no history is kept, and only what the images hold now can be opened. */
  get status(): HistoryStatus | null {
    const history = this.#history;
    if (history === undefined) return null;
    const { oldest, newest, bytes } = history;
    const damage = givenUp.get(history) ?? history.damage;
    const held = this.#image.held.sequence;
    // A set that was captured before a crash is a point once the images have reached it again.
    const ahead = (this.#table.newest ?? 0) > held ? 1 : 0;
    return {
      oldest: oldest?.sequence ?? held,
      newest: Math.min(newest?.sequence ?? held, held),
      points: Math.max(1, this.#table.count - ahead),
      bytes,
      maxBytes: this.#bytesMax,
      oldestTime: labelOf(oldest ?? this.#image.held),
      pins: history.pins.map((pin) => pinStatus(history, pin)),
      problem: damage === undefined ? null : { code: damage.code, message: damage.message },
      check: this.#checker?.newest ?? null,
      checking: this.#checker?.progress ?? null,
    };
  }

  /**
   * Keeps a point until it is unpinned. The same again is taken as done. OperationalErrors of `find` and `History.pin`,
   * reaction `refuse`: `POINT_UNKNOWN`, `POINTS_NONE`, `PIN_EXISTS`, `PINS_FULL`, `PIN_INVALID`.
   */
  async pin(idOf: (sequence: Sequence) => string, choice: PointChoice, label: string): Promise<PinStatus> {
    const history = this.#require();
    const { sequence } = await this.find(choice);
    const id = idOf(sequence);
    await this.#track(() =>
      history.pin({ id, sequence, reason: label }, this.#image.held, this.#clock.wallMs()),
    );
    return pinStatus(history, history.pins.find((pin) => pin.id === id)!);
  }

  /** False when there is no such pin. What only it kept goes with the next look at what may be given back. */
  async unpin(id: string): Promise<boolean> {
    const history = this.#require();
    return this.#track(() => history.unpin(id));
  }

  /** The digest that was made of a point; undefined: none was. */
  async digestOf(point: AppliedPosition): Promise<string | undefined> {
    return (await this.#digests?.of(point, this.volumesAt(point)))?.digest;
  }

  /**
   * The digest of the group at a point, made by reading every volume that it holds unless it was made before.
   * OperationalErrors of `find` and `openView`.
   */
  async digest(
    group: string,
    choice: PointChoice,
    bytesPerSecond: number | null,
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): Promise<PointDigest> {
    return this.#digestAt(group, await this.find(choice), bytesPerSecond, onProgress);
  }

  #digestAt(
    group: string,
    point: AppliedPosition,
    bytesPerSecond: number | null,
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): Promise<PointDigest> {
    if (this.#digests === undefined) throw pointClosed();
    return this.#digests.make({
      group,
      point,
      oldest: this.#history?.oldest?.sequence ?? 0,
      time: labelOf(point),
      volumes: this.volumesAt(point),
      openView: (volume) => this.openView(volume, point.sequence),
      bytesPerSecond,
      onProgress,
    });
  }

  /**
   * The check of the before-images that belongs to the verify named so; begun unless it is there. `digest`: of a verify that
   * found nothing; the first point at or behind its end gets its digest then, and that counts as a part of the check.
   */
  async checkFor(
    verify: Sequence,
    bytesPerSecond: number | null,
    digest?: { readonly group: string; readonly end: Sequence },
  ): Promise<HistoryCheckState> {
    if (this.#checker === undefined || this.#history?.captured === undefined) return { kind: "none" };
    if (this.#closed) throw pointClosed();
    const state = await this.#checker.ask(verify, bytesPerSecond);
    if (state.kind !== "done" || digest === undefined) return state;
    const rest = await this.#verifyDigestOf(digest.group, bytesPerSecond).ask(digest.end);
    return rest === null ? state : { kind: "running", ...rest };
  }

  #verifyDigestOf(group: string, bytesPerSecond: number | null): VerifyDigest {
    this.#verifyDigest ??= new VerifyDigest({
      pointFrom: async (sequence) => (await this.points(sequence, bucketPoints))[0],
      make: (point, onProgress) =>
        this.#digestAt(group, point, bytesPerSecond ?? digestBytesPerSecondMax, onProgress),
      log: this.#log,
    });
    return this.#verifyDigest;
  }

  /** Reads the before-images through. OperationalErrors `POINTS_NONE`, `POINT_CLOSED`, those of `History.verify`. */
  async check(
    bytesPerSecond: number | null,
    onProgress: (progress: CheckProgress) => void,
  ): Promise<HistoryCheck> {
    this.#require();
    if (this.#closed || this.#checker === undefined) throw pointClosed();
    return this.#checker.run(bytesPerSecond, onProgress);
  }

  /** Points at or behind `from`, oldest first, at most `limit`; without `from` the newest. `POINTS_NONE` (`refuse`). */
  async points(from: Sequence | undefined, limit: number): Promise<AppliedPosition[]> {
    const history = this.#require();
    await this.#counted;
    if (from !== undefined) return this.#openable(await history.points(from, limit));
    // Twice as many each time, as long as too many of the newest cannot be opened: no more than twice all there are.
    for (let wanted = limit; ; wanted *= 2) {
      const start = this.#table.beforeNewest(wanted + 1);
      const found = this.#openable(await history.points(start, wanted + 1 + bucketPoints));
      if (found.length >= limit || wanted >= this.#table.count) return found.slice(-limit);
    }
  }

  #openable(points: readonly AppliedPosition[]): AppliedPosition[] {
    const held = this.#image.held.sequence;
    return points.filter(({ sequence }) => sequence <= held && this.#isOpenable(sequence));
  }

  /** The point that is meant. OperationalError `POINT_UNKNOWN`, `POINTS_NONE` (`refuse`). */
  async find(choice: PointChoice): Promise<AppliedPosition> {
    const history = this.#require();
    await this.#counted;
    const point = await this.#choose(history, choice);
    if (point !== undefined && this.#openable([point]).length > 0) return point;
    throw new OperationalError({
      code: "POINT_UNKNOWN",
      message: "there is no such point that can be opened",
      reaction: "refuse",
      hint: "See: splitsite points GROUP.",
    });
  }

  async #choose(history: History, choice: PointChoice): Promise<AppliedPosition | undefined> {
    switch (choice.kind) {
      case "latest":
        return (await this.points(undefined, 1)).at(-1);
      case "sequence":
        return history.point(choice.sequence);
      case "time":
        return this.#atTime(choice.timeMs);
    }
  }

  async #atTime(timeMs: number): Promise<AppliedPosition | undefined> {
    const from = this.#table.beforeTime(timeMs);
    if (from === undefined) return undefined;
    const points = await this.points(from, bucketPoints);
    return points.findLast((point) => point.timeMs <= timeMs);
  }

  #require(): History {
    if (this.#history?.captured !== undefined) return this.#history;
    throw new OperationalError({
      code: "POINTS_NONE",
      message: "no history is kept here, or nothing was applied since it is",
      reaction: "refuse",
      hint: "See `protection.history` in the configuration, and `splitsite status`.",
    });
  }

  /**
   * A volume as of `sequence`. OperationalErrors of `openView`, `VOLUME_NOT_IN_POINT` (`refuse`), and `POINT_CLOSED`
   * (`retry`).
   */
  async openView(volume: VolumeNumber, sequence: Sequence): Promise<PointView> {
    if (!this.#isWhole(volume, sequence)) {
      throw new OperationalError({
        code: "VOLUME_NOT_IN_POINT",
        message: `volume ${volume} was not whole at ${sequence}: the point does not hold it`,
        reaction: "refuse",
        hint: "See `splitsite status` for where it is whole from, and choose a later point.",
      });
    }
    const device = await this.#track(async () => {
      const opened = await openView(this.#image, volume, sequence);
      this.#views.add(opened);
      return opened;
    });
    return {
      sizeBytes: device.sizeBytes,
      read: (offset, length) => this.#track(() => device.read(offset, length)),
      close: async () => {
        if (this.#views.delete(device)) await device.close();
      },
    };
  }

  async #track<T>(run: () => Promise<T>): Promise<T> {
    if (this.#closed) throw pointClosed();
    const work = run();
    this.#underWay.add(work);
    try {
      return await work;
    } finally {
      this.#underWay.delete(work);
    }
  }

  /** Before the images are closed: nothing of them is read when it settles, and every view has let its point go. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#underWay, this.#counted, this.#checker?.stop()]);
    for (const device of [...this.#views]) {
      this.#views.delete(device);
      await device.close();
    }
    await this.#digests?.idle();
  }
}

function pinStatus(history: History, { id, sequence, reason, timeMs }: Pin): PinStatus {
  return {
    id,
    sequence,
    label: reason,
    since: rfc3339(timeMs),
    keptBytes: history.bytesBehind(sequence),
  };
}

/** The beginning of a group has no time: nothing was written yet. */
export function labelOf({ sequence, timeMs }: AppliedPosition): string | null {
  return sequence === 0 ? null : rfc3339(timeMs);
}

function pointClosed(): OperationalError {
  return new OperationalError({
    code: "POINT_CLOSED",
    message: "the images are being closed, and with them every point of theirs",
    reaction: "retry",
    hint: "Try again when `splitsite status` shows the group at work.",
  });
}
