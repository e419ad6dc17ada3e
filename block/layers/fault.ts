/** A device that fails when told to: for trying out what meets a failing disk. The failed request changes nothing. */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "../device.ts";
import { BlockErrno, BlockError } from "../device.ts";
import { PassthroughDevice } from "./passthrough.ts";

export type FaultOperation = "read" | "write" | "flush" | "trim" | "zero" | "extents" | "cache";

/** One request as the judge sees it. */
export interface FaultCall {
  readonly operation: FaultOperation;
  /** Number of this operation on this device, from 1. */
  readonly call: number;
  /** 0 for a flush, as is `length`. */
  readonly offset: number;
  readonly length: number;
}

/** Errno to fail the request with, or undefined to let it through. */
export type FaultJudge = (call: FaultCall) => BlockErrno | undefined;

/** Fails the n-th call of an operation once, later ones pass. */
export function failNth(
  operation: FaultOperation,
  n: number,
  errno: BlockErrno = BlockErrno.EIO,
): FaultJudge {
  return (call) => (call.operation === operation && call.call === n ? errno : undefined);
}

/** Fails every request of the operations from the moment `condition` holds for the first time. */
export function failAfter(
  operations: readonly FaultOperation[],
  condition: (call: FaultCall) => boolean,
  errno: BlockErrno = BlockErrno.EIO,
): FaultJudge {
  let failing = false;
  return (call) => {
    failing ||= condition(call);
    return failing && operations.includes(call.operation) ? errno : undefined;
  };
}

export class FaultDevice extends PassthroughDevice {
  readonly #judge: FaultJudge;
  readonly #calls = new Map<FaultOperation, number>();

  constructor(inner: BlockDevice, judge: FaultJudge) {
    super(inner);
    this.#judge = judge;
  }

  async #pass(operation: FaultOperation, offset: number, length: number): Promise<void> {
    const call = (this.#calls.get(operation) ?? 0) + 1;
    this.#calls.set(operation, call);
    const errno = this.#judge({ operation, call, offset, length });
    if (errno !== undefined) throw new BlockError(errno, `${operation} ${call} fails as told`);
  }

  override async read(offset: number, length: number): Promise<Uint8Array> {
    await this.#pass("read", offset, length);
    return this.inner.read(offset, length);
  }

  override async write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    await this.#pass("write", offset, data.byteLength);
    return this.inner.write(offset, data, options);
  }

  override async flush(): Promise<void> {
    await this.#pass("flush", 0, 0);
    return this.inner.flush();
  }

  override async trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    await this.#pass("trim", offset, length);
    return this.inner.trim(offset, length, options);
  }

  override async zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    await this.#pass("zero", offset, length);
    return this.inner.zero(offset, length, options);
  }

  override async extents(offset: number, length: number): Promise<Extent[]> {
    await this.#pass("extents", offset, length);
    return this.inner.extents(offset, length);
  }

  override async cache(offset: number, length: number): Promise<void> {
    await this.#pass("cache", offset, length);
    return this.inner.cache(offset, length);
  }
}
