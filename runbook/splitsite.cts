#!/usr/bin/env node
/**
 * Entry of the `splitsite` command. It sets the size of Node's thread pool, then loads the program. CommonJS on
 * purpose: an ES module is itself read through the pool, which has its size from its first use on, so in one
 * it would be too late. 16 threads: journal puts, syncs, image writes and reads of a few groups at once; the
 * default of 4 would let one slow fdatasync hold up the others.
 *
 * The heap may grow to six times what is live before it is collected whole. Buffers on their way count as heap, and with V8's
 * own choice a busy agent collected all of it three times a second, 40 ms of a writer's time each; what lives is some 25 MB.
 */
process.env["UV_THREADPOOL_SIZE"] ??= "16";
void import("node:v8").then(({ setFlagsFromString }) => {
  setFlagsFromString("--heap-growing-percent=500");
  return import("./main.ts");
});
