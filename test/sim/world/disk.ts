/**
 * The storage of one simulated machine. Being filled in: the exported signatures are final.
 */
import type { ImageFiles } from "../../../block/image-files.ts";
import type { OpenStore } from "../../../journal/store.ts";
import type { Disk } from "../../../runtime/disk.ts";
import type { Life } from "./life.ts";
import type { Scheduler } from "./scheduler.ts";

export type PowerCut = "everything" | "nothing" | "subset" | "torn";
/** What can fail. Images use `read`, `write`, `zero` and `syncData`; the store's files are ordinary files. */
export type Operation =
  | "open"
  | "create"
  | "read"
  | "list"
  | "write"
  | "zero"
  | "syncData"
  | "sync"
  | "makeDirectory"
  | "rename"
  | "remove";
export type FaultKind = "EIO" | "ENOSPC" | "short" | "lost" | "misdirected";

export interface FaultOrder {
  readonly match: (path: string, operation: Operation) => boolean;
  readonly fault: FaultKind;
  /** How often it fires. */
  readonly times: number;
  /** Matching operations let through first. */
  readonly after?: number;
}

export interface InjectedFault {
  readonly fault: FaultKind;
  readonly fired: number;
  cancel(): void;
}

export type OperationHook = (
  life: Life,
  path: string,
  operation: Operation,
  when: "before" | "after",
) => void;

/** Opaque; may be restored any number of times, into any SimDisk. */
export interface DiskSnapshot {
  readonly bootNumber: number;
}

export interface SimDiskOptions {
  /** Default: as good as endless. */
  readonly capacityBytes?: number;
}

export class SimDisk {
  readonly name: string;
  /** Bytes files and images may hold together; may be changed at any time. */
  capacityBytes: number;
  /** Multiplies every latency: a slow or nearly hung disk. */
  latencyFactor = 1;
  /** Called around every step. */
  onOperation: OperationHook | undefined;

  constructor(scheduler: Scheduler, name: string, options: SimDiskOptions = {}) {
    void scheduler;
    this.name = name;
    this.capacityBytes = options.capacityBytes ?? 2 ** 40;
  }
  /** Changes at every power cut, as the host's boot id does. */
  get bootId(): string {
    throw new Error("to come");
  }
  /** Operations so far that change something or make something durable. */
  get steps(): number {
    throw new Error("to come");
  }
  view(_life: Life): Disk {
    throw new Error("to come");
  }
  images(_life: Life): ImageFiles {
    throw new Error("to come");
  }
  store(_life: Life): OpenStore {
    throw new Error("to come");
  }
  /** kill -9 of one incarnation: ends it; its operations under way happened, in part, or not. */
  kill(_life: Life): void {
    throw new Error("to come");
  }
  /** Ends every incarnation on the machine. */
  powerCut(_model: PowerCut): void {
    throw new Error("to come");
  }
  inject(_order: FaultOrder): InjectedFault {
    throw new Error("to come");
  }
  /** Faults fired so far, by kind. */
  get faultsFired(): ReadonlyMap<FaultKind, number> {
    throw new Error("to come");
  }
  /** Before or after step number `step` (counted from 1), once, `then` is called: kill or cut power in it. */
  crashAt(_step: number, _when: "before" | "after", _then: () => void): void {
    throw new Error("to come");
  }
  /** Bit rot, in what is cached and in what is stored. */
  flipBit(_path: string, _at: number, _bit: number): void {
    throw new Error("to come");
  }
  snapshot(): DiskSnapshot {
    throw new Error("to come");
  }
  /** Replaces everything; incarnations of before are ended. */
  restore(_snapshot: DiskSnapshot): void {
    throw new Error("to come");
  }
  /** What a file reads as now, and what would be left of it if no unsynced sector persisted; undefined: no such name. */
  contentOf(_path: string, _which: "cached" | "durable"): Uint8Array | undefined {
    throw new Error("to come");
  }
  /** Names below a folder, with `/` between, sorted. */
  paths(): string[] {
    throw new Error("to come");
  }
}
