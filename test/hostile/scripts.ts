/**
 * Byte scripts of a client for servers that should agree: what is sent, and how to read what comes back. One export
 * `vol` of 1 MiB, plain text. A script ends with a probe whose answer shows that the stream is still in step.
 */
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, FLAG, OPT } from "../protocol/nbd/wire.ts";

export const exportName = "vol";
export const exportBytes = 1024 * 1024;

export interface Script {
  /** Case of the catalogue and what is done; unique. */
  readonly name: string;
  readonly bytes: Buffer;
  /** Where the script ends, and so what the probe is: a LIST or a FLUSH. */
  readonly phase: "options" | "requests";
  /** Payload of successful simple replies by cookie. */
  readonly readLengths: Readonly<Record<string, number>>;
}

export const probeCookie = 0xffff;

export function probe(script: Script): Buffer {
  return script.phase === "options"
    ? wire.option(OPT.LIST)
    : wire.request({ command: CMD.FLUSH, cookie: probeCookie });
}

function options(name: string, ...parts: readonly Buffer[]): Script {
  return {
    name,
    bytes: Buffer.concat([wire.clientFlags(), ...parts]),
    phase: "options",
    readLengths: {},
  };
}

/** Requests get cookies 1, 2, ... in order. */
export function requests(
  name: string,
  fields: readonly wire.RequestFields[],
  how: { structured?: boolean; meta?: boolean } = {},
): Script {
  const opening = [wire.clientFlags()];
  if (how.structured === true) opening.push(wire.option(OPT.STRUCTURED));
  if (how.meta === true)
    opening.push(wire.option(OPT.SET_META, wire.metaData(exportName, ["base:allocation"])));
  opening.push(wire.go(exportName));
  const readLengths: Record<string, number> = {};
  const sent = fields.map((one, index) => {
    if (one.command === CMD.READ) readLengths[index + 1] = one.length ?? 0;
    return wire.request({ ...one, cookie: index + 1 });
  });
  return { name, bytes: Buffer.concat([...opening, ...sent]), phase: "requests", readLengths };
}

const data = Buffer.alloc(512, 7);
const name = Buffer.from(exportName);
const structured = { structured: true } as const;
const meta = { structured: true, meta: true } as const;

