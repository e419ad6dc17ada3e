/**
 * Checked reading of parsed JSON: control messages, durable documents. Pure. Each function gives the value in its
 * narrow type or throws RemoteProtocolError `MALFORMED`, naming the field; nobody else casts what came from JSON.
 */
import type { Lineage, Sequence, Token, VolumeEntry } from "./ids.ts";
import { isName, lineageFromText } from "./ids.ts";
import { RemoteProtocolError } from "./remote-error.ts";

export type JsonFields = Readonly<Record<string, unknown>>;

/** Longest text field, characters. */
const textLengthMax = 4096;
/** Volumes of one group. */
export const volumesMax = 256;

export function malformed(what: string): never {
  throw new RemoteProtocolError("MALFORMED", `not as expected: ${what}`, { what });
}

/** Parses a JSON document of at most `bytesMax` bytes into its fields. */
export function parseFields(body: Uint8Array, bytesMax: number): JsonFields {
  if (body.byteLength > bytesMax) malformed("length");
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("utf8"));
  } catch {
    malformed("JSON");
  }
  return fieldsOf(value, "object");
}

export function fieldsOf(value: unknown, what: string): JsonFields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) malformed(what);
  return value as JsonFields;
}

/** Safe integer of at least 0. */
export function countOf(value: unknown, what: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) malformed(what);
  return value;
}

export function textOf(value: unknown, what: string): string {
  if (typeof value !== "string" || value.length > textLengthMax) malformed(what);
  return value;
}

/** `null` stays null, everything else goes through `parse`. */
export function nullOr<T>(value: unknown, parse: (value: unknown) => T): T | null {
  return value === null ? null : parse(value);
}

export function nameOf(value: unknown, what: string): string {
  const name = textOf(value, what);
  return isName(name) ? name : malformed(what);
}

export function lineageOf(value: unknown): Lineage {
  const id = textOf(value, "lineage");
  return lineageFromText(id) === undefined ? malformed("lineage") : id;
}

/** Lower-case hex of a chain value. */
export function chainOf(value: unknown): string {
  const hex = textOf(value, "chain");
  return /^[0-9a-f]{64}$/.test(hex) ? hex : malformed("chain");
}

export function tokenOf(value: unknown): Token {
  const { epoch, owner } = fieldsOf(value, "token");
  const number = countOf(epoch, "token epoch");
  return number < 1 ? malformed("token epoch") : { epoch: number, owner: nameOf(owner, "token owner") };
}

export function positionOf(value: unknown): { readonly sequence: Sequence; readonly chain: string } {
  const { sequence, chain } = fieldsOf(value, "position");
  return { sequence: countOf(sequence, "sequence"), chain: chainOf(chain) };
}

/** Rows of a volume table, each read further by `parse`. */
export function volumesOf<T>(value: unknown, parse: (row: JsonFields, entry: VolumeEntry) => T): T[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > volumesMax) malformed("volumes");
  // A table that names one volume twice would send two disks' writes to one image.
  const seen = new Set<unknown>();
  return value.map((item: unknown) => {
    const row = fieldsOf(item, "volume");
    const number = countOf(row["number"], "volume number");
    if (number > 0xffff || seen.has(number) || seen.has(row["name"])) malformed("volume number or name");
    seen.add(number).add(row["name"]);
    return parse(row, {
      number,
      name: nameOf(row["name"], "volume name"),
      sizeBytes: countOf(row["sizeBytes"], "volume size"),
    });
  });
}
