/**
 * `make soak-overflow`: a journal of 16 MiB, the standby gone, and a GiB written over 256 MiB at random, while the agent is
 * killed again and again; then the line is back. No write may be refused, nothing answered may be lost, the resync must bring
 * what differs and little else. Then takeovers at random moments of a resync, each of which must open exactly what the
 * standby held before the gap and state a true loss. Ends with 0 only when all of it holds.
 */
import { strict as assert } from "node:assert";
import { randomFillSync } from "node:crypto";
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import type { OwnerStatus } from "../../protocol/status.ts";
import { noteEvidence } from "../support/evidence.ts";
import type { NbdClient } from "../support/nbd-client.ts";
import { NotedWriter } from "../support/noted-writer.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "20" },
    failovers: { type: "string", default: "20" },
    mebibytes: { type: "string", default: "1024" },
    seed: { type: "string" },
  },
});
const kills = Number(values.kills);
const failovers = Number(values.failovers);
const seed = values.seed === undefined ? seedFromEnvironment() : Number(values.seed);
const mebibyte = 2 ** 20;
const toWrite = Number(values.mebibytes) * mebibyte;
if (!(kills >= 0) || !(failovers >= 0) || !(toWrite > 0) || !Number.isInteger(seed)) {
  console.error("--kills, --failovers and --mebibytes must be numbers, --seed a whole number");
  process.exit(2);
}
const logBytes = "16MiB";
const blockBytes = 4_096;
const sizeBytes = 256 * mebibyte;
/** Below it the journal has room for all of it: what a write takes before an overflow. */
const beforeOverflowBytes = 8 * mebibyte;
const resyncMsMax = 10 * 60_000;

console.log(
  `${toWrite / mebibyte} MiB over a journal of ${logBytes}, ${kills} kills, ${failovers} failovers, seed ${seed}`,
);
await overwrite();
for (let count = 1; count <= failovers; count += 1) await takeOver(count);
noteEvidence("overflows", {
  "MiB written": toWrite / mebibyte,
  kills,
  failovers,
  "writes refused": 0,
  "durable writes lost": 0,
  "states not a prefix": 0,
});
console.log("all of it holds");

async function overwrite(): Promise<void> {
  const random = new SeededRandom(seed, 61);
  const sites = await TwoSites.create({ volumes: { data: sizeBytes }, logBytes });
  try {
    await Promise.all([sites.start("dr"), sites.start("primary")]);
    await sites.waitServing("primary");
    const content = Buffer.alloc(sizeBytes);
    const touched = new Set<number>();
    const beforeMs: number[] = [];
    const duringMs: number[] = [];
    let client = await connect(sites);
    await sites.stop("dr");
    const moments = Array.from({ length: kills }, () => beforeOverflowBytes + random.below(toWrite)).sort(
      (a, b) => a - b,
    );
    let written = 0;
    let writes = 0;
    while (written < toWrite) {
      const data = Buffer.alloc((1 + random.below(16)) * blockBytes);
      randomFillSync(data);
      const offset = random.below((sizeBytes - data.length) / blockBytes) * blockBytes;
      const fromMs = performance.now();
      const reply = client.write(offset, data);
      const isKilled = moments[0] !== undefined && written >= moments[0];
      if (isKilled) {
        moments.shift();
        await sites.kill("primary");
      }
      const { outcome } = await reply;
      if (outcome === "answered") {
        (written < beforeOverflowBytes ? beforeMs : duringMs).push(performance.now() - fromMs);
      } else {
        assert.ok(isKilled, `a write was not answered: ${outcome}`);
      }
      if (isKilled) {
        await sites.start("primary");
        await sites.waitServing("primary");
        client = await connect(sites);
        // It may have been taken although nobody was told; written again, it is.
        if (outcome !== "answered") assert.equal((await client.write(offset, data)).outcome, "answered");
        await requireContent(client, content, offset, data);
      }
      data.copy(content, offset);
      for (let at = offset; at < offset + data.length; at += blockBytes) touched.add(at / blockBytes);
      written += data.length;
      writes += 1;
    }
    const full = await sites.owner("primary");
    assert.equal(full.io, "serving");
    assert.equal(full.overflow?.state, "dropping");
    const wireBefore = full.link.wireBytes;
    await sites.start("dr");
    const whole = await until(
      "the standby to be whole",
      async () => {
        const owner = await sites.owner("primary");
        return owner.state === "protected" ? owner : undefined;
      },
      resyncMsMax,
    );
    await sites.waitIdle("primary", "dr", 120_000);
    const standby = await readFile(await sites.standbyImage("dr", "data"));
    assert.ok(standby.equals(content), "the standby's image is what was written");
    const shipped = whole.link.wireBytes - wireBefore;
    const differing = touched.size * blockBytes;
    console.log(
      `${writes} writes, none refused, ${kills} kills, nothing lost; p50 ${median(beforeMs).toFixed(2)} ms before, ` +
        `${median(duringMs).toFixed(2)} ms while it overflowed (${(median(duringMs) / median(beforeMs)).toFixed(2)} x); ` +
        `the resync put ${(shipped / mebibyte).toFixed(0)} MiB on the line for ${(differing / mebibyte).toFixed(0)} MiB that differed`,
    );
    // Digests of 256 MiB, heads, and the journal's own 16 MiB, which travel as they are.
    assert.ok(shipped < differing * 1.05 + 32 * mebibyte, `${shipped} for ${differing}`);
  } finally {
    await sites.dispose();
  }
}

