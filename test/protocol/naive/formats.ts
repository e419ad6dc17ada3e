/**
 * A second, slow reading and writing of the formats, made from the pages in docs/formats and nothing else. It imports
 * no product code, so that a mistake there is not made twice. Numbers are bigints, bytes plain arrays; anything
 * unexpected is a thrown Error.
 */
import { createHash } from "node:crypto";
import { brotliDecompressSync } from "node:zlib";

export interface NaiveRecord {
  kind: number;
  flags: number;
  volume: number;
  offset: bigint;
  length: number;
  data: number[];
}

export interface NaiveFrame {
  lineage: number[];
  first: bigint;
  openedAtMs: bigint;
  closedAtMs: bigint;
  dataBytesTotal: bigint;
  chainBefore: number[];
  chainAfter: number[];
  records: NaiveRecord[];
}

export interface NaiveBatch {
  codec: number;
  lineage: number[];
  epoch: bigint;
  owner: string;
  first: bigint;
  last: bigint;
  chainBefore: number[];
  chainAfter: number[];
  frames: NaiveFrame[];
}

/** CRC-32 as in IEEE 802.3, bit by bit. */
export function crc(bytes: readonly number[]): number {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit += 1) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return ~sum >>> 0;
}

export function sha256(bytes: readonly number[]): number[] {
  return [...createHash("sha256").update(Uint8Array.from(bytes)).digest()];
}

export function number(value: bigint | number, size: number): number[] {
  const bytes: number[] = [];
  for (let at = size - 1; at >= 0; at -= 1) bytes.push(Number((BigInt(value) >> BigInt(at * 8)) & 0xffn));
  return bytes;
}

export function value(bytes: readonly number[], at: number, size: number): bigint {
  if (at + size > bytes.length) throw new Error("cut short");
  let result = 0n;
  for (const byte of bytes.slice(at, at + size)) result = result * 256n + BigInt(byte);
  return result;
}

function small(bytes: readonly number[], at: number, size: number): number {
  return Number(value(bytes, at, size));
}

function require(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

export function encodeRecord(record: NaiveRecord): number[] {
  return [
    record.kind,
    record.flags,
    ...number(record.volume, 2),
    ...number(record.length, 4),
    ...number(record.offset, 8),
    ...record.data,
  ];
}

export function decodeRecords(body: readonly number[], count: number): NaiveRecord[] {
  const records: NaiveRecord[] = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    require(at + 16 <= body.length, "record cut short");
    const record = {
      kind: body[at]!,
      flags: body[at + 1]!,
      volume: small(body, at + 2, 2),
      length: small(body, at + 4, 4),
      offset: value(body, at + 8, 8),
      data: [] as number[],
    };
    at += 16;
    const size = payloadSize(record);
    require(at + size <= body.length, "payload");
    record.data = body.slice(at, at + size);
    at += size;
    if (record.kind === 9) gapOf(record);
    if (record.kind === 8) nameOf(record);
    records.push(record);
  }
  require(at === body.length, "trailing");
  return records;
}

/** What the payload of a volume change says. */
function nameOf({ data }: NaiveRecord): string {
  const name = Buffer.from(data).toString("latin1").replace(/\0+$/, "");
  require(/^[a-z0-9][a-z0-9._-]{0,62}$/.test(name) && !name.includes(".."), "name");
  return name;
}

/** What the payload of a gap says. */
function gapOf({ data }: NaiveRecord): { span: bigint; dataBytes: bigint; chainAfter: number[] } {
  const span = value(data, 0, 8);
  const dataBytes = value(data, 8, 8);
  require(span > 0n && span < 2n ** 53n && dataBytes < 2n ** 53n, "size of a gap");
  return { span, dataBytes, chainAfter: data.slice(16) };
}

/** Last sequence of a frame. */
export function lastOf({ first, records }: NaiveFrame): bigint {
  const [record] = records;
  return first + (record?.kind === 9 ? gapOf(record).span : BigInt(records.length)) - 1n;
}

