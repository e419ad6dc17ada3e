/**
 * The end of a run: what must be true of two sites once nothing fails any more and everybody had time, and the
 * comparison of every byte of every copy with the model.
 */
import { requireExact } from "../model/content.ts";
import { Violation } from "../model/violation.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { Operator } from "./operator.ts";
import type { SiteName, Sites } from "./sites.ts";
import { siteNames } from "./sites.ts";
import type { Truth } from "./truth.ts";
import type { Workload } from "./workload.ts";

export interface Pair {
  readonly seed: number;
  readonly scheduler: Scheduler;
  readonly sites: Sites;
  readonly truth: Truth;
  readonly operator: Operator;
  readonly workload?: Workload;
  /** Groups of which something stored was changed or lost behind the product's back. */
  readonly decayed?: ReadonlySet<string>;
}

/** Reasons that pass by themselves; any other is a finding about what is stored, by its code. */
const passing = new Set(["STARTING", "STANDING_BY", "CLOSED", "WAITING_FOR_PEER", "FAILOVER_RUNNING"]);

/** A decayed group that one of its roles has stopped, and says why: nothing else is asked of it. */
export function stopped({ sites, decayed }: Pair, group: string): boolean {
  if (decayed?.has(group) !== true) return false;
  return siteNames.some((site) =>
    [sites.ownerStatus(site, group), sites.standbyStatus(site, group)].some(
      (status) => status?.state === "stopped" && !passing.has(status.reason?.code ?? "STARTING"),
    ),
  );
}

/** A group whose data decayed has been stopped, so nobody can work with it any more. */
export function stoppedForGood(pair: Pair): boolean {
  return [...pair.truth.groups.keys()].some((name) => stopped(pair, name));
}

/** The operator was told that a failover is done, or its new owner was seen. */
export function isHandedOver({ operator, truth }: Pair, group: string): boolean {
  return operator.orders.get(group) === "done" || truth.group(group).standby.sealed !== undefined;
}

/** What is not as it must be in the end; `quiet`: clients rest as well. */
export function unsettled(pair: Pair, quiet: boolean): string | undefined {
  const { sites, truth, operator, workload } = pair;
  if (quiet && (workload?.inFlight ?? 0) > 0) return `${workload?.inFlight} requests are not answered`;
  for (const [name, group] of truth.groups) {
    if (stopped(pair, name)) continue;
    // Also where the new owner serves already: its gateway still writes the report.
    if (operator.orders.get(name) === "under way") return `the failover of ${name} is not over`;
    const handedOver = isHandedOver(pair, name);
    const owner = handedOver ? group.standbySite : group.home;
    const status = sites.ownerStatus(owner, name);
    if (status === undefined || status.io !== "serving")
      return `${name} at ${owner} is ${status?.state} ${status?.io} ${status?.reason?.code}`;
    const wanted = unlikeConfiguration(pair, name, owner);
    if (wanted !== undefined) return wanted;
    if (handedOver) {
      if (status.reason?.code !== "NO_STANDBY") return `${name} at ${owner} says ${status.reason?.code}`;
      const old = sites.ownerStatus(group.home, name);
      if (old?.state !== "fenced")
        return `${name}: the old owner is ${old?.state} ${old?.io} ${old?.reason?.code}`;
      continue;
    }
    if (!quiet) continue;
    if (status.state !== "protected") return `${name} at ${owner} is ${status.state} ${status.reason?.code}`;
    const standby = sites.standbyStatus(group.standbySite, name);
    if (standby?.state !== "protected")
      return `${name}'s standby is ${standby?.state} ${standby?.reason?.code}: ${standby?.reason?.message}`;
    if (status.scan !== null) return `${name}: a scan for ${status.scan.purpose} is not over`;
    if (status.overflow !== null) return `${name}: an overflow is not over: ${status.overflow.state}`;
    if (standby.history.pins.length > 0)
      return `${name}'s standby keeps a pin: ${standby.history.pins.length}`;
    if (standby.position.applied !== status.position.written)
      return `${name}: applied ${standby.position.applied} of ${status.position.written}`;
  }
  return undefined;
}

/** The owner's table is what its site's file says, but for what a hand-over had left out. */
function unlikeConfiguration({ sites, truth }: Pair, name: string, owner: SiteName): string | undefined {
  const group = truth.group(name);
  const change = sites.ownerStatus(owner, name)?.volumeChange ?? null;
  const isLeftOut = change?.code === "VOLUME_NOT_HANDED_OVER" && owner !== group.home;
  if (change !== null && !isLeftOut)
    return `${name} at ${owner} has a change of its volumes ${change.state}: ${change.code} ${change.message}`;
  const served = sites.served(owner, name);
  for (const { name: volume, sizeBytes } of truth.volumes(name).wantedAt(owner)) {
    const row = served.find((each) => each.name === volume);
    if (row === undefined ? owner === group.home : row.sizeBytes !== sizeBytes)
      return `${name} at ${owner} has ${row?.sizeBytes ?? "no"} bytes of volume ${volume}, which is to have ${sizeBytes}`;
  }
  return undefined;
}

/** The end: every byte of every copy; `repaired`: groups of which what decayed at rest was found and sent again. */
export async function compareCopies(pair: Pair, repaired: ReadonlySet<string> = new Set()): Promise<void> {
  const { sites, truth, seed, scheduler } = pair;
  for (const [name, group] of truth.groups) {
    if (stopped(pair, name)) continue;
    const owner = group.standby.sealed === undefined ? group.home : group.standbySite;
    const book = group.books.get(owner)!;
    const written = sites.ownerStatus(owner, name)!.position.written;
    for (const { volume, sizeBytes } of book.history.volumes()) {
      let data: Uint8Array | undefined;
      const device = sites.device(owner, name, volume);
      if (device === undefined) throw new Violation("I8", `${name} at ${owner} is not exported`);
      device.read(0, sizeBytes).then(
        (read) => {
          data = read;
        },
        (error: unknown) => scheduler.fail(error),
      );
      await scheduler.run({ untilMs: scheduler.nowMs + 5_000, stop: () => data !== undefined });
      if (data === undefined) throw new Violation("I8", `a read of ${name} at ${owner} is not answered`);
      requireExact({
        what: `${book.name} in the end`,
        invariant: "I1",
        history: book.history,
        volume,
        seed,
        bytes: data,
        sequence: written,
        rot: owner === group.home ? undefined : group.rot,
      });
    }
    if (owner === group.home)
      truth.compareStandby(name, written, sites.site(group.standbySite), repaired.has(name));
    await comparePast(pair, name, group.standbySite);
  }
}

/** Points of the past at the site that keeps them, and that nothing of it had to be given up. */
async function comparePast(pair: Pair, name: string, site: SiteName): Promise<void> {
  const { sites, truth, scheduler } = pair;
  if (truth.group(name).settings.history.windowMs === 0) return;
  const past = sites.past(site, name);
  if (past === undefined) throw new Violation("I8", `${name} at ${site} has its past closed`);
  const { problem } = past.status ?? { problem: null };
  if (problem !== null && !sites.site(site).diskTroubled)
    throw new Violation("I4", `${name} at ${site} gave up points: ${problem.code}, ${problem.message}`);
  let done = false;
  truth.requirePast(site, name, past, sites.site(site).diskTroubled).then(
    () => {
      done = true;
    },
    (error: unknown) => scheduler.fail(error),
  );
  await scheduler.run({ untilMs: scheduler.nowMs + 30_000, stop: () => done });
  if (!done) throw new Violation("I8", `the past of ${name} at ${site} is not read in time`);
}
