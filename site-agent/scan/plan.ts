/**
 * One scan as a machine: what is put into the write order next, what a standby's findings prove, and when a window may be
 * called confirmed. Pure: `step(state, event)` gives the next state and the orders for the shell. docs/scan.md holds the
 * invariants (SC1..SC7). It never confirms what the standby has not proven or acknowledged, and never ends a scan that has
 * a window left.
 *
 *   beginning ──begin placed──► naming ──saved──► walking ──window proven──► confirming ──saved──► walking ...
 *                                                                                 │ none left
 *   over ◄──end applied at the standby── ending ◄─────────────────────────────────┘
 *   over ◄──mark placed── leaving ◄──given up── any before ending
 */
import { strict as assert } from "node:assert";
import type { ScanDifference } from "../../protocol/control.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { DigestLevel, ScanMark } from "../../protocol/record.ts";
import { hasBit, scanChunkBytes, setBit } from "../../protocol/scan-digest.ts";

/** Unit of confirmation, chunks: a scan resumes at the first window that is not confirmed. */
export const windowChunks = 256;

/**
 * `compare`: digests of everything; `mend` sends content of the leaves that differ. `allocated`: content of all that is not
 * zero, for a standby made from nothing. `listed`: content of given leaves.
 */
export type Walk =
  | { readonly kind: "compare"; readonly mend: boolean }
  | { readonly kind: "allocated" }
  | { readonly kind: "listed"; readonly leaves: (volume: VolumeNumber, chunk: number) => Uint8Array | null };

export interface PlanContext {
  /** Walked in this order. */
  readonly volumes: readonly { readonly number: VolumeNumber; readonly sizeBytes: number }[];
  readonly walk: Walk;
  /**
   * For each of the volumes the chunks that are walked, rising; null: all of them. A window is then 256 of these, and they
   * must be the same whenever the scan goes on.
   */
  readonly only: readonly Uint32Array[] | null;
}

/** First window that is not confirmed: index into the volumes, and number of the window in that volume. */
export interface PlanPlace {
  readonly volume: number;
  readonly window: number;
}

export type PlanCondition = "beginning" | "naming" | "walking" | "confirming" | "ending" | "leaving" | "over";

/** `digest`, `leaves`: proof is ordered or awaited. `content`: ordered. `sent`: in the write order. */
export type ChunkStatus = "digest" | "leaves" | "content" | "sent" | "settled";

/** A digest record in the write order whose comparison is not known yet: of `count` chunks from `chunk` on. */
export interface Awaited {
  readonly sequence: Sequence;
  readonly level: DigestLevel;
  readonly chunk: number;
  readonly count: number;
}

export interface PlanState {
  readonly condition: PlanCondition;
  /** The scan's name; null until its begin has a number. */
  readonly begin: Sequence | null;
  readonly place: PlanPlace;
  /** Chunks of the window, in order. */
  readonly chunks: readonly ChunkStatus[];
  /** Ascending. */
  readonly awaited: readonly Awaited[];
  /** Newest record of this window. */
  readonly newest: Sequence;
  readonly acknowledged: Sequence;
  readonly applied: Sequence;
  /** Number of the end mark. */
  readonly end: Sequence | null;
}

export type PlanEvent =
  | { readonly kind: "started" }
  | { readonly kind: "markPlaced"; readonly mark: ScanMark; readonly sequence: Sequence }
  /** What `save` ordered survives power loss. */
  | { readonly kind: "saved" }
  | {
      readonly kind: "digestsPlaced";
      readonly level: DigestLevel;
      readonly chunk: number;
      readonly count: number;
      readonly sequence: Sequence;
    }
  /** All content of the chunk is in the write order; null: there was none. */
  | { readonly kind: "contentPlaced"; readonly chunk: number; readonly sequence: Sequence | null }
  /** As the standby answers: see ScanAnswer. */
  | {
      readonly kind: "findings";
      readonly since: Sequence;
      readonly through: Sequence;
      readonly differing: readonly ScanDifference[];
      readonly more: boolean;
    }
  | { readonly kind: "standbyAdvanced"; readonly acknowledged: Sequence; readonly applied: Sequence }
  | { readonly kind: "givenUp" };