/** Bytes behind the header, by the table of the record page; throws for what the page does not allow. */
function payloadSize({ kind, flags, volume, offset, length }: NaiveRecord): number {
  const mebibyte = 1024 * 1024;
  if (kind === 10) {
    const isFifth = flags >= 16;
    const mark = Math.floor((isFifth ? flags - 16 : flags) / 4);
    require(volume === 0 && length === 0 && mark < 3 && offset < 2n ** 53n, "mark");
    require(!isFifth || flags % 4 === 0, "purpose");
    require(mark === 0 ? offset === 0n : offset > 0n, "begin of a mark");
    return 0;
  }
  if (kind === 9) {
    require(flags === 0 && volume === 0 && length === 0 && offset === 0n, "gap");
    return 48;
  }
  if (kind === 8) {
    require(flags < 2 && length === 0, "change of the table");
    require(offset > 0n && offset % 512n === 0n && offset < 2n ** 53n, "size of a volume");
    return 64;
  }
  require(length > 0 && length % 512 === 0 && offset % 512n === 0n, "range");
  require(offset + BigInt(length) < 2n ** 53n, "range");
  if (kind === 2 || kind === 3) {
    require(flags === 0, "flags");
    return 0;
  }
  if (kind === 4) {
    require(flags < 2 && offset % BigInt(mebibyte) === 0n, "digests");
    require(length <= (flags === 1 ? mebibyte : 4095 * mebibyte), "range of digests");
    return flags === 1 ? 16 * Math.ceil(length / 4096) : 32 * Math.ceil(length / mebibyte);
  }
  require(kind === 1 || kind === 5, "kind");
  require(flags === 0 || (kind === 5 && flags === 1), "flags");
  if (flags === 1) return 0;
  require(length <= mebibyte, "data");
  return length;
}

/** Chain value after each record. */
export function walk(start: readonly number[], records: readonly NaiveRecord[]): number[] {
  let chain = [...start];
  for (const record of records) chain = sha256([...chain, ...sha256(encodeRecord(record))]);
  return chain;
}

export function genesis(
  lineage: readonly number[],
  volumes: readonly { number: number; name: string; sizeBytes: number }[],
): number[] {
  const bytes = [...Buffer.from("splitsite genesis 1\n", "latin1"), ...lineage, ...number(volumes.length, 2)];
  for (const volume of [...volumes].sort((a, b) => a.number - b.number)) {
    const name = [...Buffer.from(volume.name, "utf8")];
    bytes.push(...number(volume.number, 2), ...number(volume.sizeBytes, 8), name.length, ...name);
  }
  return sha256(bytes);
}

/** With the body stored as it is. */
export function encodeFrame(frame: NaiveFrame): number[] {
  const body = frame.records.flatMap(encodeRecord);
  const head = [
    ...Buffer.from("SSFR", "latin1"),
    1,
    0,
    ...number(0, 2),
    ...frame.lineage,
    ...number(frame.first, 8),
    ...number(frame.records.length, 4),
    ...number(body.length, 4),
    ...number(body.length, 4),
    ...number(crc(body), 4),
    ...number(frame.openedAtMs, 8),
    ...number(frame.closedAtMs, 8),
    ...number(frame.dataBytesTotal, 8),
    ...frame.chainBefore,
    ...frame.chainAfter,
  ];
  return [...head, ...number(crc(head), 4), ...body];
}

/** One LZ4 block: sequences of literals and matches. */
export function unpackLz4(packed: readonly number[], length: number): number[] {
  const out: number[] = [];
  let at = 0;
  const next = (): number => {
    const byte = packed[at];
    if (byte === undefined) throw new Error("LZ4 cut short");
    at += 1;
    return byte;
  };
  const extended = (nibble: number): number => {
    let total = nibble;
    if (nibble !== 15) return total;
    for (;;) {
      const more = next();
      total += more;
      if (more !== 255) return total;
    }
  };
  while (at < packed.length) {
    const token = next();
    for (let literals = extended(token >> 4); literals > 0; literals -= 1) out.push(next());
    if (at === packed.length) break;
    const distance = next() + next() * 256;
    require(distance > 0 && distance <= out.length, "LZ4 distance");
    for (let match = extended(token & 15) + 4; match > 0; match -= 1) out.push(out[out.length - distance]!);
  }
  require(out.length === length, "LZ4 length");
  return out;
}

/** A 4-byte little-endian length, then the block. */
function unpackLz4Value(stored: readonly number[], length: number): number[] {
  require(Number(value([...stored.slice(0, 4)].reverse(), 0, 4)) === length, "LZ4 prefix");
  return unpackLz4(stored.slice(4), length);
}

