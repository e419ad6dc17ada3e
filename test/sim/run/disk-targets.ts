/**
 * Which files of a role a fault may meet, and at which of their operations: pairs that really occur, so that a drawn
 * fault strikes. Names paths only; what happens there is `faults.ts`'s.
 */
import type { Operation } from "../world/operations.ts";
import type { RoleName, SiteName } from "./sites.ts";

export interface DiskTarget {
  readonly role: RoleName;
  readonly match: (path: string) => boolean;
  readonly operations: readonly Operation[];
}

const store = /\/(journal-\d+|intake)\//;
export const isLog = (path: string): boolean => store.test(path) && path.endsWith(".log");
const isTable = (path: string): boolean => store.test(path) && /\.ldb$|MANIFEST/.test(path);
const isStoreFolder = (path: string): boolean => /\/(journal-\d+|intake)$/.test(path);
const isWatermark = (path: string): boolean => /\/(watermark-\d+|intake-watermark)$/.test(path);
export const isHalf = (path: string): boolean => /\/ahead-\d+\/half-[01]$/.test(path);
const isMarker = (path: string): boolean => /\/(checkpoint|applied)$/.test(path);
const isImage = (path: string): boolean => path.includes("/images/");
const isDocument = (path: string): boolean => /\.json(\.new)?$/.test(path);

const isSegment = (path: string): boolean => /\/segments\/\d{8}(\.new)?$/.test(path);
const isIndex = (path: string): boolean => /\/history\/index\//.test(path);

/** Twice where most of the promises are made. Beside each other: how a disk fails, and before or after which steps it is worst to lose power. */
const kinds: readonly Omit<DiskTarget, "role">[] = [
  { match: isLog, operations: ["write"] },
  { match: isLog, operations: ["write"] },
  { match: isLog, operations: ["syncData", "sync"] },
  { match: isLog, operations: ["syncData", "sync"] },
  { match: isLog, operations: ["create", "remove"] },
  { match: isStoreFolder, operations: ["sync"] },
  { match: isTable, operations: ["write", "sync"] },
  { match: isWatermark, operations: ["write"] },
  { match: isWatermark, operations: ["syncData", "sync"] },
  { match: isMarker, operations: ["write"] },
  { match: isMarker, operations: ["syncData", "sync"] },
  { match: isImage, operations: ["write", "zero"] },
  { match: isImage, operations: ["syncData"] },
  { match: isSegment, operations: ["write"] },
  { match: isSegment, operations: ["syncData", "sync"] },
  { match: isIndex, operations: ["write", "sync", "rename"] },
  { match: isDocument, operations: ["write", "sync", "create"] },
  { match: isDocument, operations: ["rename"] },
  { match: () => true, operations: ["write", "zero", "syncData", "sync", "rename", "create", "remove"] },
];

/** Where an owner's frames come first; a standby has none. */
const ahead: readonly Omit<DiskTarget, "role">[] = [
  { match: isHalf, operations: ["write"] },
  { match: isHalf, operations: ["syncData", "sync"] },
];

export const diskTargets: readonly DiskTarget[] = (["agent", "gateway"] as const).flatMap((role) =>
  [...(role === "agent" ? ahead : []), ...kinds].map(({ match, operations }) => ({
    role,
    match: (path: string) => (path.includes(`/${role}/`) || path.includes("/evidence/")) && match(path),
    operations,
  })),
);

/** Reads happen at starts and when old frames are sent again. */
export const readTarget = (role: RoleName): DiskTarget => ({
  role,
  match: (path) => path.includes(`/${role}/`),
  operations: ["read"],
});

/** Where a role does the work of the group that is at home at `home`. */
export function workplace(role: RoleName, home: SiteName): SiteName {
  return (role === "agent") === (home === "a") ? "a" : "b";
}

/** What decays at rest: a bit of a file, its end, or a whole folder. */
export interface DecayTarget {
  readonly name: string;
  readonly role: RoleName;
  readonly how: "flip" | "shorten" | "lose";
  readonly match: (path: string) => boolean;
}

const aheadDecay: readonly DecayTarget[] = [
  { name: "half", role: "agent", how: "flip", match: isHalf },
  { name: "half", role: "agent", how: "shorten", match: isHalf },
];

export const decayTargets: readonly DecayTarget[] = (["agent", "gateway"] as const).flatMap(
  (role): DecayTarget[] => [
    { name: "log", role, how: "flip", match: isLog },
    { name: "log", role, how: "flip", match: isLog },
    { name: "table", role, how: "flip", match: (path) => path.endsWith(".ldb") },
    { name: "table", role, how: "flip", match: (path) => path.endsWith(".ldb") },
    ...(role === "agent" ? aheadDecay : []),
    { name: "end of a log", role, how: "shorten", match: isLog },
    { name: "watermark", role, how: "flip", match: isWatermark },
    { name: "marker", role, how: "flip", match: isMarker },
    { name: "document", role, how: "flip", match: (path) => /\/(state|handover)\.json$/.test(path) },
    { name: "folder", role, how: "lose", match: () => true },
    { name: "folder", role, how: "lose", match: () => true },
  ],
);
