/** A configuration against the table that an owner holds, and a change of it against what the journal has of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { genesisChain } from "../../../protocol/chain.ts";
import { foundingTable } from "../../../protocol/table-volume.ts";
import { errorCode } from "../../../runtime/errors.ts";
import type { AgentGroupState, StateVolume } from "../../../site-agent/group/state.ts";
import { parseAgentGroupState } from "../../../site-agent/group/state.ts";
import type { HeldVolume, WantedVolume } from "../../../site-agent/group/volume-decision.ts";
import { decideVolumes } from "../../../site-agent/group/volume-decision.ts";
import type { VolumeIntent } from "../../../site-agent/group/volume-intent.ts";
import { recordsOf, tableWith } from "../../../site-agent/group/volume-intent.ts";

const names = ["a", "b", "c"];
const sizes = fc.integer({ min: 1, max: 3 }).map((count) => count * 512);

/** A table with holes in its numbers, and a configuration that knows some of its names. */
const cases = fc
  .record({
    held: fc.uniqueArray(fc.constantFrom(...names), { minLength: 1 }),
    wanted: fc.uniqueArray(fc.constantFrom(...names), { minLength: 1 }),
    numbers: fc.uniqueArray(fc.nat(9), { minLength: 3, maxLength: 3 }),
    heldSizes: fc.array(sizes, { minLength: 3, maxLength: 3 }),
    wantedSizes: fc.array(sizes, { minLength: 3, maxLength: 3 }),
    mayAdd: fc.boolean(),
  })
  .map(({ held, wanted, numbers, heldSizes, wantedSizes, mayAdd }) => ({
    held: held.map((name, index): HeldVolume => {
      const sizeBytes = heldSizes[index]!;
      return { number: numbers[index]!, name, sizeBytes, imagePath: `/held/${name}` };
    }),
    wanted: wanted.map((name, index): WantedVolume => {
      return { name, sizeBytes: wantedSizes[index]!, imagePath: `/wanted/${name}` };
    }),
    mayAdd,
  }));

test("what is decided holds every volume at its number, none smaller, and nothing that was not asked for", () => {
  const kinds = new Map<string, number>();
  fc.assert(
    fc.property(cases, ({ held, wanted, mayAdd }) => {
      const decision = decideVolumes(held, wanted, mayAdd);
      kinds.set(decision.kind, (kinds.get(decision.kind) ?? 0) + 1);
      const asked = (name: string) => wanted.find((volume) => volume.name === name);
      const had = (name: string) => held.find((volume) => volume.name === name);
      const removed = held.some(({ name }) => asked(name) === undefined);
      const smaller = held.some(({ name, sizeBytes }) => (asked(name)?.sizeBytes ?? sizeBytes) < sizeBytes);
      const added = wanted.filter(({ name }) => had(name) === undefined);
      const grown = wanted.filter(({ name, sizeBytes }) => sizeBytes > (had(name)?.sizeBytes ?? sizeBytes));
      if (decision.kind === "refused") {
        assert.ok(decision.code !== "VOLUME_REMOVED" || removed);
        assert.ok(decision.code !== "VOLUME_SMALLER" || smaller);
        const left = !removed && !smaller && !mayAdd && added.length > 0 && grown.length === 0;
        assert.ok(removed || smaller || left);
        return;
      }
      assert.ok(!removed && !smaller);
      if (decision.kind === "same") {
        assert.deepEqual([...added, ...grown], []);
        return;
      }
      const taken = mayAdd ? [...grown, ...added] : grown;
      assert.deepEqual(
        new Set(decision.steps.map(({ name }) => name)),
        new Set(taken.map(({ name }) => name)),
      );
      for (const step of decision.steps) {
        assert.equal(step.sizeBytes, asked(step.name)?.sizeBytes);
        assert.equal(step.fromBytes, had(step.name)?.sizeBytes ?? null);
        assert.equal(step.imagePath, (had(step.name) ?? asked(step.name))?.imagePath);
      }
      for (const { number, name, sizeBytes } of held)
        assert.ok(
          decision.table.some(
            (row) => row.number === number && row.name === name && row.sizeBytes >= sizeBytes,
          ),
        );
      assert.equal(new Set(decision.table.map(({ number }) => number)).size, decision.table.length);
      assert.equal(decision.table.length, held.length + (mayAdd ? added.length : 0));
      // What came of it is the same from then on.
      const next = decision.table.map((row) => ({ ...row, imagePath: "/" }));
      assert.equal(decideVolumes(next, wanted, true).kind === "same", mayAdd || added.length === 0);
    }),
    { numRuns: 2_000 },
  );
  assert.equal(kinds.size, 3, "every kind of decision was seen");
});

