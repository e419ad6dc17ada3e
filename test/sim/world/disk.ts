/**
 * The storage of one simulated machine: files, images and key-value stores as its incarnations see them, kills, loss
 * of power, faults, and copies of its state. The page cache and the disk are told apart for contents, lengths and
 * names (sim-file.ts, tree.ts). Holds nothing of the product's and never repairs what was lost.
 */
import type { ImageFiles } from "../../../block/image-files.ts";
import type { OpenStore } from "../../../journal/store.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { DiskView } from "./disk-view.ts";
import { SimImages } from "./images.ts";
import type { Life } from "./life.ts";
import type { FaultKind, FaultOrder, InjectedFault, OperationHook, StrikeOrder } from "./operations.ts";
import { Operations } from "./operations.ts";
import type { Scheduler } from "./scheduler.ts";
import { SimFile } from "./sim-file.ts";
import { endlessBytes, Storage } from "./storage.ts";
import { openSimStore, StoreLocks } from "./store.ts";
import type { PowerCut } from "./tree.ts";

/** State of a disk; may be restored any number of times, into any SimDisk, which then go their own ways. */
export interface DiskSnapshot {
  readonly storage: Storage;
}

export interface SimDiskOptions {
  /** Bytes; as good as endless without. */
  readonly capacityBytes?: number;
}

export class SimDisk {
  readonly name: string;
  readonly #operations: Operations;
  #storage: Storage;
  #locks = new StoreLocks();
  readonly #lives = new Set<Life>();

  constructor(scheduler: Scheduler, name: string, options: SimDiskOptions = {}) {
    this.#operations = new Operations(scheduler);
    this.#storage = new Storage(options.capacityBytes ?? endlessBytes);
    this.name = name;
  }

  /** Changes at every loss of power, as the host's boot id does. */
  get bootId(): string {
    return `boot-${this.#storage.bootNumber}`;
  }

  /** Bytes files and images may hold together; may be changed at any time. */
  get capacityBytes(): number {
    return this.#storage.capacityBytes;
  }

  set capacityBytes(bytes: number) {
    this.#storage.capacityBytes = bytes;
  }

  get usedBytes(): number {
    return this.#storage.usedBytes;
  }

  /** Multiplies every latency: a slow, or nearly hung, disk. */
  get latencyFactor(): number {
    return this.#operations.latencyFactor;
  }

  set latencyFactor(factor: number) {
    this.#operations.latencyFactor = factor;
  }

  /** Steps so far: operations that change something or make something durable, failed ones included. */
  get steps(): number {
    return this.#operations.steps;
  }

  /** Called before and after every step, within the instant in which it happens. */
  get onOperation(): OperationHook | undefined {
    return this.#operations.hook;
  }

  set onOperation(hook: OperationHook | undefined) {
    this.#operations.hook = hook;
  }

  /** Faults fired so far, by kind. */
  get faultsFired(): ReadonlyMap<FaultKind, number> {
    return this.#operations.fired;
  }

  view(life: Life): Disk {
    this.#lives.add(life);
    return new DiskView(this.#operations, this.#storage, life);
  }

  images(life: Life): ImageFiles {
    this.#lives.add(life);
    return new SimImages(this.#operations, this.#storage, life);
  }

  /** LevelDB as it was measured to behave; see store.ts. */
  store(life: Life): OpenStore {
    return openSimStore(this.view(life), life, this.#locks);
  }

  /** kill -9: ends `life`; the page cache stays; its operations under way happened, in part, or not. */
  kill(life: Life): void {
    this.#operations.scheduler.trace.add(`kill ${life.name}`);
    this.#operations.abandon((one) => one === life);
    life.end();
    this.#lives.delete(life);
  }

  /** Ends every incarnation that has seen this disk, and leaves of what was not synced what `model` says. */
  powerCut(model: PowerCut): void {
    this.#operations.scheduler.trace.add(`power cut of ${this.name}: ${model}`);
    this.#operations.abandon(() => true);
    this.#endAll();
    this.#storage.losePower(model, this.#operations.scheduler.random);
  }

  inject(order: FaultOrder): InjectedFault {
    return this.#operations.inject(order);
  }

  /**
   * At step number `step`, counted as `steps` counts, calls `then` once: before it happens, which it then does not
   * if its incarnation ends, or right after it, before its caller knows.
   */
  crashAt(step: number, when: "before" | "after", then: () => void): void {
    this.#operations.crashAt({ step, when, then });
  }

  /** The same at a step of a kind: `order.act` is called once. Returns what takes the order back. */
  strikeAt(order: StrikeOrder): () => void {
    return this.#operations.strike(order);
  }

  /** Bit rot in what is stored and in what is cached of it. */
  flipBit(path: string, at: number, bit: number): void {
    this.#fileAt(path).flip(at, bit);
  }

  /** What is stored and cached of a file beyond `length` is gone. */
  shorten(path: string, length: number): void {
    this.#fileAt(path).shorten(length);
  }

  /** A file or folder is gone, with all that is in it, from the cache and from the disk. */
  lose(path: string): void {
    this.#storage.tree.lose(path);
  }

  #fileAt(path: string): SimFile {
    const node = this.#storage.tree.find(path);
    if (!(node instanceof SimFile)) throw new Error(`there is no file ${path} to damage`);
    return node;
  }

  /** Cheap: content is shared until either side changes. Operations under way are not part of it. */
  snapshot(): DiskSnapshot {
    return { storage: this.#storage.copy() };
  }

  /** Ends every incarnation and replaces everything stored and cached; capacity and boot come with it. */
  restore(snapshot: DiskSnapshot): void {
    this.#endAll();
    this.#storage = snapshot.storage.copy();
  }

  /**
   * What a file reads as now ("cached"), or what a loss of power would leave of it at worst ("stored"); undefined
   * when there is no such name now.
   */
  contentOf(path: string, which: "cached" | "stored"): Uint8Array | undefined {
    const node = this.#storage.tree.find(path);
    if (!(node instanceof SimFile)) return undefined;
    return which === "cached" ? node.read(0, node.length) : node.stored();
  }

  /** Paths of all files, sorted. */
  paths(): string[] {
    return [...this.#storage.tree.files()].map(({ path }) => path);
  }

  #endAll(): void {
    for (const life of this.#lives) life.end();
    this.#lives.clear();
    this.#locks = new StoreLocks();
  }
}
