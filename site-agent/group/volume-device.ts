/**
 * A volume of an owned group as a block device: turns NBD requests into records of the group's write order. Owns no
 * state; what happens to a request is the group's business.
 */
import type {
  BlockCapabilities,
  BlockDevice,
  Extent,
  WriteOptions,
  ZeroOptions,
} from "../../block/device.ts";
import type { VolumeEntry, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes, sectorBytes } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { recordDataBytesMax } from "../../protocol/record.ts";

/** What a volume needs of its group. */
export interface RecordSink {
  /** Puts the records, in order, into the write order; `durable`: answered only when they survive power loss. */
  submit(records: readonly BlockRecord[], durable: boolean): Promise<void>;
  flush(): Promise<void>;
  read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array>;
  extents(volume: VolumeNumber, offset: number, length: number): Promise<Extent[]>;
}

/** NBD's advised largest payload: 32 MiB (proto.md, "Size constraints"). */
const requestBytesMax = 32 * 1024 * 1024;

const capabilities: BlockCapabilities = {
  write: true,
  flush: true,
  fua: true,
  trim: true,
  zero: true,
  // A range of zeroes is one small record, whatever its length.
  fastZero: true,
  cache: true,
  extents: true,
  // All connections feed one write order, so a FLUSH on any of them covers what was answered on all.
  multiConn: true,
};

export class VolumeDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSize = { minimum: sectorBytes, preferred: blockBytes, maximum: requestBytesMax };
  readonly can = capabilities;
  readonly #sink: RecordSink;
  readonly #volume: VolumeNumber;

  constructor(sink: RecordSink, volume: VolumeEntry) {
    this.#sink = sink;
    this.#volume = volume.number;
    this.sizeBytes = volume.sizeBytes;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#sink.read(this.#volume, offset, length);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    const volume = this.#volume;
    if (data.byteLength <= recordDataBytesMax) {
      return this.#sink.submit(
        [{ kind: "write", volume, offset, length: data.byteLength, data }],
        options.fua,
      );
    }
    const records: BlockRecord[] = [];
    for (let at = 0; at < data.byteLength; at += recordDataBytesMax) {
      const piece = data.subarray(at, at + recordDataBytesMax);
      records.push({ kind: "write", volume, offset: offset + at, length: piece.byteLength, data: piece });
    }
    return this.#sink.submit(records, options.fua);
  }

  flush(): Promise<void> {
    return this.#sink.flush();
  }

  trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    return this.#sink.submit([{ kind: "trim", volume: this.#volume, offset, length }], options.fua);
  }

  /** Without NO_HOLE a range of zeroes is recorded as a trim: both read as zeroes, and it may give its space back. */
  zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    const kind = options.mayTrim ? "trim" : "zeroes";
    return this.#sink.submit([{ kind, volume: this.#volume, offset, length }], options.fua);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#sink.extents(this.#volume, offset, length);
  }

  /** The image lies in the host's page cache already; there is nothing better to do ahead of a read. */
  async cache(): Promise<void> {}

  async close(): Promise<void> {}
}