test("numbers of new volumes follow the order of the file", () => {
  const held = [{ number: 3, name: "a", sizeBytes: 512, imagePath: "/a" }];
  const wanted = ["z", "a", "b"].map((name) => ({ name, sizeBytes: 512, imagePath: `/${name}` }));
  const decision = decideVolumes(held, wanted, true);
  assert.ok(decision.kind === "change");
  assert.deepEqual(
    decision.steps.map(({ name, number }) => [name, number]),
    [
      ["z", 4],
      ["b", 5],
    ],
  );
});

const founding: readonly StateVolume[] = ["a", "b"].map((name, number) => ({
  number,
  name,
  sizeBytes: 1024,
  imagePath: `/${name}`,
  imageIdentity: "file 1 1024",
  foundingBytes: 1024,
  changedAt: 0,
  wholeFrom: 0,
}));

const intent: VolumeIntent = {
  after: 40,
  volumes: [
    { number: 1, name: "b", sizeBytes: 2048, holdsData: false },
    { number: 2, name: "c", sizeBytes: 512, holdsData: false },
    { number: 3, name: "d", sizeBytes: 512, holdsData: true },
  ].map((row) => ({ ...row, imagePath: `/${row.name}`, imageIdentity: `new ${row.name}` })),
};

test("the table follows what the journal has of a change, however much that is", () => {
  const records = recordsOf(intent);
  for (let count = 0; count <= records.length; count += 1) {
    const found = records.slice(0, count).map((record, index) => ({ sequence: 41 + 3 * index, record }));
    for (const hasStandby of [true, false]) {
      const table = tableWith(founding, intent, found, hasStandby);
      const rows = table.map(({ name, sizeBytes, changedAt, wholeFrom, imageIdentity }) => {
        return [name, sizeBytes, changedAt, wholeFrom, imageIdentity];
      });
      const grown = count > 0 ? ["b", 2048, 41, 0, "new b"] : ["b", 1024, 0, 0, "file 1 1024"];
      const added = [
        ["c", 512, 44, 44, "new c"],
        ["d", 512, 47, hasStandby ? null : 47, "new d"],
      ];
      assert.deepEqual(rows, [
        ["a", 1024, 0, 0, "file 1 1024"],
        grown,
        ...added.slice(0, Math.max(0, count - 1)),
      ]);
      // A history's beginning does not change with what became of it.
      const lineage = new Uint8Array(16).fill(7);
      assert.deepEqual(genesisChain(lineage, foundingTable(table)), genesisChain(lineage, founding));
    }
  }
});

test("a record that nobody meant is not taken for one that was", () => {
  const [first, second] = recordsOf(intent);
  const strange = [
    { ...first!, sizeBytes: 4096 },
    { ...first!, name: "x" },
    { ...first!, holdsData: true },
    second!,
  ];
  for (const record of strange) {
    assert.throws(
      () => tableWith(founding, intent, [{ sequence: 41, record }], true),
      (error) => errorCode(error) === "VOLUME_CHANGE_UNKNOWN",
    );
  }
});

test("a document from before tables could change is read as it was meant", () => {
  const state: AgentGroupState = {
    role: "owner",
    lineage: "0b8f3c56-1f2e-4c3a-9d41-5f6a7b8c9d0e",
    token: { epoch: 1, owner: "primary" },
    volumes: founding,
    changing: null,
    paused: null,
    retired: null,
    origin: { sequence: 0, chain: "00".repeat(32), dataBytesTotal: 0, timeMs: 0 },
    history: null,
    between: [],
    initial: "zeroes",
    standby: "dr",
    unflushedMayBeLost: false,
    unflushedAcceptedIn: null,
    fenced: null,
  };
  const { changing: _, ...rest } = state;
  const volumes = founding.map(({ number, name, sizeBytes, imagePath, imageIdentity }) => {
    return { number, name, sizeBytes, imagePath, imageIdentity };
  });
  assert.deepEqual(parseAgentGroupState({ ...rest, volumes }), state);
  const [a] = founding;
  const changed: AgentGroupState = {
    ...state,
    volumes: [
      { ...a!, sizeBytes: 2048, changedAt: 9 },
      { ...founding[1]!, foundingBytes: null, wholeFrom: null },
    ],
    changing: intent,
  };
  assert.deepEqual(parseAgentGroupState(JSON.parse(JSON.stringify(changed))), changed);
});
