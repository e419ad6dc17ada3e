/**
 * Small durable JSON documents: a role's state of a group, the hand-over record, a report. Written whole, replaced
 * atomically, checked by a CRC when read. Never used for anything that changes with every write.
 */
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import type { Disk } from "./disk.ts";
import { syncDirectory } from "./disk.ts";
import { errorCode, OperationalError } from "./errors.ts";

/** Longest document, bytes: 256 volumes of some 200 bytes each, with room. */
const documentBytesMax = 1024 * 1024;

/**
 * Reads and parses the document; undefined when the file does not exist. A damaged one is `DOCUMENT_DAMAGED`, never
 * "not there": an agent that took damage for absence would start a second history. What is returned survives power
 * loss: its writer may have been killed between giving it its name and making the name durable.
 */
export async function readDocument<T>(
  disk: Disk,
  path: string,
  parse: (value: unknown) => T,
): Promise<T | undefined> {
  let text: string;
  try {
    const bytes = await disk.readFile(path);
    if (bytes.byteLength > documentBytesMax) throw new RangeError(`${bytes.byteLength} bytes`);
    text = Buffer.from(bytes).toString("utf8");
    // Nobody may go by it before this: power loss could bring the older document back afterwards.
    await syncDirectory(disk, dirname(path));
  } catch (cause) {
    if (errorCode(cause) === "ENOENT") return undefined;
    throw new OperationalError({
      code: "DOCUMENT_UNREADABLE",
      message: `cannot read ${path}, or make sure of its name`,
      reaction: "stop",
      cause,
    });
  }
  try {
    const envelope: unknown = JSON.parse(text);
    if (
      typeof envelope !== "object" ||
      envelope === null ||
      !("crc" in envelope) ||
      !("document" in envelope)
    ) {
      throw new Error("no envelope");
    }
    if (envelope.crc !== crc32(JSON.stringify(envelope.document))) throw new Error("checksum differs");
    return parse(envelope.document);
  } catch (cause) {
    throw new OperationalError({
      code: "DOCUMENT_DAMAGED",
      message: `${path} is damaged`,
      reaction: "stop",
      hint: "Restore the file from a backup of this very state, or ask the other site what it knows before anything else.",
      cause,
    });
  }
}

/** Replaces the document. When it settles, the new content survives power loss; before, the old one does. */
export async function writeDocument(disk: Disk, path: string, value: unknown): Promise<void> {
  const document: unknown = JSON.parse(JSON.stringify(value));
  const text = `${JSON.stringify({ crc: crc32(JSON.stringify(document)), document }, null, 1)}\n`;
  if (text.length > documentBytesMax) throw new RangeError(`document ${path} is too long`);
  const temporary = `${path}.new`;
  const file = await disk.open(temporary, "replace");
  try {
    await file.write(0, Buffer.from(text));
    // A crash before this leaves the old document; renaming unsynced content could leave an empty one.
    await file.sync();
  } finally {
    await file.close();
  }
  await disk.rename(temporary, path);
  // Survives power loss under its own name from here on.
  await syncDirectory(disk, dirname(path));
}
