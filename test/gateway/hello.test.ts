/** Greetings whose tables differ: a standby may be behind its owner's table and its configuration ahead; all else is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { disputeIn, type HelloFacts, judgeHello, judgeWanted } from "../../gateway/hello.ts";
import { retiredRefusal } from "../../gateway/retire.ts";
import type { StandbyDocument } from "../../gateway/state.ts";
import { genesisChain } from "../../protocol/chain.ts";
import type { Hello, HelloAnswer } from "../../protocol/control.ts";
import { bytesToHex, lineageFromText, type VolumeEntry } from "../../protocol/ids.ts";
import { foundingVolume } from "../../protocol/table-volume.ts";

const lineage = "0b8f3c56-1f2e-4c3a-9d41-5f6a7b8c9d0e";
const token = { epoch: 1, owner: "primary" };
const genesisOf = (table: readonly VolumeEntry[]): string =>
  bytesToHex(genesisChain(lineageFromText(lineage)!, table));
const volume = (number: number, name: string, sizeBytes: number): VolumeEntry => ({
  number,
  name,
  sizeBytes,
});
const founding = [volume(0, "data", 4096), volume(1, "log", 4096)];
const chain = new Uint8Array(32).fill(3);

function documentOf(held: readonly VolumeEntry[]): StandbyDocument {
  return {
    version: 1,
    group: "erp",
    lineage,
    token,
    genesis: genesisOf(founding),
    volumes: held.map((entry) => ({ ...foundingVolume(entry), imagePath: `/srv/${entry.name}.img` })),
    phase: "standing",
    failover: null,
    retired: null,
    incomplete: null,
  };
}

function factsOf(change: {
  readonly offered?: readonly VolumeEntry[];
  readonly held?: readonly VolumeEntry[];
  readonly configured?: readonly VolumeEntry[];
  readonly hello?: Partial<Hello>;
  readonly isNew?: boolean;
}): HelloFacts {
  const { offered = founding, held = founding, configured = offered, hello = {}, isNew = false } = change;
  return {
    hello: {
      lineage,
      token,
      volumes: offered,
      founding,
      durable: { sequence: 9, chain: bytesToHex(chain) },
      genesis: genesisOf(founding),
      create: true,
      ...hello,
    },
    configured,
    document: isNew ? undefined : documentOf(held),
    held: isNew ? undefined : held.map(foundingVolume),
    ownedHere: false,
    durable: { sequence: 7, chain },
    applied: 5,
    lacks: undefined,
  };
}

function verdict(facts: HelloFacts): string {
  const judged = judgeHello(facts);
  if (judged.kind === "create") return "create";
  return judged.answer.kind === "refused" ? judged.answer.code : judged.answer.kind;
}

const grown = [volume(0, "data", 8192), volume(1, "log", 4096)];
const added = [...founding, volume(2, "index", 4096)];

test("a standby that is behind the owner's table attaches: the changes are still to come", () => {
  assert.equal(verdict(factsOf({})), "attached");
  assert.equal(verdict(factsOf({ offered: grown })), "attached");
  assert.equal(verdict(factsOf({ offered: added })), "attached");
});

test("a standby that is ahead of the owner's table refuses: no record takes a volume away, or anything of one", () => {
  const configured = [volume(0, "data", 8192), volume(1, "log", 4096), volume(2, "index", 4096)];
  assert.equal(verdict(factsOf({ held: grown, configured })), "VOLUME_SIZE");
  assert.equal(verdict(factsOf({ held: added, configured })), "VOLUME_TABLE");
  const renamed = [volume(0, "data", 4096), volume(1, "wal", 4096)];
  assert.equal(verdict(factsOf({ offered: renamed, hello: { founding: renamed } })), "VOLUME_TABLE");
  const swapped = [volume(1, "data", 4096), volume(0, "log", 4096)];
  assert.equal(verdict(factsOf({ offered: swapped })), "VOLUME_TABLE");
});

test("what was received counts as held, before it is applied", () => {
  const facts = factsOf({ offered: founding, configured: added });
  assert.equal(verdict({ ...facts, held: added.map(foundingVolume) }), "VOLUME_TABLE");
  // Nothing is open: the document speaks.
  assert.equal(verdict({ ...facts, held: undefined }), "attached");
});

test("the answer names what is not whole, from what was received", () => {
  const facts = factsOf({ offered: added, held: added });
  const partialOf = (held: HelloFacts["held"]) => {
    const judged = judgeHello({ ...facts, held });
    assert.ok(judged.kind === "answer" && judged.answer.kind === "attached");
    return judged.answer.partial;
  };
  const [data, log, index] = added.map(foundingVolume);
  assert.equal(partialOf([data!, log!, index!]), undefined);
  assert.deepEqual(partialOf([data!, log!, { ...index!, changedAt: 5, wholeFrom: null }]), [2]);
});

test("the configuration must cover what is offered, and may be ahead of it", () => {
  const ahead = [...grown, volume(7, "later", 512)];
  assert.equal(verdict(factsOf({ configured: ahead })), "attached");
  assert.equal(verdict(factsOf({ configured: ahead, isNew: true })), "create");
  for (const isNew of [false, true]) {
    assert.equal(verdict(factsOf({ offered: grown, configured: founding, isNew })), "VOLUME_SIZE");
    assert.equal(verdict(factsOf({ offered: added, configured: founding, isNew })), "VOLUME_TABLE");
  }
});

test("genesis follows from the founding table, which must be the one that is held, and be offered still", () => {
  assert.equal(verdict(factsOf({ offered: added, hello: { genesis: genesisOf(added) } })), "GENESIS");
  // Consistent in itself, and of another beginning than the history that is held.
  const other = { founding: added, genesis: genesisOf(added) };
  assert.equal(verdict(factsOf({ offered: added, hello: other })), "GENESIS");
  assert.equal(verdict(factsOf({ offered: added, hello: other, isNew: true })), "create");
  const missing = factsOf({ offered: founding.slice(1), configured: founding, isNew: true });
  assert.equal(verdict(missing), "VOLUME_TABLE");
  // An owner from before there were changes says nothing of it.
  const { founding: _, ...hello } = factsOf({}).hello;
  assert.equal(verdict({ ...factsOf({}), hello }), "attached");
  assert.equal(verdict({ ...factsOf({ offered: grown }), hello: { ...hello, volumes: grown } }), "GENESIS");
});

test("a wanted table is ready where names and exactly these sizes are configured", () => {
  const wantedOf = (wanted: readonly VolumeEntry[], configured: readonly VolumeEntry[], held = founding) => {
    const answer = judgeWanted(wanted, configured, held);
    return answer === "ready" ? answer : answer.code;
  };
  const both = [volume(0, "data", 8192), volume(1, "log", 4096), volume(2, "index", 4096)];
  assert.equal(wantedOf(both, both), "ready");
  assert.equal(wantedOf(both, [...both, volume(3, "more", 512)]), "ready");
  assert.equal(wantedOf(both, founding), "VOLUME_SIZE");
  assert.equal(wantedOf(added, founding), "VOLUME_NOT_CONFIGURED");
  assert.equal(
    wantedOf(founding, grown),
    "VOLUME_SIZE",
    "not larger either: it is what the owner would ask for next",
  );
  assert.equal(wantedOf(founding, founding, grown), "VOLUME_SIZE");
  assert.equal(wantedOf(founding, founding, added), "VOLUME_TABLE");
});

test("any two tables: attached exactly where every held volume is offered, by number and name, at least as large", () => {
  const entry = fc
    .tuple(fc.nat(3), fc.constantFrom("a", "b", "c"), fc.integer({ min: 1, max: 3 }))
    .map(([number, name, sectors]) => volume(number, name, 512 * sectors));
  const table = fc.uniqueArray(entry, {
    minLength: 1,
    maxLength: 3,
    comparator: (a, b) => a.number === b.number || a.name === b.name,
  });
  fc.assert(
    fc.property(table, table, (offered, held) => {
      const genesis = genesisOf(offered.slice(0, 1));
      const facts = factsOf({ offered, held, hello: { founding: offered.slice(0, 1), genesis } });
      const judged = verdict({ ...facts, document: { ...documentOf(held), genesis } });
      const isCovered = held.every(({ number, name, sizeBytes }) => {
        const there = offered.find((each) => each.number === number);
        return there !== undefined && there.name === name && there.sizeBytes >= sizeBytes;
      });
      assert.equal(judged === "attached", isCovered, judged);
    }),
  );
});

test("an answer begins a dispute, settles it, or says nothing of it", () => {
  const at = { sequence: 3, chain: bytesToHex(chain) };
  const table: readonly (readonly [HelloAnswer, string | null | undefined])[] = [
    [{ kind: "attached", durable: at, applied: 3, token }, null],
    [{ kind: "diverged", lineage, durable: at }, "DIVERGED"],
    [{ kind: "conflict", token }, "OWNER_CONFLICT"],
    [{ kind: "refused", code: "VOLUME_TABLE", message: "" }, "VOLUME_TABLE"],
    [retiredRefusal, undefined],
    [{ kind: "superseded", token }, undefined],
    [{ kind: "unknown" }, undefined],
  ];
  for (const [answer, code] of table) {
    const dispute = disputeIn(answer);
    assert.equal(dispute == null ? dispute : dispute.code, code, answer.kind);
  }
});
