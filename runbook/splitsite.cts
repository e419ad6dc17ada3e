#!/usr/bin/env node
/**
 * Entry of the `splitsite` command. It sets the size of Node's thread pool, then loads the program. CommonJS on
 * purpose: an ES module is itself read through the pool, which has its size from its first use on, so in one
 * it would be too late. 16 threads: journal puts, syncs, image writes and reads of a few groups at once; the
 * default of 4 would let one slow fdatasync hold up the others.
 */
process.env["UV_THREADPOOL_SIZE"] ??= "16";
void import("./main.ts");
