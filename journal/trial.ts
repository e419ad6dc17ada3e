/**
 * Keeps a damaged table from ending the agent again and again. LevelDB trusts what it reads: a rotten block can
 * fail one of its assertions, which aborts the whole process and with it every other group. So opening leaves a
 * note until it is over, and who finds a note lets a child process open the database first: if that dies, the
 * journal is damaged, and the agent says so and lives. Costs a start nothing when the last one went well.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { Disk } from "../runtime/disk.ts";
import { journalDamaged, journalOpenFailed } from "./journal-errors.ts";

const here = fileURLToPath(import.meta.url);
const childPath = fileURLToPath(new URL(`./trial-open${extname(here)}`, import.meta.url));

function notePath(watermarkPath: string): string {
  return `${watermarkPath}.opening`;
}

/**
 * Runs `open` with the note in place. JOURNAL_DAMAGED when the last attempt died and a child that tries it dies, too.
 * The note needs no sync: it tells of the end of a process, not of the host.
 */
export async function withTrial<T>(
  disk: Disk,
  directory: string,
  watermarkPath: string,
  writeBufferBytes: number,
  open: () => Promise<T>,
): Promise<T> {
  const note = notePath(watermarkPath);
  if (disk.exists(note)) await tryInChild(directory, writeBufferBytes);
  await disk.touch(note);
  try {
    return await open();
  } finally {
    await disk.remove(note);
  }
}

async function tryInChild(directory: string, writeBufferBytes: number): Promise<void> {
  const child = fork(childPath, [directory, String(writeBufferBytes)], { stdio: "ignore" });
  const [code, signal] = (await once(child, "exit")) as [number | null, string | null];
  if (signal !== null) throw journalDamaged("database-aborts", null, { directory, signal });
  if (code !== 0) throw journalOpenFailed(directory, new Error(`trial process ended with ${code}`));
}
