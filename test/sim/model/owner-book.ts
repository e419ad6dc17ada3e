/**
 * What the clients of one owner know: what they asked, what they were told, and so which numbers of entries a restart
 * may come back with (I1). Kept outside everything that can crash. Imports nothing of the product.
 *
 * A plain answer promises the kill of a process, an answered FLUSH or FUA the loss of power. What has left for the
 * other site must exist as well: a number that was used there must never be used again for something else (I3).
 *
 * Which number a request gets is learned when the owner hands it to its journal (`journalled`), which comes before any
 * answer: a scan's records stand in between, and a scan may hold a request back while others pass it.
 */
import type { History, Op, OpRequest } from "./history.ts";
import type { Journalled, JournalledChange } from "./journalled.ts";
import { isChange } from "./journalled.ts";
import { require } from "./violation.ts";

/**
 * `kill`: the page cache survived. `spared`: power was lost, and everything cached had reached the disk: as after a kill, as
 * long as nothing decays. `power`: only what was synced is promised. By rising loss.
 */
const losses = ["none", "kill", "spared", "power"] as const;
type Loss = (typeof losses)[number];
export type LossKind = Exclude<Loss, "none">;

export class OwnerBook {
  readonly name: string;
  readonly durability: "flush" | "write";
  /** Of the owner's term; grows with everything that it hands to its journal. */
  history: History;
  /** Sequence up to which clients were answered, promised through power loss, and sent to the other site. */
  answeredMax = 0;
  durableMax = 0;
  shippedMax = 0;
  answeredCount = 0;
  flushCount = 0;
  /** Newest sequence that anything a client asked for ever had, whatever became of it. */
  writtenMax = 0;
  #loss: Loss = "none";
  /** Answered entries were taken by a power loss since clients were last told that this may be so. */
  lostAnswered = false;
  readonly #flying = new Set<Op>();
  /** Asked for and not handed to the journal yet, in the order in which they were asked for. */
  #waiting: Op[] = [];

  constructor(name: string, history: History, durability: "flush" | "write") {
    this.name = name;
    this.history = history;
    this.durability = durability;
    this.answeredMax = history.last;
    this.durableMax = history.last;
  }

  /** What is known now, apart from what becomes of it: requests in flight can only be unknown to the copy. */
  copy(): OwnerBook {
    const copied = new OwnerBook(this.name, this.history.fork(this.history.last), this.durability);
    copied.answeredMax = this.answeredMax;
    copied.durableMax = this.durableMax;
    copied.shippedMax = this.shippedMax;
    copied.writtenMax = this.writtenMax;
    return copied;
  }

  get flyingCount(): number {
    return this.#flying.size;
  }

  submit(request: OpRequest, nowMs: number): Op {
    const op: Op = {
      ...request,
      sequence: 0,
      sentAtMs: nowMs,
      answeredAtMs: Number.POSITIVE_INFINITY,
      outcome: "flying",
    };
    this.#flying.add(op);
    this.#waiting.push(op);
    return op;
  }

  /** The owner hands a frame that begins with `first` to its journal; whether it will be there nobody knows yet. */
  journalled(first: number, records: readonly Journalled[], nowMs: number): void {
    // It has come back, and this is the first that is seen of it: what is behind the frame is what its journal holds.
    if (this.awaitsReturn) this.returned(first - 1);
    const { history } = this;
    require("I3", first <= history.last + 1, () =>
      `${this.name} journals ${first}, which leaves a hole behind ${history.last}`);
    if (first <= history.last) this.#handedAgain(first);
    for (const record of records) {
      if (!isChange(record)) {
        history.placeScan(record, nowMs);
        continue;
      }
      const at = this.#askedFor(record);
      require("I1", at >= 0, () =>
        `${this.name} journals as ${history.last + 1} what nobody asks for: ${JSON.stringify(record)}`);
      history.place(this.#waiting.splice(at, 1)[0]!);
      this.writtenMax = Math.max(this.writtenMax, history.last);
    }
  }

  /** What was refused may have been on its way into the journal; who still waits comes first. */
  #askedFor(record: JournalledChange): number {
    const at = this.#waiting.findIndex((op) => op.outcome === "flying" && isRecordOf(op, record));
    return at >= 0 ? at : this.#waiting.findIndex((op) => isRecordOf(op, record));
  }

