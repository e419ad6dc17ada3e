#!/usr/bin/env node
/**
 * Entry of the `splitsite` command. It sets what is looked at once and early, then loads the program. CommonJS on
 * purpose: an ES module is itself read through the thread pool, which has its size from its first use on, so in one
 * it would be too late. 16 threads: journal puts, syncs, image writes and reads of a few groups at once; the
 * default of 4 would let one slow fdatasync hold up the others.
 *
 * The heap may grow to two and a half times what is live before it is collected whole. Buffers on their way count as heap, and with
 * V8's own choice a busy agent collected all of it three times a second, 40 ms of a writer's time each; what lives is some 25 MB.
 * Six times cost 30 MiB more (bench s11) and gained nothing in latency or rate; twice took an eighth of the rate.
 *
 * What LZ4 hands out is memory of its own allocator, which the engine frees in its own time and by the dozen. Told to give pages
 * back as soon as they are free the allocator holds some 10 MiB; left alone it keeps them for a while, up to 90 (bench s11).
 */
process.env["UV_THREADPOOL_SIZE"] ??= "16";
process.env["MIMALLOC_PURGE_DELAY"] ??= "0";
void import("node:v8").then(({ setFlagsFromString }) => {
  setFlagsFromString("--heap-growing-percent=150");
  return import("./main.ts");
});
