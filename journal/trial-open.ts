/**
 * The child process of trial.ts: opens a database, reads every frame, and ends. What it finds is not its business;
 * only whether it survives. Arguments: folder, write buffer bytes. Exit code 0 whenever it came to its end.
 */
import { OperationalError } from "../runtime/errors.ts";
import { openLevelStore } from "./level-store.ts";

const [, , directory, writeBufferBytes] = process.argv;

async function readAll(): Promise<void> {
  const store = await openLevelStore(directory ?? "", "open", Number(writeBufferBytes));
  try {
    await store.head();
    for await (const { value } of store.walk(0)) void value.byteLength;
  } finally {
    await store.close();
  }
}

try {
  await readAll();
} catch (error) {
  // A refusal is a fine end: the parent opens the same database and gets the same refusal, with its code.
  if (!(error instanceof OperationalError)) throw error;
}