export type PlanEventKind = PlanEvent["kind"];

export type PlanEffect =
  | { readonly kind: "putMark"; readonly mark: ScanMark }
  /** Make `begin` and the place durable, then say `saved`. */
  | { readonly kind: "save"; readonly place: PlanPlace }
  | {
      readonly kind: "digest";
      readonly level: DigestLevel;
      readonly volume: VolumeNumber;
      readonly chunk: number;
    }
  /** Content of the marked leaves; null: of all that is allocated. */
  | {
      readonly kind: "content";
      readonly volume: VolumeNumber;
      readonly chunk: number;
      readonly leaves: Uint8Array | null;
    }
  /** The standby differs there; null: it did, and was written over before it was known where. */
  | {
      readonly kind: "differs";
      readonly volume: VolumeNumber;
      readonly chunk: number;
      readonly leaves: Uint8Array | null;
      /** Of them, those that the standby's disk cannot read. */
      readonly unreadable: Uint8Array | null;
    }
  | { readonly kind: "over"; readonly how: "done" | "given-up" };

export interface PlanStep {
  readonly state: PlanState;
  readonly effects: readonly PlanEffect[];
}

type EventOf<K extends PlanEventKind> = Extract<PlanEvent, { readonly kind: K }>;
type Cell<K extends PlanEventKind> = (turn: Turn, event: EventOf<K>) => void;
type Row = { readonly [K in PlanEventKind]: Cell<K> };

/** A new scan (`begin` null), or one that goes on at the first unconfirmed window. Say `started` first. */
export function planStart(begin: Sequence | null, place: PlanPlace): PlanState {
  return {
    condition: "beginning",
    begin,
    place,
    chunks: [],
    awaited: [],
    newest: 0,
    acknowledged: 0,
    applied: 0,
    end: null,
  };
}

/** One step. Neither `state` nor `event` is changed. */
export function step(state: PlanState, event: PlanEvent, context: PlanContext): PlanStep {
  const turn = new Turn(state, context);
  const row: Row = table[state.condition];
  // The row's cell for this kind takes this event; the compiler cannot follow the pairing through the index.
  (row[event.kind] as Cell<typeof event.kind> as (turn: Turn, event: PlanEvent) => void)(turn, event);
  return { state: turn.state, effects: turn.effects };
}

/** Findings are wanted for records behind this one; null: for none. */
export function findingsAfter(state: PlanState): Sequence | null {
  const first = state.awaited[0];
  return first === undefined ? null : first.sequence - 1;
}

/** Bytes of all that is walked. */
export function totalBytes(context: PlanContext): number {
  const { volumes } = context;
  let bytes = 0;
  for (let volume = 0; volume < volumes.length; volume += 1)
    bytes += bytesOfChunks(context, volume, 0, chunksOf(context, volume));
  return bytes;
}

/** Chunks that are walked in a volume, given by its index. */
function chunksOf({ volumes, only }: PlanContext, volume: number): number {
  return only?.[volume]?.length ?? Math.ceil(volumes[volume]!.sizeBytes / scanChunkBytes);
}

/** Number of the chunk that is walked as the `index`-th of a volume. */
function chunkAt({ only }: PlanContext, volume: number, index: number): number {
  return only === null ? index : only[volume]![index]!;
}

/** Of the chunks that are walked from the `first`-th to before the `end`-th. */
function bytesOfChunks(context: PlanContext, volume: number, first: number, end: number): number {
  if (end <= first) return 0;
  const { sizeBytes } = context.volumes[volume]!;
  // Only the last chunk of a volume can be shorter.
  return (end - first - 1) * scanChunkBytes + chunkBytes(sizeBytes, chunkAt(context, volume, end - 1));
}

