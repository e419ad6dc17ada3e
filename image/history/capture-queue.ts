/**
 * The main thread's end of the capture thread. One per process, started at the first use and never kept alive by itself.
 * Memory and orders under way are bounded by who asks (`capture.ts`). Why there is one: docs/history.md.
 */
import { extname } from "node:path";
import { ThreadCalls } from "../../runtime/thread-calls.ts";
import type { CaptureAnswer, CaptureOrder } from "./capture-orders.ts";

/** The thread's file: this one's sibling, built or not. */
const threadEntry = new URL(`./capture-thread${extname(import.meta.url)}`, import.meta.url);

let thread: ThreadCalls<CaptureOrder, CaptureAnswer> | undefined;

/** Rejects with ThreadFailure. A thread that ended is replaced at the next call. */
export function captureOnThread(order: CaptureOrder): Promise<CaptureAnswer> {
  if (thread === undefined || thread.ended) thread = new ThreadCalls("splitsite-capture", threadEntry);
  return thread.call(order);
}
