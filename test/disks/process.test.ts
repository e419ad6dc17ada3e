/**
 * F12, F15, F34: the process itself under strain, with the whole product running: told to stop with a thousand requests
 * in flight, killed and started again twenty times, and out of descriptors. No promise is broken, and
 * no start needs a hand.
 */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import type { NbdReply } from "../support/nbd-client.ts";
import { NbdClient } from "../support/nbd-client.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { stampData } from "../support/stamp.ts";
import { requireTools } from "../support/tools.ts";
import { until } from "../support/wait.ts";
import { DiskRig, volumes } from "./rig.ts";

const seed = seedFromEnvironment();
const shutdownErrno = 108;
const exitMsMax = 10_000;

test(`SIGTERM with 1,000 requests in flight: each is answered, refused for shutdown, or cut off (F15, SEED=${seed})`, async (t) => {
  const rig = await DiskRig.start({ seed });
  t.after(() => rig.dispose());
  await rig.spoilt.end();
  await rig.sound.end();
  const { sites } = rig;
  const { record } = rig.spoilt;
  const client = await NbdClient.connect(sites.nbdSocket("primary"), sites.exportOf("data"));
  const random = new SeededRandom(seed, 21);
  const replies: Promise<NbdReply>[] = [];
  for (let at = 0; at < 1_000; at += 1) {
    const length = 4096;
    const offset = random.below(volumes.data / length) * length;
    const mutation = record.begin(0, "write", offset, length, at % 10 === 0);
    const data = stampData(record.seed, mutation.number, 0, offset, length);
    replies.push(
      client.write(offset, data, mutation.fua).then((reply) => {
        if (reply.outcome === "answered") record.answered(mutation);
        else if (reply.outcome === "refused") record.refused(mutation);
        else record.unknown(mutation);
        return reply;
      }),
    );
  }
  await Promise.race(replies);
  const startedMs = performance.now();
  await sites.stop("primary");
  assert.ok(performance.now() - startedMs < exitMsMax + 5_000, "it did not end in time");
  const outcomes = await Promise.all(replies);
  record.settle();
  const count = { answered: 0, refused: 0, unknown: 0 };
  for (const reply of outcomes) {
    count[reply.outcome] += 1;
    if (reply.outcome === "refused") assert.equal(reply.errno, shutdownErrno);
  }
  assert.ok(count.answered > 0, JSON.stringify(count));
  await sites.start("primary");
  await sites.waitServing("primary");
  await rig.spoilt.checkHome("after the stop", "kill");
  assert.match(sites.log("primary"), /"cleanShutdown":true/);
  t.diagnostic(JSON.stringify(count));
  for (const load of [rig.spoilt, rig.sound]) {
    await sites.waitServing("primary", load.group);
    await load.start();
    await load.progress(30);
  }
  t.diagnostic(await rig.finish(true));
});

test(`20 kills in a row, the restarts too: nothing is lost, nothing grows (F12, SEED=${seed})`, async (t) => {
  const rig = await DiskRig.start({ seed });
  t.after(() => rig.dispose());
  const random = new SeededRandom(seed, 22);
  const restarts = Number(process.env["SPLITSITE_RESTARTS"] ?? 20);
  let served = 0;
  for (let restart = 0; restart < restarts; restart += 1) {
    await rig.sites.kill("primary");
    for (const load of [rig.spoilt, rig.sound]) if (load.running) await load.cutOff();
    await rig.sites.start("primary");
    // Most are killed while they recover, some after they have served.
    if (!random.chance(0.25)) continue;
    for (const load of [rig.spoilt, rig.sound]) {
      await rig.sites.waitServing("primary", load.group);
      await load.checkHome(`SEED=${seed} restart ${restart}`, "kill");
      await load.start();
      await load.progress(5);
    }
    served += 1;
  }
  for (const load of [rig.spoilt, rig.sound]) {
    await rig.sites.waitServing("primary", load.group);
    if (!load.running) {
      await load.checkHome("after the last restart", "kill");
      await load.start();
    }
    await load.progress(30);
  }
  const { journal } = await rig.sites.owner("primary");
  assert.ok(journal.bytes < 32 << 20, `the journal grew to ${journal.bytes} bytes`);
  t.diagnostic(`${restarts} restarts, ${served} of them served; ${await rig.finish(true)}`);
});

test(`a crowd does not take the descriptors of journal and images (F34, SEED=${seed})`, {
  skip: requireTools("prlimit"),
}, async (t) => {
  const descriptors = 160;
  const rig = await DiskRig.start({
    seed,
    sites: { launch: (site) => (site === "primary" ? ["prlimit", `--nofile=${descriptors}`] : []) },
  });
  t.after(() => rig.dispose());
  const { path } = rig.sites.nbdSocket("primary");
  const strangers = Array.from({ length: 2 * descriptors }, () => {
    const socket = connect({ path });
    socket.on("error", () => {});
    return socket;
  });
  t.after(() => {
    for (const socket of strangers) socket.destroy();
  });
  await rig.sites.child("primary").waitForOutput(/TOO_MANY_CONNECTIONS/);
  // Who is served already goes on being served, and the operator is answered.
  await rig.spoilt.progress(30);
  await rig.sound.progress(30);
  assert.equal((await rig.sites.owner("primary")).io, "serving");
  for (const socket of strangers) socket.destroy();
  await until("a new client to be served", async () => {
    const client = await NbdClient.connect(rig.sites.nbdSocket("primary"), rig.sites.exportOf("data")).catch(
      () => undefined,
    );
    await client?.close();
    return client === undefined ? undefined : true;
  });
  assert.doesNotMatch(rig.sites.log("primary"), /EMFILE/);
  t.diagnostic(await rig.finish(true));
});
