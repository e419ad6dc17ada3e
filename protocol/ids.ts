/**
 * The names and numbers that identify things: groups, volumes, sites, lineages, sequences, tokens.
 * Pure. Identity is by lineage and epoch, never by name or clock; names only address.
 */

/** Number of a record in its group: contiguous from 1; 0 means "before the first record". Safe integer. */
export type Sequence = number;

/** Immutable number of a volume inside its group, 0..65535. Formats carry this, never the name. */
export type VolumeNumber = number;

/** 16 raw bytes of a UUID: one history of a group. A new one is made only when history cannot continue. */
export type LineageBytes = Uint8Array;

/** Lower-case 8-4-4-4-12 text form of a lineage, as it stands in JSON and logs. */
export type Lineage = string;

/** SHA-256 value, 32 bytes. */
export type ChainValue = Uint8Array;

export const lineageBytesLength = 16;
export const chainBytesLength = 32;

/** Fencing token: who may change a standby. A higher epoch wins; an equal epoch with another owner stops both. */
export interface Token {
  /** Rises whenever ownership of a group moves; starts at 1. Safe integer. */
  readonly epoch: number;
  /** Site that owns the group in this epoch. */
  readonly owner: string;
}

/** A position in a history, with the proof of what that history is. */
export interface ChainPosition {
  readonly sequence: Sequence;
  readonly chain: ChainValue;
}

/** The same point of the same history. */
export function isSamePosition(a: ChainPosition, b: ChainPosition): boolean {
  return a.sequence === b.sequence && bytesEqual(a.chain, b.chain);
}

/** Row of a group's volume table; part of the genesis chain value. */
export interface VolumeEntry {
  readonly number: VolumeNumber;
  readonly name: string;
  readonly sizeBytes: number;
}

/** Smallest unit a client may address, bytes. All record offsets and lengths are multiples of it. */
export const sectorBytes = 512;
/** Unit of the overlay, of folding and of dirty tracking, bytes. */
export const blockBytes = 4096;

const namePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** True for a legal site, group, volume or member name. Names are looked up, never joined to a path unchecked. */
export function isName(text: string): boolean {
  return namePattern.test(text) && !text.includes("..");
}

/** Export name of a volume as clients see it: `GROUP/VOLUME`. */
export function exportName(group: string, volume: string): string {
  return `${group}/${volume}`;
}

export type TokenOrder = "same" | "newer" | "older" | "conflict";

/** Orders `offered` against `held`. `conflict`: equal epochs, different owners: nobody may go on (I4). */
export function compareTokens(offered: Token, held: Token): TokenOrder {
  if (offered.epoch > held.epoch) return "newer";
  if (offered.epoch < held.epoch) return "older";
  return offered.owner === held.owner ? "same" : "conflict";
}

export function lineageToText(bytes: LineageBytes): Lineage {
  const hex = bytesToHex(bytes);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** Bytes of a lineage's text form; undefined when it is not one. */
export function lineageFromText(text: string): LineageBytes | undefined {
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(text)) return undefined;
  return bytesFromHex(text.replaceAll("-", ""));
}

export function bytesToHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Bytes of lower-case hex; undefined for anything else. */
export function bytesFromHex(hex: string): Uint8Array | undefined {
  if (hex.length % 2 !== 0 || !/^[0-9a-f]*$/.test(hex)) return undefined;
  return new Uint8Array(Buffer.from(hex, "hex"));
}

/** Byte equality of two values of any length. */
export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
