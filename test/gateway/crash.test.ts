/**
 * A gateway process killed without warning: while it receives and applies, and at every step of a failover. What was
 * acknowledged is there afterwards, the images are a prefix of the source's history, and a begun failover is finished
 * at one seal. Faults F10..F14 as far as a kill of the process goes; power loss is the journal's and image's test.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { afterEach, beforeEach, test } from "node:test";
import { parseStandbyDocument } from "../../gateway/state.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { readDocument } from "../../runtime/durable-document.ts";
import { errorCode } from "../../runtime/errors.ts";
import { generator, Source, StandbySite } from "./standby-site.ts";

const seed = Number(process.env["SIM_SEED"] ?? Date.now() % 100_000);
let site: StandbySite;
beforeEach(async () => {
  site = await StandbySite.make();
});
afterEach(async () => site.remove());

test(`killed at random while receiving and applying: nothing acknowledged is lost (SIM_SEED=${seed})`, async () => {
  const random = generator(seed);
  const source = new Source(seed);
  let acknowledged = 0;
  for (let round = 0; round < 4; round += 1) {
    const child = await site.startChild();
    const exited = once(child, "exit");
    await site.hello(source);
    const killAfter = 1 + Math.floor(random() * 25);
    for (let sent = 0; ; sent += 1) {
      if (sent === killAfter) setTimeout(() => child.kill("SIGKILL"), Math.floor(random() * 12));
      try {
        // Answers lost with the process are sent again from what is wanted, as a shipper does.
        const from = source.frames.findIndex((frame) => frame.first > acknowledged);
        const frames = from >= 0 ? source.frames.slice(from) : source.write(4, 3, 64 * 1024);
        const { json } = await site.batch(source, frames);
        if (json.kind === "acknowledged") acknowledged = json.durable;
        else if (json.kind === "wanted") acknowledged = json.sequence - 1;
      } catch (error) {
        assert.notEqual(errorCode(error), "ERR_ASSERTION");
        break;
      }
    }
    await exited;
    await site.client?.destroy();

    await site.start();
    const { json } = await site.hello(source);
    assert.equal(json.kind, "attached");
    assert.ok(json.durable.sequence >= acknowledged, "acknowledged is durable");
    acknowledged = json.durable.sequence;
    let status = site.role!.statuses()[0]!;
    while (status.position.applied < acknowledged) {
      assert.equal(status.reason?.code ?? null, status.reason === null ? null : "OWNER_SILENT");
      await new Promise((resolve) => setTimeout(resolve, 5));
      status = site.role!.statuses()[0]!;
    }
    const index = source.frames.findIndex((frame) => frame.last === acknowledged);
    assert.deepEqual(
      site.images(),
      source.contents[index + 1],
      "the images are the source after that prefix",
    );
    await site.stop();
  }
  assert.ok(acknowledged > 0, "a run that moved nothing proves nothing");
});

test("killed at every step of a failover: finished at the next start, at one seal, or never begun", async () => {
  for (const killAt of ["raise", "seal", "apply", "record", "adopt", "report", "result"]) {
    const source = new Source(5);
    const child = await site.startChild(killAt);
    const exited = once(child, "exit");
    await site.hello(source);
    await site.batch(source, source.write(6));
    child.stdin!.write("run\n");
    await exited;
    await site.client?.destroy();

    await site.start();
    const read = () => readDocument(systemDisk, site.paths.state, parseStandbyDocument);
    let document = await read();
    if (document?.failover == null) {
      // Killed before the token was durable: nothing has happened, the owner goes on.
      assert.ok(["raise", "seal"].includes(killAt), killAt);
      assert.equal((await site.batch(source, source.write(1))).json.kind, "acknowledged");
      await site.failover();
    }
    while (document?.failover?.progress !== "adopted") {
      await new Promise((resolve) => setTimeout(resolve, 5));
      document = await read();
    }
    assert.deepEqual(document.token, { epoch: 2, owner: "dr" }, killAt);
    assert.equal(document.failover.seal?.sequence, source.last, killAt);
    assert.deepEqual(site.images(), source.contents.at(-1), killAt);
    assert.equal((await site.batch(source, source.write(1))).json.kind, "superseded", killAt);
    await site.remove();
    site = await StandbySite.make();
  }
});