export function decodeFrame(bytes: readonly number[]): NaiveFrame {
  require(bytes.length >= 140, "frame cut short");
  require(Buffer.from(bytes.slice(0, 4)).toString("latin1") === "SSFR" &&
    bytes[4] === 1, "not a frame of version 1");
  require(crc(bytes.slice(0, 136)) === small(bytes, 136, 4), "header CRC");
  const codec = bytes[5]!;
  require(codec <= 1 && small(bytes, 6, 2) === 0, "codec");
  const first = value(bytes, 24, 8);
  const count = small(bytes, 32, 4);
  const bodyLength = small(bytes, 36, 4);
  const storedLength = small(bytes, 40, 4);
  require(first >= 1n &&
    count >= 1 &&
    bodyLength <= 2 * 1024 * 1024 + 16 &&
    storedLength <= bodyLength, "limits");
  require(codec === 1 || storedLength === bodyLength, "limits");
  const stored = bytes.slice(140);
  require(stored.length === storedLength, "body length");
  const body = codec === 1 ? unpackLz4Value(stored, bodyLength) : stored;
  require(crc(body) === small(bytes, 44, 4), "body CRC");
  const records = decodeRecords(body, count);
  const chainBefore = bytes.slice(72, 104);
  const chainAfter = bytes.slice(104, 136);
  if (records.some((record) => record.kind === 9)) {
    const { span, dataBytes, chainAfter: claimed } = gapOf(records[0]!);
    require(count === 1 && first + span < 2n ** 53n, "a gap alone");
    require(claimed.join() === chainAfter.join(), "chain of a gap");
    require(value(bytes, 64, 8) >= dataBytes, "total");
  } else {
    require(count === 1 || !records.some((record) => record.kind === 8), "a change of the table alone");
    require(walk(chainBefore, records).join() === chainAfter.join(), "chain");
  }
  return {
    lineage: bytes.slice(8, 24),
    first,
    openedAtMs: value(bytes, 48, 8),
    closedAtMs: value(bytes, 56, 8),
    dataBytesTotal: value(bytes, 64, 8),
    chainBefore,
    chainAfter,
    records,
  };
}

export function decodeBatch(bytes: readonly number[]): NaiveBatch {
  require(bytes.length >= 196, "batch cut short");
  require(Buffer.from(bytes.slice(0, 4)).toString("latin1") === "SSBA" &&
    bytes[4] === 1, "not a batch of version 1");
  require(crc(bytes.slice(0, 192)) === small(bytes, 192, 4), "header CRC");
  const codec = bytes[5]!;
  require(codec <= 2 && small(bytes, 6, 2) === 0, "codec");
  const payload = bytes.slice(196);
  const rawLength = small(bytes, 116, 4);
  require(payload.length === small(bytes, 120, 4) && crc(payload) === small(bytes, 124, 4), "payload");
  const raw =
    codec === 0
      ? payload
      : codec === 1
        ? unpackLz4Value(payload, rawLength)
        : [...brotliDecompressSync(Uint8Array.from(payload), { maxOutputLength: rawLength })];
  require(raw.length === rawLength, "raw length");
  const frames: NaiveFrame[] = [];
  let at = 0;
  for (let index = 0; index < small(bytes, 112, 4); index += 1) {
    const length = 140 + small(raw, at + 40, 4);
    frames.push(decodeFrame(raw.slice(at, at + length)));
    at += length;
  }
  require(at === raw.length, "trailing");
  return {
    codec,
    lineage: bytes.slice(8, 24),
    epoch: value(bytes, 24, 8),
    owner: Buffer.from(bytes.slice(32, 96)).toString("latin1").replace(/\0+$/, ""),
    first: value(bytes, 96, 8),
    last: value(bytes, 104, 8),
    chainBefore: bytes.slice(128, 160),
    chainAfter: bytes.slice(160, 192),
    frames,
  };
}

/** With the payload as it is. */
export function encodeBatch(batch: NaiveBatch): number[] {
  const payload = batch.frames.flatMap(encodeFrame);
  const owner = [...Buffer.from(batch.owner, "latin1")];
  const head = [
    ...Buffer.from("SSBA", "latin1"),
    1,
    0,
    ...number(0, 2),
    ...batch.lineage,
    ...number(batch.epoch, 8),
    ...owner,
    ...number(0, 64 - owner.length),
    ...number(batch.first, 8),
    ...number(batch.last, 8),
    ...number(batch.frames.length, 4),
    ...number(payload.length, 4),
    ...number(payload.length, 4),
    ...number(crc(payload), 4),
    ...batch.chainBefore,
    ...batch.chainAfter,
  ];
  return [...head, ...number(crc(head), 4), ...payload];
}
