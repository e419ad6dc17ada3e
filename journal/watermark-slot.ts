/**
 * The format of one watermark slot. Pure. What the slots together mean, and the order they are written in, is
 * watermark.ts; see docs/formats/watermark.md.
 *
 *   offset  size  field
 *   0       4     magic          "SSWM"
 *   4       1     version        1
 *   5       1     kind           1 durable, 2 answered
 *   6       2     flags          bit 0: shut down cleanly (durable slots only)
 *   8       16    lineage        a watermark of another history is refused
 *   24      8     generation     rises with every write of this kind; the newer valid slot wins
 *   32      16    boot           first 16 bytes of SHA-256 over the boot id: what an answered value is worth
 *   48      8     sequence       last record that is durable, or answered
 *   56      8     dataBytesTotal data bytes of the history up to it
 *   64      8     closedAtMs     wall clock label of the frame that ends there
 *   72      32    chain          chain value there: a journal of equal length and other content is refused
 *   104     4     crc            CRC-32 of the 104 bytes before
 */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { ByteReader } from "../protocol/bytes.ts";
import type { LineageBytes } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { LogPosition } from "./frame-log.ts";

const slotMagic = 0x5353574d;
const slotVersion = 1;
export const slotKinds = { durable: 1, answered: 2 } as const;
export type SlotKind = keyof typeof slotKinds;
/** Bytes used of a slot: within one 512-byte sector, which a disk writes whole or not at all. */
export const slotBytes = 108;
export const bootBytesLength = 16;
const cleanFlag = 1;

export interface Slot {
  readonly kind: SlotKind;
  readonly clean: boolean;
  readonly lineage: LineageBytes;
  readonly generation: number;
  readonly boot: Uint8Array;
  readonly position: LogPosition;
}

/** The form in which a slot holds a boot id, which is text of any length. */
export function bootBytes(bootId: string): Uint8Array {
  return new Uint8Array(createHash("sha256").update(bootId).digest().subarray(0, bootBytesLength));
}

/** Writes the slot into `target`, which has `slotBytes` bytes and may be used again afterwards. */
export function encodeSlotInto(slot: Slot, target: Buffer): void {
  target.writeUInt32BE(slotMagic, 0);
  target[4] = slotVersion;
  target[5] = slotKinds[slot.kind];
  target.writeUInt16BE(slot.clean ? cleanFlag : 0, 6);
  target.set(slot.lineage, 8);
  writeU64(target, slot.generation, 24);
  target.set(slot.boot, 32);
  writeU64(target, slot.position.sequence, 48);
  writeU64(target, slot.position.dataBytesTotal, 56);
  writeU64(target, slot.position.closedAtMs, 64);
  target.set(slot.position.chain, 72);
  target.writeUInt32BE(crc32(target.subarray(0, slotBytes - 4)), slotBytes - 4);
}

/** Decodes the first `slotBytes` bytes. RemoteProtocolError for anything that is no whole slot. */
export function decodeSlot(bytes: Uint8Array): Slot {
  if (bytes.byteLength < slotBytes)
    throw new RemoteProtocolError("SLOT_TRUNCATED", "watermark slot cut short");
  const slot = new ByteReader(bytes.subarray(0, slotBytes));
  if (slot.u32() !== slotMagic) throw new RemoteProtocolError("SLOT_MAGIC", "not a watermark slot");
  const version = slot.u8();
  if (version !== slotVersion) throw new RemoteProtocolError("SLOT_VERSION", `watermark version ${version}`);
  const sum = new DataView(bytes.buffer, bytes.byteOffset).getUint32(slotBytes - 4);
  if (crc32(bytes.subarray(0, slotBytes - 4)) !== sum)
    throw new RemoteProtocolError("SLOT_CRC", "watermark slot is damaged");
  const kindNumber = slot.u8();
  const flags = slot.u16();
  const kind =
    kindNumber === slotKinds.durable ? "durable" : kindNumber === slotKinds.answered ? "answered" : undefined;
  if (kind === undefined || (flags & ~cleanFlag) !== 0 || (kind === "answered" && flags !== 0)) {
    throw new RemoteProtocolError("SLOT_KIND", `watermark slot kind ${kindNumber} flags ${flags}`);
  }
  const lineage = slot.bytes(16).slice();
  const generation = slot.u64();
  const boot = slot.bytes(bootBytesLength).slice();
  const sequence = slot.u64();
  const dataBytesTotal = slot.u64();
  const closedAtMs = slot.u64();
  const chain = slot.bytes(32).slice();
  return {
    kind,
    clean: flags === cleanFlag,
    lineage,
    generation,
    boot,
    position: { sequence, chain, dataBytesTotal, closedAtMs },
  };
}

function writeU64(target: Buffer, value: number, at: number): void {
  target.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  target.writeUInt32BE(value % 2 ** 32, at + 4);
}
