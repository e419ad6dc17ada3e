/**
 * Runs one scan over one engine: performs what the plan orders at the scan's pace, asks the standby for its findings, and
 * makes the plan's places durable. Owns the order of durability: a place is saved before anything behind it is begun. It
 * puts nothing into the queue without room, decides nothing about windows, and ends with its engine.
 */
import type { ScanAnswer } from "../../protocol/control.ts";
import type { Sequence, VolumeEntry, VolumeNumber } from "../../protocol/ids.ts";
import type { ScanMark } from "../../protocol/record.ts";
import type { Reason, ScanStatus } from "../../protocol/status.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { every } from "../../runtime/clock.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { Engine } from "../write-path/engine.ts";
import type { Entrance } from "../write-path/entrance.ts";
import { ChunkReader } from "./chunk-reader.ts";
import { paceOf } from "./pace.ts";
import type { PlanContext, PlanEffect, PlanEvent, PlanPlace, PlanState } from "./plan.ts";
import { chunkBytes, doneBytes, findingsAfter, planStart, step, totalBytes } from "./plan.ts";
import type { ScanDocument } from "./scan-document.ts";
import { leavesIn, withDifferences } from "./scan-document.ts";
import { StopSignal } from "./stop-signal.ts";

/** Content in the order that the standby has not acknowledged, bytes: with one chunk more it is what a scan holds back. */
const unacknowledgedBytesMax = 16 * 1024 * 1024;
/** Findings are asked for, and room is looked for, this often, ms. */
const tickMs = 1_000;
/** After a read or a document that failed, ms. */
const againMs = 1_000;
/** A line in the log this often, ms. */
const progressMs = 30_000;
/** Samples of the pace, one a tick. */
const paceSamples = 10;

export interface ScannerWorld {
  readonly group: string;
  /** As it is on disk. */
  readonly document: ScanDocument;
  readonly volumes: readonly VolumeEntry[];
  /** Chunks of a volume that are walked, rising; null: all of all volumes. */
  readonly only: ((volume: VolumeNumber) => Uint32Array) | null;
  readonly engine: Pick<Engine, "read" | "extents">;
  readonly entrance: Entrance;
  readonly clock: Clock;
  readonly log: Log;
  /** Read at most, bytes/s, so that a scan does not take the disk from its users; null: as fast as it may. */
  readonly rateBytesPerSecond: number | null;
  /** Why nothing may be put into the queue now, apart from the scan's own content. */
  readonly room: () => Reason | null;
  /** Null: nobody can be asked now. */
  readonly ask: (after: Sequence) => Promise<ScanAnswer | null>;
  /** Survives power loss when it settles. */
  readonly save: (document: ScanDocument) => Promise<void>;
  /** Called once, after which this does nothing more. `end`: number of the end mark. */
  readonly over: (document: ScanDocument, how: "done" | "given-up", end: Sequence | null) => void;
}

interface Job {
  readonly effect: Extract<PlanEffect, { kind: "digest" | "content" }>;
  /** Reads that were spoiled before. */
  readonly reads: number;
}

/** Content in the order; no number yet, or not acknowledged. */
interface Sent {
  readonly bytes: number;
  sequence: Sequence | null;
}

export class Scanner {
  readonly #world: ScannerWorld;
  readonly #context: PlanContext;
  readonly #stop: StopSignal;
  readonly #reader: ChunkReader;
  #document: ScanDocument;
  #plan: PlanState;
  /** Bounded by the plan: the work of one window. */
  #jobs: Job[] = [];
  #sent: Sent[] = [];
  #wake: (() => void) | null = null;
  #ticker: Timer | null = null;
  #asking = false;
  /** What went wrong last, until the next thing goes well. */
  #trouble: Reason | null = null;
  #waits: Reason | null = null;
  #readyAtMs = 0;
  /** Requests of clients when the last chunk was done. */
  #requestsBefore: number;
  #savedAtMs: number;
  #loggedAtMs: number;
  #pace: { readonly atMs: number; readonly bytes: number }[] = [];
  readonly #tasks = new Set<Promise<void>>();

