/**
 * F49: the other end answers greetings and heartbeats and takes batches at one byte a second. The owner must neither fill
 * its memory (I10) nor let a writer feel it (I9), must say that the standby falls behind (O11), and must go on by itself
 * when the other end reads again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { seedFromEnvironment } from "../support/seeded.ts";
import { residentBytes } from "../support/sites.ts";
import { until } from "../support/wait.ts";
import { LineRig } from "./line-rig.ts";
import { lineRounds } from "./rounds.ts";
import { pemsOf, TlsMiddle } from "./tls-middle.ts";

const seed = seedFromEnvironment();
/** 48 MiB of batches in flight per link, twice while they are packed, and what a busy process breathes. */
const growthBytesMax = 160 * 1024 * 1024;
const shownWithinMs = 15_000 + 1_500;
/** A batch that nobody takes is given up after 24 s; then it comes again over a new connection. */
const recoveredWithinMs = 60_000;

test(`a gateway that reads a byte a second costs lag, not memory and not latency (F49, SEED=${seed})`, async (t) => {
  let middle: TlsMiddle | undefined;
  const rig = await LineRig.start({
    seed,
    bytesPerSecond: 2e6,
    behindRelay: async (port, folder) => {
      middle = new TlsMiddle(port, pemsOf(folder));
      return middle.listen();
    },
  });
  t.after(async () => {
    await rig.dispose();
    await middle?.close();
  });
  const { sites } = rig.pair;
  const { pid } = sites.child("primary");
  const before = residentBytes(pid);
  rig.resetWorst();
  middle!.slow = true;
  rig.pair.faultsUnderLoad += 1;
  const slowFromMs = performance.now();
  let most = before;
  const shownMs = await until(
    "the owner to show that the standby falls behind",
    async () => {
      const status = await sites.owner("primary");
      most = Math.max(most, residentBytes(pid));
      return status.state === "protected" ? undefined : performance.now() - slowFromMs;
    },
    shownWithinMs,
  );
  const slowMs = lineRounds(12_000, 600_000);
  const { acknowledged } = (await sites.owner("primary")).position;
  await until(
    "the slow time to be over",
    async () => {
      most = Math.max(most, residentBytes(pid));
      await new Promise((resolve) => setTimeout(resolve, 100));
      return performance.now() - slowFromMs > slowMs ? true : undefined;
    },
    slowMs * 2,
  );
  const { position, lag } = await sites.owner("primary");
  assert.equal(position.acknowledged, acknowledged, "invalid run: something still came through");
  assert.ok(lag.writes > 0 && lag.bytes > 0, JSON.stringify(lag));
  assert.ok(middle!.slowed > 0, "invalid run: no batch met the slow reader");
  rig.assertWritesUnfelt(`SEED=${seed} slow reader`);
  assert.ok(most - before < growthBytesMax, `memory grew from ${before} to ${most} bytes`);

  middle!.slow = false;
  const backMs = await rig.advance(1, recoveredWithinMs);
  await until(
    "the lag to return",
    async () => ((await sites.owner("primary")).state === "protected" ? true : undefined),
    recoveredWithinMs,
  );
  const figures = await rig.finish(1);
  t.diagnostic(
    `shown after ${Math.round(shownMs)} ms, ${Math.round(lag.bytes / 1024)} KiB behind after ${slowMs} ms, memory + ${Math.round((most - before) / 1024)} KiB, worst write ${Math.round(rig.worstMs)} ms, back after ${Math.round(backMs)} ms; ${figures}`,
  );
});
