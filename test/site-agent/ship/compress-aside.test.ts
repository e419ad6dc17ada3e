/**
 * Batches packed by the thread: each comes back as its own bytes, packed as LZ4 packs them here, or as it was where it does not
 * shrink; a thread that ends costs the batch it had, and no other.
 */
import assert from "node:assert/strict";
import { extname } from "node:path";
import { test } from "node:test";
import {
  batchHeaderBytes,
  compressDirectly,
  decodeBatchHeader,
  decodeBatchPayload,
  encodeBatch,
} from "../../../protocol/batch.ts";
import { lz4Compress } from "../../../protocol/lz4.ts";
import { ThreadCalls } from "../../../runtime/thread-calls.ts";
import { compressAside, PackQueue } from "../../../site-agent/ship/compress-aside.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { endingByte } from "./ending-byte.ts";
import { MemorySource } from "./memory-source.ts";

/** Alone in its memory, as a batch is; of noise, of text, or of both. */
function someRaw(random: SeededRandom, lengthMax: number): Uint8Array {
  const raw = Buffer.alloc(1 + random.below(lengthMax), `a line of a log, number ${random.below(1e9)}\n`);
  const noise = [0, raw.length, random.below(raw.length)][random.below(3)]!;
  for (let at = 0; at < noise; at += 1) raw[at] = random.below(256);
  const alone = new Uint8Array(raw);
  if (alone[0] === endingByte) alone[0] = 0;
  return alone;
}

function equalBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  assert.equal(Buffer.compare(actual, expected), 0, what);
}

async function checkPacked(raw: Uint8Array, what: string, pack = packLz4): Promise<boolean> {
  const kept = raw.slice();
  const { shrunk, bytes } = await pack(raw);
  const here = lz4Compress(kept);
  assert.equal(shrunk, here.byteLength < kept.byteLength, what);
  equalBytes(bytes, shrunk ? here : kept, what);
  assert.equal(
    bytes.buffer.byteLength,
    bytes.byteLength,
    `${what}: nothing more is held than what is wanted`,
  );
  return shrunk;
}

const packLz4 = (raw: Uint8Array) => compressAside("lz4", raw);

test("several at once come back each as its own bytes, packed as here or as they were", async () => {
  const seed = seedFromEnvironment();
  const random = new SeededRandom(seed);
  let shrunk = 0;
  let rounds = 0;
  for (; rounds < 60; rounds += 1) {
    const count = 1 + random.below(6);
    const length = random.chance(0.2) ? 1024 * 1024 : 20_000;
    const checks = Array.from({ length: count }, (_, index) =>
      checkPacked(someRaw(random, length), `seed ${seed}, round ${rounds}, batch ${index}`),
    );
    for (const did of await Promise.all(checks)) shrunk += did ? 1 : 0;
  }
  assert.ok(shrunk > rounds / 4, `seed ${seed}: some shrank`);
});

test("what was given away cannot be read or changed meanwhile, and the answer is not its memory", async () => {
  const raw = new Uint8Array(10_000).fill(7);
  const packed = compressAside("lz4", raw);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(raw.byteLength, 0);
  assert.equal((await packed).shrunk, true);
  const noise = new Uint8Array(Array.from({ length: 5000 }, (_, at) => (at * 2_654_435_761) >>> 24));
  const same = noise.slice();
  const { shrunk, bytes } = await compressAside("lz4", noise);
  assert.equal(noise.byteLength, 0);
  equalBytes(bytes, shrunk ? lz4Compress(same) : same, "its bytes");
});

test("part of a larger buffer is refused: the rest of it would be gone as well", async () => {
  const whole = new Uint8Array(8192);
  assert.throws(() => new PackQueue(() => assert.fail("no thread")).pack(whole.subarray(1)), {
    code: "ERR_ASSERTION",
  });
  assert.equal(whole.byteLength, 8192);
});

test("a batch made with the thread is the batch made without it, also where it does not shrink", async () => {
  for (const compressible of [true, false]) {
    const source = new MemorySource();
    const random = new SeededRandom(11);
    const noise = () => Uint8Array.from({ length: 4096 }, () => random.below(256));
    source.append(40, 4096, compressible ? undefined : noise);
    const frames = await source.frames(1, 1 << 20);
    for (const codec of ["lz4", "brotli", "none"] as const) {
      const aside = await encodeBatch(frames, source.token, codec, compressAside);
      const direct = await encodeBatch(frames, source.token, codec, compressDirectly);
      equalBytes(aside, direct, codec);
      const header = decodeBatchHeader(aside);
      assert.equal(header.codec, compressible ? codec : "none");
      assert.equal(decodeBatchPayload(header, aside.subarray(batchHeaderBytes)).at(-1)?.last, 40);
    }
  }
});

test("a thread that ends in the middle fails that batch alone, and the next ones have another", async () => {
  const entry = new URL(`./ending-thread${extname(import.meta.url)}`, import.meta.url);
  const seed = seedFromEnvironment();
  const random = new SeededRandom(seed);
  let started = 0;
  const queue = new PackQueue(() => {
    started += 1;
    return new ThreadCalls("ending", entry);
  });
  let ended = 0;
  const checks: Promise<unknown>[] = [];
  for (let index = 0; index < 12; index += 1) {
    const what = `seed ${seed}, batch ${index}`;
    if (index % 4 === 1) {
      ended += 1;
      const raw = new Uint8Array(10_000).fill(endingByte);
      checks.push(assert.rejects(queue.pack(raw), { name: "ThreadFailure", code: "EIO" }, what));
    } else {
      checks.push(checkPacked(someRaw(random, 20_000), what, (raw) => queue.pack(raw)));
    }
  }
  await Promise.all(checks);
  assert.equal(started, ended + 1);
});
