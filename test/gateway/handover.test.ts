/** The hand-over record of a sealed standby: what it takes from the document, and what it leaves out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { handoverOf } from "../../gateway/failover/handover.ts";
import { leftOutAt } from "../../gateway/failover/plan.ts";
import type { StandbyDocument, StandbyVolume } from "../../gateway/state.ts";
import { partedAt } from "../../protocol/table-volume.ts";

function volume(number: number, wholeFrom: number | null): StandbyVolume {
  const name = `v${number}`;
  return {
    ...{ number, name, sizeBytes: 4096, foundingBytes: 4096, changedAt: 0, wholeFrom },
    imagePath: `/images/${name}.img`,
  };
}

const seal = { sequence: 9, chain: "ab".repeat(32), dataBytesTotal: 4096, timeMs: 1_000 };
const document: StandbyDocument = {
  version: 1,
  group: "erp",
  lineage: "6f6ae1ee-5ad5-4d4c-9d7c-7a0a31a0a001",
  token: { epoch: 2, owner: "dr" },
  genesis: "cd".repeat(32),
  volumes: [volume(0, 0), volume(1, null), volume(2, 9), volume(3, 10)],
  phase: "standing",
  failover: null,
  retired: null,
  incomplete: null,
};

test("a point holds what is whole at it, and names the rest; a plan and a hand-over part the table alike", () => {
  const { whole, partial } = partedAt(document.volumes, seal.sequence);
  assert.deepEqual(
    [whole, partial].map((rows) => rows.map(({ number }) => number)),
    [
      [0, 2],
      [1, 3],
    ],
  );
  const record = handoverOf(document, seal, "/history");
  assert.deepEqual(record.volumes, whole);
  assert.deepEqual(
    record.leftOut,
    partial.map(({ number, name, sizeBytes }) => ({ number, name, sizeBytes })),
  );
  assert.deepEqual(leftOutAt(document.volumes, seal), ["v1", "v3"]);
  assert.deepEqual(leftOutAt(document.volumes, undefined), []);
});

test("a hand-over is at the seal, with the token that the document honours", () => {
  const { sealed, chain, dataBytesTotal, pointTimeMs, token, lineage, group, history, between } = handoverOf(
    document,
    seal,
    "/history",
  );
  assert.deepEqual({ sequence: sealed, chain, dataBytesTotal, timeMs: pointTimeMs }, seal);
  assert.deepEqual(
    { token, lineage, group },
    { token: document.token, lineage: document.lineage, group: "erp" },
  );
  assert.equal(history, "/history");
  assert.deepEqual(between, []);
});
