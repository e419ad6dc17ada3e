/**
 * The failover machine against random courses of events (X1..X10 of docs/failover-spec.md), its way from disk, and
 * the plan's loss statement and checks.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type FailoverEffect,
  type FailoverEvent,
  type FailoverPhase,
  phaseFromDisk,
  step,
} from "../../gateway/failover/machine.ts";
import { obstacleOf, type PlanFacts, planFailover, stateLoss } from "../../gateway/failover/plan.ts";
import type { FailoverProgress, StandbyDocument } from "../../gateway/state.ts";
import { foundingVolume } from "../../protocol/table-volume.ts";

const kinds = [
  "runOrdered",
  "resumed",
  "tokenRaised",
  "sealed",
  "applied",
  "recorded",
  "adopted",
  "reported",
  "failed",
  "created",
  "switchoverOrdered",
  "commitOrdered",
  "rollbackOrdered",
  "failbackOrdered",
] as const satisfies readonly FailoverEvent["kind"][];

function eventOf(kind: (typeof kinds)[number]): FailoverEvent {
  if (kind === "runOrdered") return { kind, obstacle: null };
  if (kind === "failed") return { kind, code: "X" };
  return { kind };
}

/** What the shell has made durable, and what it would find after a crash now. */
const progressAfter: { readonly [K in FailoverEvent["kind"]]?: FailoverProgress } = {
  tokenRaised: "fenced",
  sealed: "sealed",
  recorded: "handed-over",
  reported: "adopted",
};
const completes: { readonly [K in FailoverEffect["kind"]]?: FailoverEvent["kind"] } = {
  raiseToken: "tokenRaised",
  drainAndSeal: "sealed",
  applyToSeal: "applied",
  recordHandover: "recorded",
  adopt: "adopted",
  report: "reported",
};
const order: readonly FailoverProgress[] = ["fenced", "sealed", "handed-over", "adopted"];

test("any course of orders, failures and crashes keeps the order of the steps and never goes back (X3, X4, X8, X9)", () => {
  const choice = fc.oneof(
    { weight: 3, arbitrary: fc.constant("work" as const) },
    fc.constantFrom("crash" as const, ...kinds),
  );
  fc.assert(
    fc.property(fc.array(choice, { maxLength: 80, size: "max" }), (choices) => {
      let phase: FailoverPhase = { name: "standing" };
      let pending: FailoverEffect | undefined;
      let progress: FailoverProgress | null = null;
      const take = (event: FailoverEvent): void => {
        const next = step(phase, event);
        assert.ok(next.effects.length <= 1, "X10: one order at a time");
        const effect = next.effects[0];
        const before = phase;
        phase = next.phase;
        if (effect === undefined || effect.kind === "refuse") {
          if (effect?.kind === "refuse") assert.deepEqual(phase, before, "X6: a refusal changes nothing");
          return;
        }
        pending = completes[effect.kind] === undefined ? undefined : effect;
        if (effect.kind === "applyToSeal")
          assert.ok(progress === "sealed", "X3: nothing is applied towards an unknown seal");
        if (effect.kind === "recordHandover")
          assert.ok(progress === "sealed", "X3: handed over only what is sealed");
        if (effect.kind === "adopt")
          assert.equal(progress, "handed-over", "X3: adopted only what is recorded");
        if (effect.kind === "raiseToken") assert.equal(progress, null, "X8: the token is raised once");
      };
      for (const each of choices) {
        if (each === "crash") {
          pending = undefined;
          phase = phaseFromDisk(true, progress);
          continue;
        }
        const done = pending === undefined ? undefined : completes[pending.kind];
        const kind = each === "work" ? done : each;
        if (kind === undefined) continue;
        // Facts about steps come only from steps that were ordered.
        if ((Object.values(completes) as string[]).includes(kind) && kind !== done) {
          const silent = step(phase, eventOf(kind));
          if (kind !== done) assert.ok(pending !== undefined || silent.effects.length === 0, "X9");
          continue;
        }
        const made: FailoverProgress | undefined = progressAfter[kind];
        if (made !== undefined) {
          assert.ok(
            progress === null || order.indexOf(made) >= order.indexOf(progress),
            "X4: progress only rises",
          );
          progress = made;
        }
        take(eventOf(kind));
      }
      // Whatever happened: from here, running or restarting finishes it without asking for anything twice.
      if (progress !== null) {
        phase = phaseFromDisk(true, progress);
        for (let event: FailoverEvent = { kind: "resumed" }; phase.name !== "done"; ) {
          const next = step(phase, event);
          phase = next.phase;
          const done = completes[next.effects[0]?.kind ?? "fail"];
          if (done === undefined) break;
          event = eventOf(done as (typeof kinds)[number]);
        }
        assert.equal(phase.name, "done", "X4: always finishable");
      }
    }),
    { numRuns: 1_000 },
  );
});

test("what is not built is refused in every phase (X6)", () => {
  const phases: FailoverPhase[] = [
    { name: "absent" },
    { name: "standing" },
    { name: "raising" },
    { name: "draining" },
    { name: "applying" },
    { name: "recording" },
    { name: "adopting" },
    { name: "reporting" },
    { name: "interrupted", resume: "draining", code: "X" },
    { name: "done" },
  ];
  for (const phase of phases) {
    for (const kind of [
      "switchoverOrdered",
      "commitOrdered",
      "rollbackOrdered",
      "failbackOrdered",
    ] as const) {
      assert.deepEqual(step(phase, { kind }), { phase, effects: [{ kind: "refuse", code: "NOT_BUILT" }] });
    }
  }
});

