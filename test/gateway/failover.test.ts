/**
 * Forced failover end to end on a real gateway: what it states, what it refuses, what a crash at any step leaves, and
 * that the old owner gets nothing in afterwards. Invariants X1..X10 of docs/failover-spec.md; faults F63 F66 F69.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";
import { parseStandbyDocument, type StandbyDocument } from "../../gateway/state.ts";
import { encodeBatch } from "../../protocol/batch.ts";
import { wanRoutes } from "../../protocol/control.ts";
import { parseHandoverRecord } from "../../protocol/handover.ts";
import { bytesToHex } from "../../protocol/ids.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { until } from "../support/wait.ts";
import { Source, StandbySite } from "./standby-site.ts";

let site: StandbySite;
let source: Source;
beforeEach(async () => {
  site = await StandbySite.make();
  source = new Source(21);
  await site.start();
});
afterEach(async () => site.remove());

const stateOf = async (): Promise<StandbyDocument> =>
  (await readDocument(systemDisk, site.paths.state, parseStandbyDocument))!;
// biome-ignore lint/suspicious/noExplicitAny: a plan is looked at field by field.
const plan = async (): Promise<any> => {
  const answer = await site.admin("GET", "/v1/groups/erp/failover/plan");
  return "json" in answer ? answer.json : undefined;
};

/** A standby that has received, and an owner that has answered more than that. */
async function protectedGroup(): Promise<void> {
  await site.hello(source);
  await site.batch(source, source.write(8));
  await site.applied(source);
  await site.batch(source, source.write(4));
}

test("failover takes over at everything acknowledged, states the loss, hands over and fences (X1, X2, F63)", async () => {
  await protectedGroup();
  const taken = source.last;
  const chain = bytesToHex(source.chain);
  const contents = source.contents.at(-1);
  source.write(3);
  await site.heartbeat(source);
  const planned = await plan();
  assert.deepEqual(
    [planned.epoch, planned.nextEpoch, planned.oldOwner, planned.newOwner],
    [1, 2, "primary", "dr"],
  );
  assert.equal(planned.checks.find((check: { id: string }) => check.id === "OWNER_ALIVE").outcome, "warn");
  const lines = await site.failover();
  const { result } = lines.at(-1);
  assert.equal(lines.at(-1).type, "result");
  assert.deepEqual([result.epoch, result.point.sequence], [2, taken]);
  assert.equal(result.loss.known, "unknown");
  assert.equal(result.loss.writesMin, source.last - taken);
  assert.ok(result.loss.bytesMin > 0 && result.loss.since !== null);
  assert.deepEqual(
    result.exports.map((each: { volume: string }) => each.volume),
    ["data", "log"],
  );
  const steps = lines.filter((line) => line.type === "progress").map((line) => line.step);
  assert.deepEqual([...new Set(steps)], ["raise", "seal", "apply", "record", "adopt", "report"]);

  const record = (await readDocument(systemDisk, site.paths.handover, parseHandoverRecord))!;
  assert.deepEqual([record.sealed, record.chain, record.token], [taken, chain, { epoch: 2, owner: "dr" }]);
  assert.deepEqual(site.agent.adopted, [record]);
  assert.deepEqual(site.images(), contents);
  const evidence = JSON.parse(readFileSync(result.evidence, "utf8")).document;
  assert.deepEqual(
    [evidence.result.point, evidence.fenced, evidence.reason],
    [result.point, { epoch: 1, owner: "primary" }, "test"],
  );

  const token = { epoch: 2, owner: "dr" };
  const superseded = { kind: "superseded", token };
  assert.deepEqual((await site.hello(source)).json, superseded);
  assert.deepEqual((await site.heartbeat(source)).json, superseded);
  assert.deepEqual((await site.batch(source, source.frames.slice(-3))).json, superseded);
  assert.equal((await site.hello(source, { token: { epoch: 2, owner: "primary" } })).json.kind, "conflict");
  assert.deepEqual((await site.send(wanRoutes.group("erp"), undefined)).json.token, token);
  const status = site.role!.statuses()[0]!;
  assert.deepEqual([status.state, status.epoch, status.owner], ["fenced", 2, "dr"]);
  await site.stop();
  await site.start();
  assert.deepEqual((await site.batch(source, source.frames.slice(-3))).json, superseded);
  assert.equal(site.agent.adopted.length, 1);
});

test("refused with a code and nothing changed: unknown, empty, without an agent, run twice (X6, F62, F69)", async () => {
  await assert.rejects(site.failover(), { code: "STANDBY_UNKNOWN", reaction: "refuse" });
  await site.hello(source);
  assert.equal((await plan()).point, null);
  await assert.rejects(site.failover(), { code: "NOT_CONSISTENT" });
  await site.batch(source, source.write(2));
  await site.stop();
  site.withAgent = false;
  await site.start();
  await assert.rejects(site.failover(), { code: "AGENT_MISSING" });
  assert.deepEqual((await stateOf()).token, { epoch: 1, owner: "primary" });
  assert.equal((await site.batch(source, source.write(1))).json.kind, "acknowledged");
  await site.stop();
  site.withAgent = true;
  await site.start();
  await site.failover();
  await assert.rejects(site.failover(), { code: "FAILOVER_DONE" });
  assert.equal((await stateOf()).token.epoch, 2);
});

test("a second run while one is under way is refused, and the first is not disturbed (X5)", async () => {
  await protectedGroup();
  const first = await site.admin("POST", "/v1/groups/erp/failover/run", { reason: "first" });
  await assert.rejects(site.failover(), { code: "FAILOVER_RUNNING" });
  let last: unknown;
  // biome-ignore lint/suspicious/noExplicitAny: lines are looked at field by field.
  if ("lines" in first) for await (const line of first.lines) last = (line as any).type;
  assert.equal(last, "result");
});

