/**
 * F46: bytes change on the way. Above TLS (a broken middlebox, bad memory) the batch's own checks refuse every single
 * change and not a byte of it is stored; the same batch unharmed is then taken. Below TLS the connection ends. O4: home
 * and standby are the same at the end.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { encodeBatch } from "../../protocol/batch.ts";
import { wanRoutes } from "../../protocol/control.ts";
import { Source, StandbySite } from "../gateway/standby-site.ts";
import { noteEvidence } from "../support/evidence.ts";
import { ExpectedRecord } from "../support/expected.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import type { Relay } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { TwoSites } from "../support/sites.ts";
import { imageFile, readGroup } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import { enoughWork, runWorkload, workWanted } from "../support/workload.ts";
import { lineRounds } from "./rounds.ts";
import { pemsOf, TlsMiddle } from "./tls-middle.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;

test(`no changed batch is taken, whatever the codec and wherever the change (F46, SEED=${seed})`, async (t) => {
  const site = await StandbySite.make();
  t.after(() => site.remove());
  await site.start();
  const source = new Source(seed, true);
  await site.hello(source);
  const random = new SeededRandom(seed, 1);
  const path = wanRoutes.batches("erp");
  const flips = lineRounds(510, 100_000);
  const codes = new Map<string, number>();
  let sent = 0;
  for (const codec of ["none", "lz4", "brotli"] as const) {
    const good = await encodeBatch(source.write(3), source.token, codec);
    const before = site.images();
    const { position } = site.role!.statuses()[0]!;
    // What a sector held is what the next batch is judged against: the applied state of the codec before.
    assert.equal(position.applied, position.received);
    for (let flip = 0; flip < Math.ceil(flips / 3); flip += 1) {
      const changed = Buffer.from(good);
      const kind = random.below(10);
      const at = random.below(good.length);
      if (kind < 6) changed[at]! ^= 1 << random.below(8);
      else if (kind < 8) changed[at]! ^= 1 + random.below(255);
      else {
        const end = Math.min(good.length, at + 1 + random.below(64));
        const run = changed.subarray(at, end);
        if (kind === 8) run.fill(changed[at]! ^ 0xff);
        else run.reverse();
        if (changed.equals(good)) continue;
      }
      const reply = await site.send(path, changed);
      sent += 1;
      const id = reply.status === 200 ? `${reply.json.kind}` : reply.json.id;
      codes.set(id, (codes.get(id) ?? 0) + 1);
      const context = `SEED=${seed} ${codec} ${kind} at ${at}: ${JSON.stringify(reply)}`;
      assert.equal(reply.status, 400, context);
      assert.deepEqual(site.role!.statuses()[0]!.position, position, context);
    }
    assert.deepEqual(site.images(), before, `SEED=${seed} ${codec}: a changed batch changed the standby`);
    assert.equal((await site.send(path, good)).json.kind, "acknowledged");
    await site.applied(source);
    assert.deepEqual(site.images(), source.contents.at(-1));
  }
  t.diagnostic(`${sent} changed batches, 0 taken: ${JSON.stringify(Object.fromEntries(codes))}`);
  assert.ok(sent >= flips * 0.9, `invalid run: only ${sent} changes were sent`);
  noteEvidence("corruptions", { injected: sent, found: sent, undetected: 0 });
});

test(`a sender whose batches and connections are damaged ends with both sites the same (F46, SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 2);
  let middle: TlsMiddle | undefined;
  let relay: Relay | undefined;
  let below = false;
  const sizes = [8 * mebibyte, 2 * mebibyte];
  const sites = await TwoSites.create({
    volumes: { data: sizes[0]!, log: sizes[1]! },
    line: async (port, folder) => {
      middle = new TlsMiddle(port, pemsOf(folder));
      const clear = await middle.listen();
      relay = await startRelay({
        listenPort: 0,
        target: { host: "127.0.0.1", port: clear },
        fate: () =>
          below
            ? {
                flip: {
                  direction: random.chance(0.7) ? "up" : "down",
                  // Handshake, request or body: about 3 KB are the handshake's.
                  atByte: random.below(random.chance(0.5) ? 4_000 : 60_000),
                  bit: random.below(8),
                },
              }
            : undefined,
      });
      return relay.port;
    },
  });
  t.after(async () => {
    await sites.dispose();
    await relay?.close();
    await middle?.close();
  });
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const record = new ExpectedRecord(seed, sizes);
  const clients = await sites.connect("primary", 2);
  const stop = new AbortController();
  const load = runWorkload({ record, clients, depth: 8, bytesPerSecond: 3e6, signal: stop.signal });

  const changesWanted = lineRounds(12, 2_000);
  const clearRandom = new SeededRandom(seed, 3);
  middle!.treat = ({ body }, number) => {
    if (number % 4 !== 0 || middle!.done.replace >= changesWanted) return { kind: "pass" };
    const changed = Buffer.from(body);
    changed[clearRandom.below(body.length)]! ^= 1 << clearRandom.below(8);
    return { kind: "replace", body: changed };
  };
  await until(
    "enough changed batches",
    () => (middle!.done.replace >= changesWanted ? true : undefined),
    120_000,
  );
  for (const reply of middle!.replacedReplies) {
    assert.equal(reply.status, 400, `SEED=${seed}: ${reply.body.toString()}`);
  }

  below = true;
  relay!.resetAll();
  const flipsWanted = lineRounds(10, 1_000);
  await until(
    "enough turned bits below TLS",
    () => {
      // A connection whose byte never comes goes on unharmed: another gets its chance.
      if (relay!.counters.flips >= flipsWanted) return true;
      return undefined;
    },
    120_000,
  );
  below = false;
  relay!.resetAll();
  const acknowledged = (await sites.owner("primary")).position.acknowledged;
  await enoughWork(record);
  stop.abort();
  const result = await load;
  assert.equal(result.refused + result.unknown, 0, JSON.stringify(result));
  for (const client of clients.flat()) await client.close();
  const sequence = await sites.waitIdle("primary", "dr");

  const images = [];
  for (const [index, { name, sizeBytes }] of sites.volumes.entries()) {
    const standby = await sites.standbyImage("dr", name);
    images.push(imageFile(standby, sizeBytes));
    await until(`volume ${index} to be the same at home`, async () =>
      readFileSync(standby).equals(readFileSync(await sites.homeImage("primary", name))) ? true : undefined,
    );
  }
  const verdict = judgePrefix({
    record,
    state: await readGroup(images, seed),
    required: ({ outcome }) => outcome === "answered",
    sequence,
  });
  assert.ok(verdict.consistent, `SEED=${seed}: ${JSON.stringify(verdict)}`);
  const figures = `${middle!.done.replace} batches changed, ${relay!.counters.flips} bits turned below TLS, ${record.count("answered")} answered, ${record.flushes} flushes`;
  t.diagnostic(figures);
  assert.ok(
    record.count("answered") >= workWanted.writes && record.flushes >= workWanted.flushes,
    `invalid run, too little work: ${figures}`,
  );
  assert.ok(sequence > acknowledged, `invalid run, nothing came after the last fault: ${figures}`);
  const injected = middle!.done.replace + relay!.counters.flips;
  noteEvidence("corruptions", { injected, found: injected, undetected: 0 });
});