const document: StandbyDocument = {
  version: 1,
  group: "erp",
  lineage: "00000000-0000-4000-8000-000000000000",
  token: { epoch: 1, owner: "primary" },
  genesis: "00".repeat(32),
  volumes: [{ ...foundingVolume({ number: 0, name: "data", sizeBytes: 4096 }), imagePath: "/x" }],
  phase: "standing",
  failover: null,
  retired: null,
  incomplete: null,
};
const facts: PlanFacts = {
  group: "erp",
  site: "dr",
  oldOwner: "primary",
  document,
  phase: { name: "standing" },
  end: { sequence: 10, chain: "11".repeat(32), dataBytesTotal: 40_960, timeMs: 1_700_000_000_000 },
  before: undefined,
  applied: { sequence: 8, dataBytesTotal: 32_768 },
  incomplete: null,
  table: document.volumes,
  trouble: null,
  heard: { atMs: 1_700_000_001_000, answered: 13, dataBytesTotal: 53_248 },
  silenceMs: 60_000,
  retired: false,
  agent: true,
};

test("the loss is what was heard and not received, never less than nothing, and unknown when never heard (promise 3)", () => {
  assert.deepEqual(stateLoss(facts.heard, { sequence: 10, dataBytesTotal: 40_960 }, null), {
    known: "unknown",
    since: "2023-11-14T22:13:21.000Z",
    writesMin: 3,
    bytesMin: 12_288,
  });
  assert.deepEqual(stateLoss(facts.heard, { sequence: 20, dataBytesTotal: 80_000 }, null).writesMin, 0);
  assert.deepEqual(stateLoss(null, { sequence: 1, dataBytesTotal: 1 }, null), {
    known: "unknown",
    since: null,
    writesMin: 0,
    bytesMin: 0,
  });
});

test("images that are taken back lose what was received behind their point, whether it was heard of or not", () => {
  const point = { sequence: 10, dataBytesTotal: 40_960 };
  const received = { sequence: 90, dataBytesTotal: 90_000 };
  const loss = stateLoss(facts.heard, point, received);
  assert.deepEqual([loss.writesMin, loss.bytesMin], [80, 90_000 - 40_960]);
  const heard = { atMs: 1, answered: 95, dataBytesTotal: 99_000 };
  assert.deepEqual(stateLoss(heard, point, received).writesMin, 85);
  assert.deepEqual(stateLoss(heard, point, received).bytesMin, 99_000 - 40_960);
});

test("a plan of incomplete images opens the last point before, counts the loss to it, or is refused", () => {
  const incomplete = {
    purpose: "resync",
    since: 8,
    until: null,
    scan: null,
    seen: 9,
    holds: "unknown",
  } as const;
  const before = { sequence: 7, chain: "77".repeat(32), dataBytesTotal: 4_096, timeMs: 1_600_000_000_000 };
  const applied = { sequence: 10, dataBytesTotal: 40_960 };
  const plan = planFailover({ ...facts, applied, incomplete, before, heard: null });
  assert.equal(obstacleOf(plan), null);
  assert.deepEqual([plan.point?.sequence, plan.toApply], [7, { records: 0, bytes: 0 }]);
  assert.deepEqual([plan.loss.writesMin, plan.loss.bytesMin], [3, 36_864]);
  const refused = planFailover({ ...facts, applied, incomplete });
  assert.deepEqual([obstacleOf(refused)?.id, refused.point], ["NOT_CONSISTENT", null]);
  // Its end was received: what is before does not matter any more.
  const ended = { ...incomplete, scan: 9, until: 10, seen: 10 };
  const whole = planFailover({ ...facts, applied, incomplete: ended, before });
  assert.deepEqual([whole.point?.sequence, whole.loss.writesMin], [10, 3]);
});

test("a plan says what there is to do and which check forbids it (F62, F69)", () => {
  const plan = planFailover(facts);
  assert.deepEqual(
    [plan.point?.sequence, plan.toApply, plan.nextEpoch],
    [10, { records: 2, bytes: 8_192 }, 2],
  );
  assert.equal(obstacleOf(plan), null);
  const obstacle = (change: Partial<PlanFacts>) => obstacleOf(planFailover({ ...facts, ...change }))?.id;
  assert.equal(obstacle({ document: undefined }), "STANDBY_UNKNOWN");
  assert.equal(obstacle({ document: { ...document, phase: "creating" } }), "NOT_CONSISTENT");
  assert.equal(obstacle({ trouble: { code: "IMAGE_TORN", message: "" } }), "IMAGE_TORN");
  assert.equal(obstacle({ agent: false }), "AGENT_MISSING");
  assert.equal(obstacle({ phase: { name: "done" } }), "FAILOVER_DONE");
  assert.equal(obstacle({ phase: { name: "applying" } }), "FAILOVER_RUNNING");
  assert.equal(
    planFailover({ ...facts, silenceMs: 500 }).checks.find((check) => check.id === "OWNER_ALIVE")?.outcome,
    "warn",
  );
});