test("an agent that cannot adopt leaves a fenced, resumable failover; the same point is handed over (X4, X7)", async () => {
  await protectedGroup();
  site.agent.fail = new Error("no");
  const lines = await site.failover();
  assert.deepEqual([lines.at(-1).type, lines.at(-1).code], ["error", 8]);
  const before = (await stateOf()).failover;
  assert.equal(before?.progress, "handed-over");
  assert.equal((await site.batch(source, source.write(1))).json.kind, "superseded");
  site.agent.fail = undefined;
  const { result } = (await site.failover()).at(-1);
  assert.equal(result.point.sequence, before?.seal?.sequence);
  assert.equal((await stateOf()).failover?.progress, "adopted");
});

test("a crash after any durable step is finished at the next start, once, at the same seal (X4, X8)", async () => {
  await protectedGroup();
  await site.applied(source);
  await site.stop();
  const standing = await stateOf();
  const failover = {
    previous: standing.token,
    reason: "crash",
    startedAtMs: 1,
    heard: { atMs: 1_700_000_000_000, answered: source.last + 5, dataBytesTotal: 1e9 },
  };
  const token = { epoch: 2, owner: "dr" };
  const seal = {
    sequence: source.last,
    chain: bytesToHex(source.chain),
    dataBytesTotal: source.frames.at(-1)!.dataBytesTotal,
    timeMs: source.frames.at(-1)!.closedAtMs,
  };
  const record = {
    group: "erp",
    lineage: standing.lineage,
    token,
    sealed: seal.sequence,
    chain: seal.chain,
    dataBytesTotal: seal.dataBytesTotal,
    pointTimeMs: seal.timeMs,
    volumes: standing.volumes,
    leftOut: [],
    history: site.paths.history,
    between: [],
  };
  const cases = [
    { progress: "fenced", seal: null, handover: false },
    { progress: "sealed", seal, handover: false },
    { progress: "sealed", seal, handover: true },
    { progress: "handed-over", seal, handover: true },
  ] as const;
  for (const { progress, seal: known, handover } of cases) {
    await writeDocument(systemDisk, site.paths.state, {
      ...standing,
      token,
      failover: { ...failover, progress, seal: known },
    });
    rmSync(site.paths.handover, { force: true });
    if (handover) await writeDocument(systemDisk, site.paths.handover, record);
    site.agent.adopted.length = 0;
    await site.start();
    while ((await stateOf()).failover?.progress !== "adopted")
      await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(site.agent.adopted, [record], `${progress} ${handover}`);
    const evidence = JSON.parse(
      readFileSync(`${site.dataDir}/evidence/failover-erp-2.json`, "utf8"),
    ).document;
    assert.deepEqual([evidence.reason, evidence.result.loss.writesMin], ["crash", 5]);
    assert.deepEqual((await site.batch(source, source.frames.slice(-1))).json.kind, "superseded");
    // The document says so a moment before the run that wrote it has ended.
    await until("the end of the run", async () => {
      const refusal = (await site.failover().catch((error: unknown) => error)) as { code?: string };
      return refusal.code === "FAILOVER_RUNNING" ? undefined : refusal;
    }).then((refusal) => assert.equal(refusal.code, "FAILOVER_DONE"));
    await site.stop();
  }
  assert.deepEqual(site.images(), source.contents.at(-1));
});

test("a batch on its way while the token rises is either inside the seal or never acknowledged (X1, X2)", async () => {
  await site.hello(source);
  await site.batch(source, source.write(2));
  const batches = Array.from({ length: 12 }, () => source.write(2));
  const encoded = await Promise.all(batches.map((frames) => encodeBatch(frames, source.token, "lz4")));
  const answers = Promise.all(encoded.map((bytes) => site.send(wanRoutes.batches("erp"), bytes)));
  const lines = await site.failover();
  assert.equal(lines.at(-1).type, "result", JSON.stringify(lines.at(-1)));
  const sealed = lines.at(-1).result.point.sequence;
  for (const [index, { json }] of (await answers).entries()) {
    if (json.kind === "acknowledged")
      assert.ok(json.durable <= sealed && batches[index]!.at(-1)!.last <= sealed);
    else assert.ok(["superseded", "wanted", "busy"].includes(json.kind), json.kind);
  }
  assert.equal((await stateOf()).failover?.seal?.sequence, sealed);
});

test("after a restart the loss is stated since the persisted contact; never heard, it says so", async () => {
  await site.hello(source);
  await site.batch(source, source.write(2));
  assert.equal((await plan()).loss.since, null);
  source.write(2);
  await site.heartbeat(source);
  const heard = (await plan()).loss;
  assert.deepEqual([heard.known, heard.writesMin], ["unknown", 6]);
  await site.stop();
  await site.start();
  assert.deepEqual((await plan()).loss, heard);
  assert.equal(site.role!.statuses()[0]!.state, "at-risk");
});

test("a damaged document stops the group, keeps it known, and does not stop the gateway", async () => {
  await protectedGroup();
  await site.stop();
  const { writeFileSync } = await import("node:fs");
  const text = readFileSync(site.paths.state, "utf8");
  writeFileSync(site.paths.state, text.replace('"epoch": 1', '"epoch": 2'));
  await site.start();
  const status = site.role!.statuses()[0]!;
  assert.deepEqual([status.state, status.reason?.code], ["stopped", "DOCUMENT_DAMAGED"]);
  assert.equal((await site.send(wanRoutes.group("erp"), undefined)).json.known, true);
  assert.equal((await site.hello(source)).json.code, "DOCUMENT_DAMAGED");
  await assert.rejects(site.failover(), { reaction: "refuse" });
  assert.ok(existsSync(site.paths.intake));
});