  constructor(world: ScannerWorld) {
    this.#world = world;
    const { document, volumes, only, clock, engine, entrance } = world;
    this.#document = document;
    this.#requestsBefore = entrance.requests;
    this.#context = {
      volumes,
      only: only === null ? null : volumes.map(({ number }) => only(number)),
      walk:
        document.walk === "compare"
          ? { kind: "compare", mend: document.purpose !== "verify" }
          : document.walk === "allocated"
            ? { kind: "allocated" }
            : {
                kind: "listed",
                leaves: (volume, chunk) => leavesIn(document.listed, volume, chunk),
              },
    };
    this.#plan = planStart(document.begin, document.place);
    this.#stop = new StopSignal(clock);
    this.#savedAtMs = clock.monotonicMs();
    this.#loggedAtMs = this.#savedAtMs;
    this.#reader = new ChunkReader({
      entrance,
      clock,
      stop: this.#stop,
      sizeBytes: (volume) => this.#sizeBytes(volume),
      read: (volume, offset, length) => engine.read(volume, offset, length),
      extents: (volume, offset, length) => engine.extents(volume, offset, length),
      digestsPlaced: ({ level, chunk, count, bytes, sequence }) => {
        this.#count({ digestBytes: bytes });
        this.#later(sequence, (placed) =>
          this.#dispatch({ kind: "digestsPlaced", level, chunk, count, sequence: placed }),
        );
      },
      contentPlaced: ({ chunk, bytes, sequence }) => {
        const sent: Sent = { bytes, sequence: null };
        if (bytes > 0) this.#sent.push(sent);
        this.#count({ contentBytes: bytes });
        this.#later(sequence, (placed) => {
          sent.sequence = placed;
          this.#dispatch({ kind: "contentPlaced", chunk, sequence: placed });
        });
      },
      spoiled: ({ level, volume, chunk, reads }) => {
        this.#jobs.unshift({ effect: { kind: "digest", level, volume, chunk }, reads });
        this.kick();
      },
    });
  }

  get document(): ScanDocument {
    return this.#document;
  }

  start(acknowledged: Sequence, applied: Sequence): void {
    const { clock, log } = this.#world;
    const { purpose, begin, place } = this.#document;
    log.info(begin === null ? "SCAN_BEGUN" : "SCAN_RESUMED", `scan for ${purpose}`, { begin, ...place });
    this.#ticker = every(clock, tickMs, () => this.#tick());
    this.#dispatch({ kind: "started" });
    this.standbyAdvanced(acknowledged, applied);
    this.#task(this.#run());
  }

  standbyAdvanced(acknowledged: Sequence, applied: Sequence): void {
    if (this.#stop.stopped) return;
    this.#sent = this.#sent.filter(({ sequence }) => sequence === null || sequence > acknowledged);
    this.#dispatch({ kind: "standbyAdvanced", acknowledged, applied });
    this.kick();
  }

  /** Something that there was no room for may go on. */
  kick(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Durable when it settles; takes effect at once. */
  async pause(paused: boolean): Promise<void> {
    this.#document = { ...this.#document, paused };
    this.kick();
    await this.#world.save(this.#document);
  }

  /** Ends with `over`, once its mark is in the order. */
  giveUp(): void {
    this.#jobs = [];
    this.#reader.drop();
    this.#dispatch({ kind: "givenUp" });
    this.kick();
  }

  /** Settles when nothing of it runs any more and no watch of it is left. What it did since its last save is done again. */
  async stop(): Promise<void> {
    this.#stop.stop();
    this.#ticker?.cancel();
    this.#reader.drop();
    await Promise.all(this.#tasks);
  }

  status(): ScanStatus {
    const { purpose, paused, differingBlocks, digestBytes, contentBytes } = this.#document;
    const done = doneBytes(this.#plan, this.#context);
    const total = totalBytes(this.#context);
    const first = this.#pace[0];
    const spanMs = first === undefined ? 0 : this.#world.clock.monotonicMs() - first.atMs;
    const bytesPerSecond =
      first === undefined || spanMs <= 0
        ? 0
        : Math.max(0, Math.round(((done - first.bytes) * 1_000) / spanMs));
    const reason = this.#waits ?? this.#trouble;
    return {
      purpose,
      state: paused ? "paused" : reason === null ? "running" : "waiting",
      reason: paused ? null : reason,
      volume: this.#context.volumes[this.#plan.place.volume] === undefined ? null : this.#volumeName(),
      doneBytes: done,
      totalBytes: total,
      bytesPerSecond: paused ? 0 : bytesPerSecond,
      etaMs: paused || bytesPerSecond === 0 ? null : Math.round(((total - done) / bytesPerSecond) * 1_000),
      differingBlocks,
      digestBytes,
      contentBytes,
    };
  }

  #volumeName(): string {
    return this.#world.volumes[this.#plan.place.volume]!.name;
  }

  #sizeBytes(volume: VolumeNumber): number {
    return this.#world.volumes.find(({ number }) => number === volume)!.sizeBytes;
  }

  #count(added: { readonly digestBytes?: number; readonly contentBytes?: number }): void {
    const { digestBytes, contentBytes } = this.#document;
    this.#document = {
      ...this.#document,
      digestBytes: digestBytes + (added.digestBytes ?? 0),
      contentBytes: contentBytes + (added.contentBytes ?? 0),
    };
  }

  #dispatch(event: PlanEvent): void {
    if (this.#stop.stopped) return;
    const { state, effects } = step(this.#plan, event, this.#context);
    this.#plan = state;
    for (const effect of effects) this.#perform(effect);
    if (effects.length > 0) this.kick();
  }

  #perform(effect: PlanEffect): void {
    switch (effect.kind) {
      case "digest":
      case "content":
        this.#jobs.push({ effect, reads: 0 });
        return;
      case "putMark":
        this.#mark(effect.mark);
        return;
      case "save":
        this.#task(this.#save(effect.place));
        return;
      case "differs": {
        const { volume, chunk, leaves, unreadable } = effect;
        const sizeBytes = this.#sizeBytes(volume);
        this.#document = withDifferences(this.#document, volume, sizeBytes, chunk, leaves, unreadable);
        return;
      }
      case "over":
        this.#over(effect.how);
    }
  }

  #mark(mark: ScanMark): void {
    const { purpose } = this.#document;
    const begin = mark === "begin" ? 0 : (this.#plan.begin ?? 0);
    const { entrance } = this.#world;
    const record = { kind: "scanMark", volume: 0, offset: 0, length: 0, mark, purpose, begin } as const;
    // The document names the scan by its begin: a power loss that took the record would give its number to another.
    const placed = mark === "begin" ? entrance.putDurably(record) : entrance.put(record);
    this.#later(placed, (sequence) => this.#dispatch({ kind: "markPlaced", mark, sequence }));
  }

  async #save(place: PlanPlace): Promise<void> {
    const { clock, log } = this.#world;
    while (!this.#stop.stopped) {
      const nowMs = clock.monotonicMs();
      const elapsedMs = this.#document.elapsedMs + Math.round(nowMs - this.#savedAtMs);
      this.#document = { ...this.#document, begin: this.#plan.begin, place, elapsedMs };
      this.#savedAtMs = nowMs;
      try {
        await this.#world.save(this.#document);
        this.#trouble = null;
        this.#dispatch({ kind: "saved" });
        return;
      } catch (error) {
        // Nothing behind this place is begun before it is durable; space may come back.
        log.warn("SCAN_NOT_SAVED", errorText(error), { reason: errorCode(error) });
        this.#trouble = { code: "SCAN_NOT_SAVED", message: errorText(error) };
        await this.#stop.after(againMs);
      }
    }
  }

  #over(how: "done" | "given-up"): void {
    const { clock, log } = this.#world;
    const elapsedMs = this.#document.elapsedMs + Math.round(clock.monotonicMs() - this.#savedAtMs);
    // The name may never have been saved: a scan given up as it began.
    this.#document = { ...this.#document, begin: this.#plan.begin, elapsedMs };
    const { purpose, begin, differingBlocks, overwrittenChunks, digestBytes, contentBytes } = this.#document;
    log.info("SCAN_ENDED", `scan for ${purpose}: ${how}`, {
      begin,
      end: this.#plan.end,
      elapsedMs,
      differingBlocks,
      overwrittenChunks,
      digestBytes,
      contentBytes,
    });
    this.#stop.stop();
    this.#ticker?.cancel();
    this.#reader.drop();
    this.#world.over(this.#document, how, this.#plan.end);
  }

  async #run(): Promise<void> {
    while (!this.#stop.stopped) {
      const job = this.#jobs[0];
      this.#waits = job === undefined ? null : this.#reasonToWait();
      if (job === undefined || this.#document.paused || this.#waits !== null) {
        // Nothing more comes for the moment: what is collected need not wait for it, but for room.
        if (job === undefined) this.#reader.flush();
        if (this.#jobs[0] === job)
          await this.#stop.or(new Promise<void>((resolve) => (this.#wake = resolve)));
        continue;
      }
      const delayMs = this.#readyAtMs - this.#world.clock.monotonicMs();
      if (!(await this.#stop.after(Math.max(0, delayMs)))) return;
      // A turn of the event loop has passed; the order of work may have changed with it.
      if (this.#jobs[0] !== job) continue;
      this.#jobs.shift();
      await this.#work(job);
    }
  }

  #reasonToWait(): Reason | null {
    const room = this.#world.room();
    if (room !== null) return room;
    const bytes = this.#sent.reduce((sum, sent) => sum + sent.bytes, 0);
    if (bytes <= unacknowledgedBytesMax) return null;
    return { code: "UNACKNOWLEDGED", message: "the standby has not acknowledged what was sent before" };
  }

  async #work(job: Job): Promise<void> {
    const { clock, entrance, rateBytesPerSecond, log } = this.#world;
    const { effect, reads } = job;
    const readBytes = this.#document.contentBytes;
    try {
      if (effect.kind === "digest") await this.#reader.digest(effect.level, effect, reads);
      else await this.#reader.content(effect, effect.leaves);
      this.#trouble = null;
    } catch (error) {
      if (this.#stop.stopped) return;
      log.warn("SCAN_READ_FAILED", errorText(error), { reason: errorCode(error), chunk: effect.chunk });
      this.#trouble = { code: "SCAN_READ_FAILED", message: errorText(error) };
      this.#jobs.unshift(job);
      await this.#stop.after(againMs);
      return;
    }
    const bytes =
      effect.kind === "digest"
        ? chunkBytes(this.#sizeBytes(effect.volume), effect.chunk)
        : this.#document.contentBytes - readBytes;
    const clientsWrite = entrance.requests > this.#requestsBefore;
    this.#requestsBefore = entrance.requests;
    const pace = paceOf(this.#document.purpose, rateBytesPerSecond, clientsWrite);
    this.#readyAtMs = Math.max(clock.monotonicMs(), this.#readyAtMs) + (bytes * 1_000) / pace;
  }

  #tick(): void {
    const atMs = this.#world.clock.monotonicMs();
    const bytes = doneBytes(this.#plan, this.#context);
    this.#pace.push({ atMs, bytes });
    if (this.#pace.length > paceSamples) this.#pace.shift();
    this.kick();
    this.#ask();
    if (atMs - this.#loggedAtMs < progressMs) return;
    this.#loggedAtMs = atMs;
    const { purpose, state, reason, doneBytes: done, totalBytes: total, etaMs } = this.status();
    this.#world.log.info("SCAN_PROGRESS", `scan for ${purpose}: ${done} of ${total} bytes`, {
      state,
      reason: reason?.code ?? null,
      done,
      total,
      etaMs,
    });
  }

  /** One question at a time. */
  #ask(): void {
    const after = findingsAfter(this.#plan);
    if (after === null || this.#asking || this.#stop.stopped) return;
    this.#asking = true;
    this.#task(
      this.#stop
        .or(this.#world.ask(after))
        .then((answer) => {
          this.#asking = false;
          if (answer !== null && typeof answer === "object") this.#heard(answer);
        })
        .catch((error: unknown) => {
          this.#asking = false;
          // The next tick asks again, and the status says meanwhile why nothing is known.
          this.#trouble = { code: errorCode(error), message: errorText(error) };
          this.#world.log.debug("SCAN_ASK_FAILED", errorText(error), { reason: errorCode(error) });
        }),
    );
  }

  #heard(answer: ScanAnswer): void {
    switch (answer.kind) {
      case "findings":
        this.#trouble = null;
        this.#dispatch(answer);
        if (answer.more) this.#ask();
        return;
      case "superseded":
        // Heeded by whoever owns the group, and this ends with it.
        return;
      case "refused":
        this.#trouble = { code: answer.code, message: answer.message };
        return;
      case "unknown":
        this.#trouble = { code: "STANDBY_UNKNOWN", message: "the other site does not know this group" };
        return;
      case "conflict":
        // The shipper hears the same and stops the group.
        this.#trouble = {
          code: "EPOCH_CONFLICT",
          message: `site ${answer.token.owner} claims this epoch too`,
        };
    }
  }

  /** When `number` is known; without one (the queue was emptied) the group is on its way out, and this with it. */
  #later<T>(number: Promise<T>, run: (value: T) => void): void {
    number.then(run, (error: unknown) =>
      this.#world.log.debug("SCAN_RECORD_REFUSED", errorText(error), { reason: errorCode(error) }),
    );
  }

  #task(task: Promise<void>): void {
    const settled = task
      .catch((error: unknown) => this.#world.log.error("SCAN_UNEXPECTED", "a step of a scan failed", error))
      .finally(() => this.#tasks.delete(settled));
    this.#tasks.add(settled);
  }
}