/** Bytes that need nothing more but, for content, the standby's acknowledgement. */
export function doneBytes(state: PlanState, context: PlanContext): number {
  const { place, chunks } = state;
  let bytes = 0;
  for (let index = 0; index < Math.min(place.volume, context.volumes.length); index += 1)
    bytes += bytesOfChunks(context, index, 0, chunksOf(context, index));
  if (place.volume >= context.volumes.length) return bytes;
  const first = place.window * windowChunks;
  bytes += bytesOfChunks(context, place.volume, 0, Math.min(first, chunksOf(context, place.volume)));
  for (let index = 0; index < chunks.length; index += 1)
    if (isDone(chunks[index]!))
      bytes += bytesOfChunks(context, place.volume, first + index, first + index + 1);
  return bytes;
}

/** Bytes of a chunk of a volume of `sizeBytes`. */
export function chunkBytes(sizeBytes: number, chunk: number): number {
  return Math.min(scanChunkBytes, sizeBytes - chunk * scanChunkBytes);
}

function isDone(status: ChunkStatus): boolean {
  return status === "settled" || status === "sent";
}

/** One step under way: the state being made and the orders given. */
class Turn {
  state: PlanState;
  readonly effects: PlanEffect[] = [];
  readonly context: PlanContext;

  constructor(state: PlanState, context: PlanContext) {
    this.state = state;
    this.context = context;
  }

  set(change: Partial<PlanState>): void {
    this.state = { ...this.state, ...change };
  }

  order(effect: PlanEffect): void {
    this.effects.push(effect);
  }

  get volume(): VolumeNumber {
    return this.context.volumes[this.state.place.volume]!.number;
  }

  /** Number of the `index`-th chunk of the window. */
  chunkAt(index: number): number {
    const { volume, window } = this.state.place;
    return chunkAt(this.context, volume, window * windowChunks + index);
  }

  /** Where a chunk stands in the window. */
  indexOf(chunk: number): number {
    const { volume, window } = this.state.place;
    const { only } = this.context;
    const first = window * windowChunks;
    if (only === null) return chunk - first;
    return only[volume]!.subarray(first, first + windowChunks).indexOf(chunk);
  }

  /** Changes one chunk of the window, which must be in `from`. */
  chunk(chunk: number, from: ChunkStatus, to: ChunkStatus): void {
    const index = this.indexOf(chunk);
    assert.equal(this.state.chunks[index], from, "a chunk is where its proof was ordered");
    this.set({ chunks: this.state.chunks.with(index, to) });
  }

  save(): void {
    this.order({ kind: "save", place: this.state.place });
  }

  /** Orders the work of the first window from the present place on that has any; without one the scan ends (SC4). */
  walk(): void {
    const { volumes, walk } = this.context;
    for (let { volume, window } = this.state.place; volume < volumes.length; volume += 1, window = 0) {
      const chunks = chunksOf(this.context, volume);
      for (; window * windowChunks < chunks; window += 1) {
        const count = Math.min(windowChunks, chunks - window * windowChunks);
        this.set({ place: { volume, window }, chunks: [], awaited: [], newest: 0 });
        const statuses: ChunkStatus[] = [];
        for (let index = 0; index < count; index += 1) statuses.push(this.#begin(walk, this.chunkAt(index)));
        if (statuses.every((status) => status === "settled")) continue;
        this.set({ condition: "walking", chunks: statuses });
        return;
      }
    }
    this.set({ condition: "ending", place: { volume: volumes.length, window: 0 }, chunks: [] });
    this.order({ kind: "putMark", mark: "end" });
  }

  #begin(walk: Walk, chunk: number): ChunkStatus {
    const { volume } = this;
    if (walk.kind === "compare") {
      this.order({ kind: "digest", level: "chunk", volume, chunk });
      return "digest";
    }
    const leaves = walk.kind === "listed" ? walk.leaves(volume, chunk) : null;
    if (walk.kind === "listed" && leaves === null) return "settled";
    this.order({ kind: "content", volume, chunk, leaves });
    return "content";
  }