export const scripts: readonly Script[] = [
  { ...options("H01 unknown client flag"), bytes: wire.clientFlags(0x80000003) },
  { ...options("H02 LIST without fixed newstyle"), bytes: Buffer.concat([wire.clientFlags(2)]) },
  options("H03 wrong option magic", Buffer.from("IHAVEOPTIHAVEOPT").fill(0, 0, 1)),
  options("H04 unknown option", wire.option(77), wire.option(0xdeadbeef, "abc")),
  options("H05 unknown option with 100 kB", wire.option(77, Buffer.alloc(100_000, 1))),
  options("H06 option length 0xffffffff", wire.optionHeader(77, 0xffffffff)),
  options("H07 option length 64 MiB + 1", wire.optionHeader(77, 64 * 1024 * 1024 + 1)),
  options("H08 LIST with data", wire.option(OPT.LIST, "x")),
  options("H09 ABORT with data", wire.option(OPT.ABORT, "bye")),
  options(
    "H10 GO name longer than its data",
    wire.option(OPT.GO, Buffer.concat([wire.u32(100), name, wire.u16(0)])),
  ),
  options(
    "H11 GO name length 0xffffffff",
    wire.option(OPT.GO, Buffer.concat([wire.u32(0xffffffff), name, wire.u16(0)])),
  ),
  options("H12 GO of 0 bytes", wire.option(OPT.GO)),
  options("H12 GO of 3 bytes", wire.option(OPT.GO, "abc")),
  options(
    "H13 GO with too many requests announced",
    wire.option(OPT.GO, Buffer.concat([wire.u32(3), name, wire.u16(9), wire.u16(3)])),
  ),
  options(
    "H13 GO with junk behind",
    wire.option(OPT.GO, Buffer.concat([wire.infoData(exportName, [3]), Buffer.from("!")])),
  ),
  options("H14 INFO with a name of 4,097 bytes", wire.info("x".repeat(4097))),
  options("H15 INFO with a name of 4,096 bytes", wire.info("x".repeat(4096))),
  options("H16 INFO of an unknown export", wire.info("nope")),
  options("H17 INFO with NUL in the name", wire.info("vo\0l")),
  options("H18 INFO with repeated and unknown requests", wire.info(exportName, [3, 3, 99, 0xffff])),
  options("H19 STARTTLS without TLS", wire.option(OPT.STARTTLS)),
  options("H20 STARTTLS with data", wire.option(OPT.STARTTLS, "x")),
  options("H21 STRUCTURED_REPLY with data", wire.option(OPT.STRUCTURED, "x")),
  options("H22 STRUCTURED_REPLY twice", wire.option(OPT.STRUCTURED), wire.option(OPT.STRUCTURED)),
  options(
    "H23 SET_META_CONTEXT too early",
    wire.option(OPT.SET_META, wire.metaData(exportName, ["base:allocation"])),
  ),
  options(
    "H24 2^32-1 queries",
    wire.option(OPT.STRUCTURED),
    wire.option(OPT.SET_META, Buffer.concat([wire.u32(3), name, wire.u32(0xffffffff)])),
  ),
  options(
    "H24 query length overflow",
    wire.option(OPT.STRUCTURED),
    wire.option(OPT.SET_META, Buffer.concat([wire.u32(3), name, wire.u32(1), wire.u32(0xffffffff)])),
  ),
  options("H25 100 unknown options", ...Array.from({ length: 100 }, () => wire.option(77))),
  options("H26 EXPORT_NAME of an unknown export", wire.option(OPT.EXPORT_NAME, "nope")),
  options("H29 an HTTP request", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
  requests("H30 an option after GO", [{ command: CMD.FLUSH, magic: 0x49484156 }]),
  requests("T01 bad request magic", [{ command: CMD.FLUSH, magic: 0x12560953 }]),
  requests("T02 unknown command", [{ command: 99, length: 512 }]),
  requests("T02 unknown command, structured", [{ command: 99, length: 512 }], structured),
  requests("T03 unknown flag on WRITE", [{ command: CMD.WRITE, flags: 1 << 7, data }]),
  requests("T03 unknown flag on READ", [{ command: CMD.READ, flags: 1 << 7, length: 512 }]),
  requests("T04 FUA on READ", [{ command: CMD.READ, flags: FLAG.FUA, length: 512 }]),
  requests("T04 FUA on FLUSH", [{ command: CMD.FLUSH, flags: FLAG.FUA }]),
  requests("T05 DF without structured replies", [{ command: CMD.READ, flags: FLAG.DF, length: 512 }]),
  requests("T06 NO_HOLE on WRITE", [{ command: CMD.WRITE, flags: FLAG.NO_HOLE, data }]),
  requests("T06 REQ_ONE on WRITE", [{ command: CMD.WRITE, flags: FLAG.REQ_ONE, data }]),
  requests("T06 FAST_ZERO on WRITE", [{ command: CMD.WRITE, flags: FLAG.FAST_ZERO, data }]),
  requests("T08 READ of 0 bytes", [{ command: CMD.READ }]),
  requests("T08 WRITE of 0 bytes", [{ command: CMD.WRITE }]),
  requests("T08 TRIM of 0 bytes", [{ command: CMD.TRIM }]),
  requests("T08 WRITE_ZEROES of 0 bytes", [{ command: CMD.ZEROES }]),
  requests("T09 READ behind the end", [{ command: CMD.READ, offset: exportBytes, length: 512 }]),
  requests("T09 READ across the end", [{ command: CMD.READ, offset: exportBytes - 512, length: 1024 }]),
  requests("T09 READ at 2^64 - 512", [{ command: CMD.READ, offset: 2n ** 64n - 512n, length: 512 }]),
  requests("T09 READ at 2^63", [{ command: CMD.READ, offset: 2n ** 63n, length: 512 }], structured),
  requests("T10 WRITE behind the end", [{ command: CMD.WRITE, offset: exportBytes, data }]),
  requests("T10 WRITE at 2^64 - 512", [{ command: CMD.WRITE, offset: 2n ** 64n - 512n, data }]),
  requests("T10 WRITE_ZEROES behind the end", [{ command: CMD.ZEROES, offset: exportBytes, length: 512 }]),
  requests("T11 TRIM behind the end", [{ command: CMD.TRIM, offset: exportBytes, length: 512 }]),
  requests(
    "T11 BLOCK_STATUS behind the end",
    [{ command: CMD.STATUS, offset: exportBytes, length: 512 }],
    meta,
  ),
  requests("T12 FLUSH with offset", [{ command: CMD.FLUSH, offset: 512 }]),
  requests("T12 FLUSH with length", [{ command: CMD.FLUSH, length: 512 }]),
  requests("T13 READ of 64 MiB + 512", [{ command: CMD.READ, length: 64 * 1024 * 1024 + 512 }]),
  requests("T13 READ of 4 GiB - 512", [{ command: CMD.READ, length: 0xffff_fe00 }]),
  requests("T14 WRITE header of 4 GiB - 1", [{ command: CMD.WRITE, length: 0xffff_ffff }]),
  requests("T16 unaligned READ", [{ command: CMD.READ, offset: 1, length: 3 }]),
  requests("T16 unaligned WRITE", [{ command: CMD.WRITE, offset: 1, data: data.subarray(0, 3) }]),
  requests("T17 BLOCK_STATUS not negotiated", [{ command: CMD.STATUS, length: 512 }]),
  requests("T17 BLOCK_STATUS without context", [{ command: CMD.STATUS, length: 512 }], structured),
  requests("T17 BLOCK_STATUS of 0 bytes", [{ command: CMD.STATUS }], meta),
  requests("T18 structured READ error", [{ command: CMD.READ, offset: 2 ** 40, length: 512 }], structured),
  requests("T20 DISC with other fields", [
    { command: CMD.WRITE, data },
    { command: CMD.DISC, offset: 4096, length: 77 },
  ]),
  requests("T31 WRITE_ZEROES of 4 GiB - 512", [{ command: CMD.ZEROES, length: 0xffff_fe00 }]),
  requests("T31 TRIM of 4 GiB - 512", [{ command: CMD.TRIM, length: 0xffff_fe00 }]),
  requests("plain READ, WRITE, FLUSH", [
    { command: CMD.WRITE, offset: 4096, data },
    { command: CMD.READ, offset: 4096, length: 512 },
    { command: CMD.FLUSH },
  ]),
];
