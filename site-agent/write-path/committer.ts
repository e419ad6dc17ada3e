/**
 * Group commit: while one frame is being put, arriving records collect for the next. Owns the step from "arrived"
 * to "in the journal" and the answer to plain writes. Must never put two frames at once, and never answer a write
 * whose frame is not in the journal's log (it would not survive a kill of the process).
 */
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import { buildFrame, frameBodyBytesTarget, frameHeaderBytes } from "../../protocol/frame.ts";
import type { LineageBytes } from "../../protocol/ids.ts";
import { recordHeaderBytes } from "../../protocol/record.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode } from "../../runtime/errors.ts";
import type { DurableGate } from "./durable-gate.ts";
import type { PendingRecord, PendingWrites } from "./pending-writes.ts";

/** Why writes wait instead of being journalled; shown as `io: held`. */
export type HoldCode = "JOURNAL_FULL" | "JOURNAL_RESERVE";

export interface CommitterWorld {
  readonly log: FrameLog;
  readonly lineage: LineageBytes;
  readonly pending: PendingWrites;
  readonly gate: DurableGate;
  readonly clock: Clock;
  /** `write`: every write is answered after the sync. `flush`: after the put; FLUSH and FUA after the sync. */
  readonly durability: "flush" | "write";
  /** False while too much waits for the image: memory stays bounded, and the writer feels the disk's speed. */
  readonly hasRoomInMemory: () => boolean;
  /** The frame is in the journal; called before its writes are answered. `awaited`: somebody waits for its sync. */
  readonly appended: (frame: Frame, awaited: boolean) => void;
  readonly held: (code: HoldCode | null) => void;
  readonly failed: (error: unknown, unsettled: InFlight) => void;
}

/** The frame whose put failed: it may or may not exist, and none of its writes has been answered. */
export interface InFlight {
  readonly frame: Frame;
  readonly items: readonly PendingRecord[];
}

/** A full file system is looked at again this often, ms: space comes back from outside, without an event. */
const reserveRecheckMs = 1_000;

export class Committer {
  readonly #world: CommitterWorld;
  #running: Promise<void> | null = null;
  #stopped = false;
  #holdCode: HoldCode | null = null;
  #recheck: Timer | null = null;

  constructor(world: CommitterWorld) {
    this.#world = world;
  }

  /** Something arrived, or room was made. Cheap; the work starts when the present turn is over. */
  kick(): void {
    if (this.#running !== null || this.#stopped) return;
    // A microtask later, all requests that one network read brought stand in the queue and share a frame.
    this.#running = Promise.resolve().then(() => this.#run());
  }

  /** Stops after the frame in flight. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#recheck?.cancel();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { pending, log, hasRoomInMemory } = this.#world;
    while (!this.#stopped && pending.count > 0 && hasRoomInMemory()) {
      const bodyBytes = Math.min(pending.bytes, frameBodyBytesTarget);
      const room = log.roomFor(bodyBytes + frameHeaderBytes + recordHeaderBytes);
      if (room !== "ok") {
        this.#hold(room === "full" ? "JOURNAL_FULL" : "JOURNAL_RESERVE");
        break;
      }
      const items = pending.take(frameBodyBytesTarget);
      const frame = this.#pack(items);
      try {
        await log.append(frame);
      } catch (error) {
        const code = errorCode(error);
        if (code === "JOURNAL_FULL" || code === "JOURNAL_RESERVE") {
          // Nothing was written and the handle is sound: these writes wait like those behind them.
          pending.putBack(items);
          this.#hold(code);
          break;
        }
        this.#stopped = true;
        this.#world.failed(error, { frame, items });
        break;
      }
      this.#hold(null);
      this.#settle(frame, items);
    }
    this.#running = null;
  }

  #pack(items: readonly PendingRecord[]): Frame {
    const { tail } = this.#world.log;
    return buildFrame({
      lineage: this.#world.lineage,
      first: tail.sequence + 1,
      chainBefore: tail.chain,
      dataBytesBefore: tail.dataBytesTotal,
      openedAtMs: items[0]!.arrivedAtMs,
      closedAtMs: this.#world.clock.wallMs(),
      records: items.map((item) => item.record),
    });
  }

  #settle(frame: Frame, items: readonly PendingRecord[]): void {
    const { gate, durability, appended } = this.#world;
    const waitersBefore = gate.count;
    for (let index = 0; index < items.length; index += 1) {
      const request = items[index]!.request;
      if (request !== null && (request.durable || durability === "write"))
        gate.add(frame.first + index, request);
    }
    // Readers must find the content before its writer hears that it is written.
    appended(frame, gate.count > waitersBefore);
    notePlaced(frame, items);
    this.#world.pending.settled(items.length);
    if (durability === "write") return;
    for (const item of items) if (item.request !== null && !item.request.durable) item.request.resolve();
  }

  #hold(code: HoldCode | null): void {
    if (code === this.#holdCode && code === null) return;
    this.#holdCode = code;
    this.#recheck?.cancel();
    this.#recheck = null;
    this.#world.held(code);
    if (code === "JOURNAL_RESERVE") {
      this.#recheck = this.#world.clock.after(reserveRecheckMs, () => this.kick());
    }
  }
}

/** Tells whoever asked under which number its record is in the journal. */
export function notePlaced(frame: Frame, items: readonly PendingRecord[]): void {
  for (let index = 0; index < items.length; index += 1) items[index]!.request?.placed?.(frame.first + index);
}