  /** The window is proven, and what was sent is durable at the standby (SC1). */
  confirm(): void {
    const { chunks, awaited, newest, acknowledged, place } = this.state;
    if (awaited.length > 0 || acknowledged < newest || !chunks.every(isDone)) return;
    this.set({
      condition: "confirming",
      place: { volume: place.volume, window: place.window + 1 },
      chunks: [],
    });
    this.save();
  }

  /** The end mark is applied: the standby is what the scan made of it (SC7). */
  finish(): void {
    const { end, applied } = this.state;
    if (end === null || applied < end) return;
    this.set({ condition: "over" });
    this.order({ kind: "over", how: "done" });
  }
}

const ignore = (): void => undefined;

function never(_: Turn, event: PlanEvent) {
  throw new assert.AssertionError({ message: `${event.kind} cannot come now` });
}

function started(turn: Turn): void {
  if (turn.state.begin === null) turn.order({ kind: "putMark", mark: "begin" });
  else turn.walk();
}

function begun(turn: Turn, event: EventOf<"markPlaced">): void {
  assert.equal(event.mark, "begin", "nothing else was ordered");
  turn.set({ condition: "naming", begin: event.sequence });
  turn.save();
}

function advanced(turn: Turn, event: EventOf<"standbyAdvanced">): void {
  turn.set({
    acknowledged: Math.max(turn.state.acknowledged, event.acknowledged),
    applied: Math.max(turn.state.applied, event.applied),
  });
}

function digestsPlaced(turn: Turn, { level, chunk, count, sequence }: EventOf<"digestsPlaced">): void {
  for (let index = chunk; index < chunk + count; index += 1)
    assert.equal(
      turn.state.chunks[turn.indexOf(index)],
      level === "chunk" ? "digest" : "leaves",
      "a digest that was ordered",
    );
  const awaited = [...turn.state.awaited, { sequence, level, chunk, count }];
  awaited.sort((a, b) => a.sequence - b.sequence);
  turn.set({ awaited, newest: Math.max(turn.state.newest, sequence) });
}

function contentPlaced(turn: Turn, { chunk, sequence }: EventOf<"contentPlaced">): void {
  turn.chunk(chunk, "content", sequence === null ? "settled" : "sent");
  turn.set({ newest: Math.max(turn.state.newest, sequence ?? 0) });
  turn.confirm();
}

/** Believes what was compared by this opening of the standby (SC2), and orders anew what it cannot know (SC6). */
function findings(turn: Turn, { since, through, differing, more }: EventOf<"findings">): void {
  const limit = more ? (differing.at(-1)?.sequence ?? since) : through;
  const rows = new Map(differing.map((row) => [row.sequence, row]));
  const { awaited } = turn.state;
  turn.set({ awaited: awaited.filter(({ sequence }) => sequence > since && sequence > limit) });
  for (const record of awaited) {
    if (record.sequence <= since) unknown(turn, record);
    else if (record.sequence <= limit) compared(turn, record, rows.get(record.sequence) ?? null);
  }
  turn.confirm();
}

function unknown(turn: Turn, { level, chunk, count }: Awaited): void {
  for (let index = chunk; index < chunk + count; index += 1)
    turn.order({ kind: "digest", level, volume: turn.volume, chunk: index });
}

