/**
 * The end of a standby's life: what stands against it, what it gives up, and what is left. Pure. A retired standby takes
 * nothing from anybody any more and is handed over to nobody; its images are brought to the seal (docs/group-life.md).
 */
import type { Refusal } from "../protocol/control.ts";
import { orderStatus, orderText } from "../protocol/group-life.ts";
import type { RetireCheck, RetiredStatus, RetirePlan } from "../protocol/retirement.ts";
import { failed, passed, warned } from "../protocol/retirement.ts";
import type { Reason } from "../protocol/status.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import type { HistorySettings } from "../runtime/settings/types.ts";
import { ownerSilentMs } from "./heard.ts";
import { describeIncomplete, type Incomplete, isOpenable } from "./scan/completeness.ts";
import type { Seal, StandbyDocument } from "./state.ts";

export type RetirePaths = Pick<
  GatewayGroupPaths,
  "intake" | "intakeWatermark" | "history" | "marker" | "heard" | "state"
>;

export interface RetireFacts {
  readonly group: string;
  readonly site: string;
  readonly document: StandbyDocument | undefined;
  readonly paths: RetirePaths;
  /** End of what was received; undefined while the intake is not open. */
  readonly end: Seal | undefined;
  /** The last point before it, where the images cannot be opened at `end`. */
  readonly before: Seal | undefined;
  /** At `end`. */
  readonly incomplete: Incomplete | null;
  readonly trouble: Reason | null;
  readonly silenceMs: number | null;
  readonly isFailoverRunning: boolean;
}

/** Where the images end up; undefined: they can be opened nowhere. */
function sealOf({ end, before, incomplete }: RetireFacts): Seal | undefined {
  return end === undefined || isOpenable(incomplete, end.sequence) ? end : before;
}

export function planRetire(facts: RetireFacts): RetirePlan {
  const { group, site, document, end, paths } = facts;
  const seal = sealOf(facts);
  return {
    ...{ group, site, part: "standby", sequence: seal?.sequence ?? 0 },
    loss: {
      writes: Math.max(0, (end?.sequence ?? 0) - (seal?.sequence ?? 0)),
      bytes: Math.max(0, (end?.dataBytesTotal ?? 0) - (seal?.dataBytesTotal ?? 0)),
    },
    ...leftOf(document, paths),
    steps: [
      "take nothing from the owner any more; it is told so, for ever",
      "write down that the group's life here has ended, and where",
      "bring the images there: apply what was received, or take back what is incomplete",
      "keep images and history as they are; nothing is deleted",
    ],
    checks: [
      checkDocument(facts),
      checkHandover(facts),
      checkTrouble(facts),
      checkWhole(facts),
      checkOwner(facts),
    ],
  };
}

function checkDocument({ document, group, trouble }: RetireFacts): RetireCheck {
  if (document?.phase === "standing")
    return passed("STANDBY_UNKNOWN", "this site holds a standby of the group");
  // It may be there, and even handed over: its document could not be read.
  if (document === undefined && trouble !== null) return failed(trouble.code, trouble.message);
  return failed("STANDBY_UNKNOWN", `this site holds no standby of group ${group}`);
}

function checkHandover({ document, isFailoverRunning }: RetireFacts): RetireCheck {
  if (isFailoverRunning) return failed("FAILOVER_RUNNING", "a failover is under way");
  return document?.failover == null
    ? passed("HANDED_OVER", "no failover has begun")
    : failed(
        "HANDED_OVER",
        "a failover was run: the group belongs to this site's agent, and is retired there",
      );
}

function checkTrouble({ trouble }: RetireFacts): RetireCheck {
  return trouble === null ? passed("STOPPED", "apply is at work") : failed(trouble.code, trouble.message);
}

function checkWhole(facts: RetireFacts): RetireCheck {
  const id = "NOT_CONSISTENT";
  const { end, incomplete } = facts;
  const seal = sealOf(facts);
  if (end === undefined) return failed(id, "the intake is not open");
  if (incomplete === null || isOpenable(incomplete, end.sequence))
    return passed(id, `the images will be whole at sequence ${end.sequence}`);
  const why = describeIncomplete(incomplete, seal);
  if (seal === undefined) return failed(id, why);
  return failed(id, `${why}; the images would be taken back to it`, true);
}

function checkOwner({ silenceMs, document }: RetireFacts): RetireCheck {
  const id = "OWNER_ALIVE";
  const owner = document?.token.owner ?? "the owner";
  if (silenceMs === null || silenceMs >= ownerSilentMs) return passed(id, `${owner} is not heard`);
  return warned(id, `${owner} is heard: it has no standby any more from then on`);
}

/** What an operator does whom only what `--force` passes over stops. */
export const retireAdvice =
  "Wait until status says that the standby is whole; or add --force and keep the older point.";

function leftOf(document: StandbyDocument | undefined, paths: RetirePaths) {
  const { intake, intakeWatermark, history, marker, heard, state } = paths;
  return {
    images: (document?.volumes ?? []).map(({ name, imagePath }) => ({ volume: name, path: imagePath })),
    deletable: [intake, intakeWatermark, history, marker, heard, state],
  };
}

/** Null: its life goes on. */
export function retiredStatus(
  document: StandbyDocument | undefined,
  paths: RetirePaths,
): RetiredStatus | null {
  const retired = document?.retired ?? null;
  const order = orderStatus(retired);
  if (retired === null || order === null) return null;
  return { ...order, sequence: retired.seal.sequence, loss: retired.loss, ...leftOf(document, paths) };
}

/** State and reason of a standby that was retired, as far as it has come. */
export function retiredCondition(
  {
    volumes,
    retired,
  }: Pick<StandbyDocument, "volumes"> & { readonly retired: NonNullable<StandbyDocument["retired"]> },
  applied: number | undefined,
) {
  if (applied !== retired.seal.sequence) {
    const message = `retired ${orderText(retired)}; the images are being brought to ${retired.seal.sequence}`;
    return { state: "stopped", reason: { code: "RETIRING", message } } as const;
  }
  const disks = volumes.map(({ imagePath }) => imagePath).join(", ");
  const message = `retired ${orderText(retired)}; it takes nothing any more. Its disks: ${disks}`;
  return { state: "retired", reason: { code: "GROUP_RETIRED", message } } as const;
}

/** What whoever feeds or asks a retired standby is told. */
export const retiredRefusal: Refusal = {
  kind: "refused",
  code: "GROUP_RETIRED",
  message: "the standby of this group was retired here, for good",
};

/** What is kept stays, by age, by size, and on a disk that is full: nothing of a group that was retired is given back. */
export function keptForEver({ windowMs }: HistorySettings): {
  readonly settings: HistorySettings;
  readonly reserveBytes: number;
} {
  const forEver = Number.MAX_SAFE_INTEGER;
  // Where none is kept only pins are, and none begins now.
  return { settings: { windowMs: windowMs === 0 ? 0 : forEver, bytesMax: forEver }, reserveBytes: 0 };
}