  /** A put failed, the journal was opened without it, and what was in it gets a new place: allowed to nothing promised. */
  #handedAgain(first: number): void {
    const bound = Math.max(this.answeredMax, this.shippedMax);
    require("I3", first > bound, () =>
      `${this.name} journals ${first} again; up to ${bound} it was answered or sent`);
    const back = this.history.truncate(first - 1).filter((op) => this.#flying.has(op));
    for (const op of back) op.sequence = 0;
    this.#waiting.unshift(...back);
  }

  answered(op: Op, nowMs: number): void {
    if (!this.#flying.delete(op)) return;
    require("I1", op.sequence > 0, () =>
      `${this.name} answers write #${op.number}, which it has not handed to its journal`);
    op.outcome = "answered";
    op.answeredAtMs = nowMs;
    this.answeredCount += 1;
    this.answeredMax = Math.max(this.answeredMax, op.sequence);
    if (op.fua || this.durability === "write") this.durableMax = Math.max(this.durableMax, op.sequence);
  }

  refused(op: Op): void {
    if (!this.#flying.delete(op)) return;
    op.outcome = "refused";
  }

  /** Hand the result to `flushAnswered`: it covers what was answered before it was asked. */
  flushTarget(): number {
    return this.answeredMax;
  }

  flushAnswered(target: number): void {
    this.flushCount += 1;
    this.durableMax = Math.max(this.durableMax, target);
  }

  /** A batch that ends with `last` was put on the line. */
  shipped(last: number): void {
    require("I3", last <= this.history.last, () =>
      `${this.name} sent ${last}, of ${this.history.last} journalled`);
    this.shippedMax = Math.max(this.shippedMax, last);
  }

  /** The owner's process is gone, with `kind` of its machine's memory. */
  lost(kind: LossKind): void {
    this.#giveUp(kind);
    // What was in no frame yet is gone for good.
    this.#waiting = [];
  }

  /** The owner serves no more, and what is on its way into its journal still comes there. */
  stopped(): void {
    this.#giveUp("kill");
  }

  #giveUp(kind: LossKind): void {
    for (const op of this.#flying) op.outcome = "unknown";
    this.#flying.clear();
    if (losses.indexOf(kind) > losses.indexOf(this.#loss)) this.#loss = kind;
  }

  /** True between the death of the owner and its return. */
  get awaitsReturn(): boolean {
    return this.#loss !== "none";
  }

  /**
   * A log of the journal has decayed before anybody opened it again. What was never synced may be missing after a loss of power,
   * and nobody can tell that from a loss of power that took it.
   */
  logDecayed(): void {
    if (this.#loss === "spared") this.#loss = "power";
  }

  /** The owner is back and says that its journal ends at `written`: I1 and I3 bound it from both sides. */
  returned(written: number): void {
    const loss = this.#loss;
    const least = Math.max(loss === "power" ? this.durableMax : this.answeredMax, this.shippedMax);
    const least1 = loss === "power" ? this.durableMax : this.answeredMax;
    require("I1", written >= least1, () =>
      `${this.name} came back from ${loss} with ${written} writes; ${least1} were promised`);
    require("I3", written >= least, () =>
      `${this.name} came back from ${loss} with ${written} writes, but ${this.shippedMax} were sent to the other site`);
    require("I1", written <= this.history.last, () =>
      `${this.name} came back with ${written} writes, but only ${this.history.last} were ever journalled`);
    if (written < this.answeredMax) this.lostAnswered = true;
    this.history.truncate(written);
    // What came back was read, perhaps: a later kill may not take it; a later power loss may, until it is flushed.
    this.answeredMax = written;
    this.#loss = "none";
  }

  /** The tail that the owner states while it serves. */
  stated(written: number): void {
    require("I4", written <= this.history.last && written >= this.answeredMax, () =>
      `${this.name} states ${written} writes; ${this.answeredMax} were answered, ${this.history.last} journalled`);
  }
}

function isRecordOf(op: Op, { kind, volume, offset, length, number }: JournalledChange): boolean {
  if (op.volume !== volume || op.offset !== offset || op.length !== length) return false;
  return op.kind === "write" ? op.number === number : kind === "zeroing";
}
