/**
 * Decodes the data of options: INFO, GO, and the two of metadata contexts. Any fault is a `RemoteProtocolError`, which
 * the handshake answers with ERR_INVALID. Lengths are checked against what is there before anything is read. Pure.
 */
import { ByteReader } from "../bytes.ts";
import { RemoteProtocolError } from "../remote-error.ts";
import { nbdBaseAllocation, nbdStringBytesMax } from "./constants.ts";

/** `NBD_OPT_INFO`, `NBD_OPT_GO`. */
export interface NbdInfoQuery {
  readonly name: string;
  /** Information types asked for; unknown and repeated ones included. */
  readonly wanted: ReadonlySet<number>;
}

/** `NBD_OPT_LIST_META_CONTEXT`, `NBD_OPT_SET_META_CONTEXT`. */
export interface NbdMetaQuery {
  readonly name: string;
  readonly queryCount: number;
  /** `base:allocation` was named. */
  readonly exact: boolean;
  /** `base:` was named: means something only when listing. */
  readonly wildcard: boolean;
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Export name: UTF-8, at most 4,096 bytes, no NUL. Not looked at further: the catalog knows what exists. */
export function decodeExportName(bytes: Uint8Array): string {
  if (bytes.length > nbdStringBytesMax)
    throw new RemoteProtocolError("STRING_TOO_LONG", "name above 4,096 bytes");
  if (bytes.includes(0)) throw new RemoteProtocolError("STRING_HAS_NUL", "name holds a NUL");
  try {
    return decoder.decode(bytes);
  } catch {
    throw new RemoteProtocolError("STRING_NOT_UTF8", "name is not UTF-8");
  }
}

export function decodeInfoQuery(data: Uint8Array): NbdInfoQuery {
  const reader = new ByteReader(data);
  const name = decodeExportName(reader.bytes(reader.u32()));
  const count = reader.u16();
  if (reader.remaining !== count * 2) {
    throw new RemoteProtocolError("TRAILING_BYTES", "information requests do not fill the option");
  }
  const wanted = new Set<number>();
  for (let index = 0; index < count; index += 1) wanted.add(reader.u16());
  return { name, wanted };
}

export function decodeMetaQuery(data: Uint8Array): NbdMetaQuery {
  const reader = new ByteReader(data);
  const name = decodeExportName(reader.bytes(reader.u32()));
  const queryCount = reader.u32();
  // Each query takes four bytes at least: refuse a count that cannot be there before looping over it (H24).
  if (queryCount * 4 > reader.remaining) throw new RemoteProtocolError("TRUNCATED", "queries are missing");
  let exact = false;
  let wildcard = false;
  for (let index = 0; index < queryCount; index += 1) {
    const query = decodeExportName(reader.bytes(reader.u32()));
    if (query === nbdBaseAllocation) exact = true;
    else if (query === "base:") wildcard = true;
  }
  if (reader.remaining !== 0) throw new RemoteProtocolError("TRAILING_BYTES", "bytes after the last query");
  return { name, queryCount, exact, wildcard };
}
