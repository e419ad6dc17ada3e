/**
 * What an owner may order at its standby beside a scan: to read the before-images through for a verify, and to keep the point
 * that a repair is about to replace. Each is done once for its name, whoever asks how often, and only for the owner.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { chunkBytes, chunkHeadBytes, decodeChunkHead, runBytes } from "../../image/history/chunk.ts";
import { adminRoutes } from "../../protocol/admin.ts";
import { wanRoutes } from "../../protocol/control.ts";
import { parseHistoryCheckAnswer } from "../../protocol/history-check.ts";
import { lineageToText } from "../../protocol/ids.ts";
import { parseStandbyPinAnswer } from "../../protocol/standby-pin.ts";
import type { StandbyStatus } from "../../protocol/status.ts";
import { seedFromEnvironment } from "../support/seeded.ts";
import { until } from "../support/wait.ts";
import { Source, StandbySite, volumes } from "./standby-site.ts";

const seed = seedFromEnvironment();
let site: StandbySite;
let source: Source;
beforeEach(async () => {
  site = await StandbySite.make();
  source = new Source(seed);
  await site.start();
  assert.equal((await site.hello(source)).json.kind, "attached");
  await write();
});
afterEach(async () => site.remove());

async function write(): Promise<void> {
  assert.equal((await site.batch(source, source.write(6))).json.kind, "acknowledged");
  await site.applied(source);
}

async function order(path: string, after: number, token = source.token): Promise<Uint8Array> {
  const ask = { lineage: lineageToText(source.lineage), token, after };
  return Buffer.from(JSON.stringify((await site.send(path, ask)).json));
}

const pin = async (after: number) => parseStandbyPinAnswer(await order(wanRoutes.standbyPin("erp"), after));
const check = async (after: number) =>
  parseHistoryCheckAnswer(await order(wanRoutes.historyCheck("erp"), after));

const checked = (after: number) =>
  until("the before-images to be read", async () => {
    const state = await check(after);
    return state.kind === "done" ? state.record : undefined;
  });

const status = (): StandbyStatus => site.role!.statuses()[0]!;

/** Where the first payload of a segment begins. */
function payloadIn(segment: Buffer): number {
  for (let offset = 0; ; ) {
    const head = decodeChunkHead(segment.subarray(offset));
    if (head.storedBytes > 0) return offset + chunkHeadBytes + head.runs.length * runBytes;
    offset += chunkBytes(head.runs.length, head.storedBytes);
  }
}

test("before-images are read through for a verify, once; damage outlasts a restart, by its ranges", async () => {
  // What was written before is what is kept now.
  for (let count = 0; count < 3; count += 1) await write();
  const sound = await checked(5);
  assert.deepEqual([sound.damagedChunks, sound.damaged], [0, []]);
  assert.ok(sound.chunks > 0 && sound.bytes > 0);
  const path = join(site.paths.history, "segments", "00000001");
  const content = readFileSync(path);
  content[payloadIn(content)]! ^= 1;
  writeFileSync(path, content);
  assert.deepEqual(await checked(5), sound, "the verify of then is told what was true then");
  const damaged = await checked(9);
  assert.equal(damaged.damagedChunks, 1);
  const shown = status().history.check;
  assert.equal(shown?.code, "HISTORY_DAMAGED");
  assert.equal(status().state === "stopped", false, "no reason to stop");
  const names = new Set(volumes.map(({ name }) => name));
  assert.ok(shown.damaged[0]!.ranges.every(({ volume }) => names.has(volume)));
  await site.stop();
  await site.start();
  await until("the images", () => (status().history.check === null ? undefined : true));
  assert.deepEqual(status().history.check, shown);
  assert.deepEqual(await check(9), { kind: "done", record: damaged });
});

test("the point before a repair is pinned once for its verify, up to a bound, and given back by an operator alone", async () => {
  const first = await pin(3);
  assert.deepEqual(first, { kind: "pinned", id: "repair-3", sequence: source.last });
  await write();
  assert.deepEqual(await pin(3), first, "asked again it is the point of then");
  for (let verify = 4; verify <= 10; verify += 1) assert.equal((await pin(verify)).kind, "pinned");
  const full = await pin(11);
  assert.deepEqual([full.kind, full.kind === "refused" ? full.code : ""], ["refused", "PINS_FULL"]);
  const unpinned = await site.admin("POST", adminRoutes.pointUnpin("gateway", "erp"), { pin: "repair-3" });
  assert.equal(unpinned.status, 200);
  assert.equal((await pin(11)).kind, "pinned");
  assert.equal(status().history.pins.length, 8);
});

test("nobody but the owner of now orders anything", async () => {
  const old = { epoch: 1, owner: "dr" };
  for (const path of [wanRoutes.standbyPin("erp"), wanRoutes.historyCheck("erp")]) {
    const answer = JSON.parse(Buffer.from(await order(path, 1, old)).toString()) as { kind?: string };
    assert.ok(answer.kind === undefined || answer.kind === "refused" || answer.kind === "conflict");
  }
  assert.deepEqual([status().history.pins, status().history.check], [[], null]);
});
