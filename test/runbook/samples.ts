/** Documents a daemon would answer with, whole and typed. */
import type { FailoverPlan, FailoverResult, JournalVerdict } from "../../protocol/admin.ts";
import type { OwnerStatus, SiteStatus, StandbyStatus } from "../../protocol/status.ts";

export const owner: OwnerStatus = {
  group: "app",
  role: "owner",
  lineage: "00000000-0000-4000-8000-000000000001",
  epoch: 1,
  state: "protected",
  io: "serving",
  reason: null,
  since: "2026-03-02T08:11:40.000Z",
  level: "async",
  durability: "flush",
  position: { written: 812, durable: 812, shipped: 810, acknowledged: 806, applied: 800 },
  lag: { writes: 6, bytes: 14_680_064, ageMs: 1_200, noProgressMs: 12 },
  rpo: { ageMs: 15_000, bytes: null, breached: false, delayMs: 0 },
  journal: { bytes: 1_048_576, maxBytes: 8_589_934_592 },
  link: {
    up: true,
    limitBytesPerSecond: 12_500_000,
    wireBytes: 100,
    rawBytes: 400,
    roundTripMs: 12,
    codec: "lz4",
    lastContact: null,
  },
  members: [],
  scan: null,
  overflow: null,
  paused: null,
  retired: null,
  volumeChange: null,
  history: null,
  volumes: [{ volume: "data", sizeBytes: 67_108_864, wholeFrom: 0 }],
};

export const standby: StandbyStatus = {
  group: "app",
  role: "standby",
  lineage: owner.lineage,
  epoch: 1,
  owner: "primary",
  state: "protected",
  reason: null,
  since: owner.since,
  position: { received: 806, durable: 806, applied: 800 },
  consistent: { sequence: 800, time: "2026-03-02T10:14:06.000Z" },
  history: {
    oldest: 12,
    newest: 800,
    points: 97,
    bytes: 3_145_728,
    maxBytes: 10_737_418_240,
    oldestTime: "2026-03-01T10:14:06.000Z",
    pins: [],
    problem: null,
    check: null,
    checking: null,
  },
  drills: [],
  intake: { bytes: 0, maxBytes: 8_589_934_592 },
  lastHeard: { time: "2026-03-02T10:14:07.000Z", answered: 812, dataBytesTotal: 1 },
  paused: null,
  retired: null,
  volumes: owner.volumes,
};

export function site(groups: SiteStatus["groups"]): SiteStatus {
  return { site: "primary", time: "2026-03-02T10:14:07.000Z", groups };
}

export const plan: FailoverPlan = {
  group: "app",
  epoch: 3,
  nextEpoch: 4,
  oldOwner: "primary",
  newOwner: "dr",
  point: { sequence: 806, time: "2026-03-02T10:14:06.701Z" },
  loss: { known: "unknown", since: "2026-03-02T10:14:07.000Z", writesMin: 6, bytesMin: 24_576 },
  toApply: { records: 6, bytes: 24_576 },
  leftOut: [],
  steps: ["raise the token", "seal", "promote"],
  checks: [{ id: "STANDBY_COMPLETE", outcome: "pass", message: "the standby is complete" }],
};

export const result: FailoverResult = {
  group: "app",
  epoch: 4,
  point: { sequence: 806, time: "2026-03-02T10:14:06.701Z" },
  loss: plan.loss,
  durationMs: 640,
  exports: [{ volume: "data", uri: "nbd://127.0.0.1:10819/app/data" }],
  leftOut: [],
  evidence: "/var/lib/splitsite/evidence/failover.json",
};

export const soundVerdict: JournalVerdict = {
  group: "app",
  sound: true,
  first: 1,
  last: 812,
  frames: 9,
  bytes: 4_096,
  chain: "00".repeat(32),
  problem: null,
};