function compared(turn: Turn, record: Awaited, row: ScanDifference | null): void {
  const { volume } = turn;
  const bits = row === null ? null : bytesOf(row.bits);
  if (record.level === "chunk") {
    for (let index = 0; index < record.count; index += 1) {
      const chunk = record.chunk + index;
      const differs = bits !== null && hasBit(bits, index);
      turn.chunk(chunk, "digest", differs ? "leaves" : "settled");
      if (differs) turn.order({ kind: "digest", level: "leaf", volume, chunk });
    }
    return;
  }
  const { chunk } = record;
  const leaves = bits === null ? null : withinChunk(turn, chunk, bits);
  const lost = row?.unreadable === undefined ? null : withinChunk(turn, chunk, bytesOf(row.unreadable));
  turn.order({ kind: "differs", volume, chunk, leaves, unreadable: lost });
  const { walk } = turn.context;
  const mends = walk.kind === "compare" && walk.mend && leaves !== null;
  turn.chunk(chunk, "leaves", mends ? "content" : "settled");
  if (mends) turn.order({ kind: "content", volume, chunk, leaves });
}

/** Bits of leaves that exist; null when there are none: nothing is sent for what a volume does not have. */
function withinChunk(turn: Turn, chunk: number, bits: Uint8Array): Uint8Array | null {
  const { sizeBytes } = turn.context.volumes[turn.state.place.volume]!;
  const count = Math.ceil(chunkBytes(sizeBytes, chunk) / blockBytes);
  const leaves = new Uint8Array(Math.ceil(count / 8));
  for (let leaf = 0; leaf < count; leaf += 1) if (hasBit(bits, leaf)) setBit(leaves, leaf);
  return leaves.some((byte) => byte !== 0) ? leaves : null;
}

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from({ length: hex.length / 2 }, (_, index) =>
    Number.parseInt(hex.slice(2 * index, 2 * index + 2), 16),
  );
}

function leave(turn: Turn): void {
  turn.set({ condition: "leaving", chunks: [], awaited: [] });
  if (turn.state.begin !== null) turn.order({ kind: "putMark", mark: "given-up" });
}

function left(turn: Turn, event: EventOf<"markPlaced">): void {
  if (event.mark === "begin") {
    turn.set({ begin: event.sequence });
    turn.order({ kind: "putMark", mark: "given-up" });
    return;
  }
  turn.set({ condition: "over" });
  turn.order({ kind: "over", how: "given-up" });
}

/** What was on its way when the scan was given up, or is over. */
const aside = {
  started: never,
  saved: ignore,
  digestsPlaced: ignore,
  contentPlaced: ignore,
  findings: ignore,
  standbyAdvanced: ignore,
  givenUp: ignore,
} as const;

/** A place is being made durable: nothing of a window is under way. */
const saving: Row = {
  started: never,
  markPlaced: never,
  saved: (turn) => turn.walk(),
  digestsPlaced: never,
  contentPlaced: never,
  findings: ignore,
  standbyAdvanced: advanced,
  givenUp: leave,
};

const table: { readonly [C in PlanCondition]: Row } = {
  beginning: {
    started,
    markPlaced: begun,
    saved: never,
    digestsPlaced: never,
    contentPlaced: never,
    findings: ignore,
    standbyAdvanced: advanced,
    givenUp: leave,
  },
  naming: saving,
  walking: {
    started: never,
    markPlaced: never,
    saved: never,
    digestsPlaced,
    contentPlaced,
    findings,
    standbyAdvanced: (turn, event) => {
      advanced(turn, event);
      turn.confirm();
    },
    givenUp: leave,
  },
  confirming: saving,
  ending: {
    started: never,
    markPlaced: (turn, event) => {
      turn.set({ end: event.sequence });
      turn.finish();
    },
    saved: never,
    digestsPlaced: never,
    contentPlaced: never,
    findings: ignore,
    standbyAdvanced: (turn, event) => {
      advanced(turn, event);
      turn.finish();
    },
    // Everything is proven and the end on its way: there is nothing to give up.
    givenUp: ignore,
  },
  leaving: { ...aside, markPlaced: left },
  over: { ...aside, markPlaced: ignore },
};