/** Everything but the range just being written is as it was answered; that range is old or new. */
async function requireContent(
  client: NbdClient,
  content: Buffer,
  offset: number,
  data: Buffer,
): Promise<void> {
  for (let at = 0; at < sizeBytes; at += mebibyte) {
    const reply = await client.read(at, mebibyte);
    assert.ok(reply.outcome === "answered");
    const wanted = Buffer.from(content.subarray(at, at + mebibyte));
    const from = Math.max(at, offset);
    const to = Math.min(at + mebibyte, offset + data.length);
    if (from < to) data.copy(wanted, from - at, from - offset, to - offset);
    assert.ok(wanted.equals(reply.data), `what was answered is there, MiB ${at / mebibyte}`);
  }
}

/** A resync on a slow line, the primary lost in its midst: the last point before the gap, and all that is behind it stated. */
async function takeOver(count: number): Promise<void> {
  const random = new SeededRandom(seed, 1_000 + count);
  const size = 32 * mebibyte;
  const sites = await TwoSites.create({ volumes: { data: size }, logBytes, limit: "32Mbit/s" });
  try {
    await Promise.all([sites.start("dr"), sites.start("primary")]);
    await sites.waitServing("primary");
    const writer = new NotedWriter(random, await connect(sites), size);
    await writer.write(mebibyte);
    const held = await sites.waitIdle("primary", "dr");
    assert.equal(held, writer.writes.length);
    const heldBytes = writer.bytes;
    await sites.kill("dr");
    await writer.write(40 * mebibyte);
    await sites.start("dr");
    const behind = random.fraction() * 0.9;
    await until(
      `the resync to be at ${behind}`,
      async () => {
        const { scan } = await sites.owner("primary");
        if (scan?.purpose !== "resync") return undefined;
        return scan.doneBytes + scan.contentBytes >= behind * scan.totalBytes ? true : undefined;
      },
      120_000,
    );
    const owner: OwnerStatus = await sites.owner("primary");
    assert.notEqual(owner.state, "protected");
    await sites.kill("primary");
    const result = await sites.failover("dr");
    assert.equal(result.point.sequence, held, "the last point before the gap");
    const lost = writer.bytes - heldBytes;
    // The owner was heard after its last write, so what is stated is all of it.
    assert.equal(result.loss.bytesMin, lost, "the loss stated is the true one");
    await sites.waitServing("dr");
    const [clients] = await sites.connect("dr");
    const wanted = writer.contentAfter(held);
    for (let at = 0; at < size; at += mebibyte) {
      const reply = await clients![0]!.read(at, mebibyte);
      assert.ok(reply.outcome === "answered");
      assert.ok(
        wanted.subarray(at, at + mebibyte).equals(reply.data),
        `MiB ${at / mebibyte} of the pinned point`,
      );
    }
    console.log(
      `failover ${count} at ${(behind * 100).toFixed(0)} % of the resync: point ${held}, ${lost} bytes lost, as stated`,
    );
  } finally {
    await sites.dispose();
  }
}

async function connect(sites: TwoSites): Promise<NbdClient> {
  const [clients] = await sites.connect("primary");
  return clients![0]!;
}

function median(figures: readonly number[]): number {
  return figures.toSorted((a, b) => a - b)[Math.floor(figures.length / 2)] ?? Number.NaN;
}
