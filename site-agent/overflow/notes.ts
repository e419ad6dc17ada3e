/**
 * How an overflow is kept in the journal's notes: a page of the dirty map each, and one note of the overflow itself. Pure.
 * See docs/formats/overflow.md.
 *
 *   dirty page, note volume x 2^20 + page        overflow, note 2^48
 *   0     4     magic     "SSDP"                 0   4  magic               "SSOV"
 *   4     1     version   1                      4   1  version             2
 *   5     1     reserved  0                      5   3  reserved            0
 *   6     2     volume                           8   8  through
 *   8     4     page                             16  8  sinceSequence
 *   12    4096  bits                             24  8  sinceDataBytesTotal
 *   4108  4     crc                              32  8  sinceAtMs
 *                                                40  4  pages               digest of all pages
 *                                                44  4  crc
 */
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "../../protocol/bytes.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import type { DirtyPage } from "./dirty-map.ts";
import { pageBytes } from "./dirty-map.ts";

const pageMagic = 0x53534450;
const overflowMagic = 0x53534f56;
const pageVersion = 1;
const overflowVersion = 2;
const pageNoteBytes = 16 + pageBytes;
const overflowNoteBytes = 48;
/** More pages than a volume can have. */
const pagesOfVolume = 2 ** 20;
export const overflowNumber = 2 ** 48;

/** What is known of an overflow from its first drop to the end of the resync that mends it. */
export interface OverflowNote {
  /** Head after the newest drop: from there on the journal holds everything. */
  readonly through: Sequence;
  /** What the standby was known to hold at the first drop: lag and loss are counted from there. */
  readonly since: {
    readonly sequence: Sequence;
    readonly dataBytesTotal: number;
    /** When the oldest record that was dropped arrived: a label. */
    readonly atMs: number;
  };
  /** `digestOfPages` of the map as it was then: a page that LevelDB lost, or of which it kept an older one, is noticed. */
  readonly pages: number;
}

export function pageNumber({ volume, page }: Pick<DirtyPage, "volume" | "page">): number {
  return volume * pagesOfVolume + page;
}

export function encodePage({ volume, page, bits }: DirtyPage): Uint8Array {
  const writer = new ByteWriter(pageNoteBytes)
    .u32(pageMagic)
    .u8(pageVersion)
    .u8(0)
    .u16(volume)
    .u32(page)
    .put(bits);
  return writer.u32(crc32(writer.bytes.subarray(0, writer.offset))).bytes;
}

/** RemoteProtocolError for anything that `encodePage` does not write under this number. */
export function decodePage(number: number, bytes: Uint8Array): DirtyPage {
  const reader = readerOf(bytes, pageMagic, pageVersion, pageNoteBytes);
  const reserved = reader.u8();
  const found = { volume: reader.u16(), page: reader.u32(), bits: reader.bytes(pageBytes).slice() };
  if (reserved !== 0 || pageNumber(found) !== number) throw malformed("page");
  return found;
}

/** Over all pages of a map, by volume and page: CRC-32 of them as they are stored, each without its own. */
export function digestOfPages(pages: readonly DirtyPage[]): number {
  // A sum over data and their sum tells the sum of the length alone, or little more.
  return pages.reduce((digest, page) => crc32(encodePage(page).subarray(0, pageNoteBytes - 4), digest), 0);
}

export function encodeOverflow({ through, since, pages }: OverflowNote): Uint8Array {
  const writer = new ByteWriter(overflowNoteBytes)
    .u32(overflowMagic)
    .u8(overflowVersion)
    .u8(0)
    .u16(0)
    .u64(through)
    .u64(since.sequence)
    .u64(since.dataBytesTotal)
    .u64(since.atMs)
    .u32(pages);
  return writer.u32(crc32(writer.bytes.subarray(0, writer.offset))).bytes;
}

/** RemoteProtocolError for anything that `encodeOverflow` does not write. */
export function decodeOverflow(bytes: Uint8Array): OverflowNote {
  const reader = readerOf(bytes, overflowMagic, overflowVersion, overflowNoteBytes);
  if (reader.u8() !== 0 || reader.u16() !== 0) throw malformed("overflow");
  const through = reader.u64();
  const since = { sequence: reader.u64(), dataBytesTotal: reader.u64(), atMs: reader.u64() };
  return { through, since, pages: reader.u32() };
}

function readerOf(bytes: Uint8Array, magic: number, version: number, length: number): ByteReader {
  if (bytes.byteLength !== length) throw malformed("length");
  const sum = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(length - 4);
  if (crc32(bytes.subarray(0, length - 4)) !== sum) throw malformed("crc");
  const reader = new ByteReader(bytes);
  if (reader.u32() !== magic) throw malformed("magic");
  if (reader.u8() !== version) throw malformed("version");
  return reader;
}

function malformed(what: string): RemoteProtocolError {
  return new RemoteProtocolError("OVERFLOW_NOTE", `a note of an overflow is damaged: ${what}`);
}
