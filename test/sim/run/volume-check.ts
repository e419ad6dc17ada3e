/**
 * Holds the volume tables that owners and standbys show against what the model knows of them (docs/volumes.md): sizes, and from
 * where on a volume is whole. It never influences a run.
 */
import type { OwnerStatus, StandbyStatus } from "../../../protocol/status.ts";
import type { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import type { History } from "../model/history.ts";
import { require } from "../model/violation.ts";
import type { GroupTruth } from "./truth.ts";

/** Nobody knows of a standby that is made anew what it was told when it was made. */
function isMadeAnew({ standby }: GroupTruth): boolean {
  return standby.believedMax > 0;
}

/** What the owner at home calls whole, the standby has; and nothing is dropped that it has to be told of the table (VO5, VO7). */
export function judgeOwnerTable(truth: GroupTruth, history: History, status: OwnerStatus): void {
  const { volumes, received, standby, head } = truth;
  if (isMadeAnew(truth)) return;
  for (const { volume: name, wholeFrom } of status.volumes) {
    const number = volumes.names.indexOf(name);
    const whole = received.wholeFrom(history, number, standby.durableMax);
    require("I11", wholeFrom === null ||
      whole !== undefined ||
      isUnheard(history, number, standby.durableMax), () =>
      `${truth.settings.name}: the owner calls volume ${name} whole from ${wholeFrom}; the standby has not all of it`);
  }
  const lost = history.tableChanges(head).find(({ sequence }) => sequence > standby.durableMax);
  require("I4", lost === undefined, () =>
    `${truth.settings.name}: its journal begins behind ${head}, and the standby was never told of ${JSON.stringify(lost)}`);
}

/** It joined empty, and the standby is not there yet: nothing of it has to be brought. */
function isUnheard(history: History, volume: number, position: number): boolean {
  const joined = history.tableChanges().find((change) => change.volume === volume);
  return joined !== undefined && !joined.holdsData && joined.sequence > position;
}

/** The rows of a standby's status are those of the order at what it has applied. */
export function judgeStandbyTable(truth: GroupTruth, history: History, status: StandbyStatus): void {
  const { volumes, received, standby } = truth;
  const { applied } = status.position;
  if (applied === 0 || status.lineage === null || isMadeAnew(truth)) return;
  for (const { volume: name, sizeBytes, wholeFrom } of status.volumes) {
    const number = volumes.names.indexOf(name);
    const [least, most] = [history.sizeAt(number, applied), history.sizeAt(number, history.last)];
    require("I4", sizeBytes >= least && sizeBytes <= most, () =>
      `${standby.name} gives volume ${name} ${sizeBytes} bytes at ${applied}; the order leads to ${least}..${most}`);
    const whole = received.wholeFrom(history, number, applied);
    require("I4", wholeFrom === (whole ?? null), () =>
      `${standby.name} calls volume ${name} whole from ${wholeFrom} at ${applied}; it is from ${whole ?? "nowhere"}`);
  }
  for (const { volume } of history.volumes(applied))
    require("I4", status.volumes.some((row) => row.volume === volumes.nameOf(volume)), () =>
      `${standby.name} shows no volume ${volumes.nameOf(volume)} at ${applied}`);
}

/** What an owner serves is in its order. */
export function judgeServedTable(truth: GroupTruth, what: string, history: History, owned: OwnedGroup): void {
  truth.volumes.judgeNotAhead(what, owned.servedVolumes, history);
}
