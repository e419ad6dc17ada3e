/**
 * `group retire GROUP`: shows what ends and what is left, asks once, and ends the group's life at this site. The daemon does the
 * work; if this command dies on the way, it is done or has changed nothing.
 */
import type { PastRole } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import type { RetiredStatus, RetirePlan, RetireRequest } from "../../protocol/retirement.ts";
import { retireObstacle } from "../../protocol/retirement.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { confirmName } from "../confirm.ts";
import { CommandFailure } from "../failure.ts";
import { operatorName } from "../operator.ts";
import { createProgress } from "../render/progress.ts";
import { retiredText, retirePlanText } from "../render/retirement.ts";

export const groupRetire: CommandSpec = {
  path: ["group", "retire"],
  summary: "end a group's life at this site; deletes nothing",
  detail:
    "At the owner's site: closes the exports, applies everything that was answered to the images, and never serves the group again. At the standby's: takes nothing any more, applies what was received, and refuses every failover. Stop the clients and retire the owner first. Images stay as complete disks; what may be deleted by hand is said. The other site is retired by an order of its own, and the group may be taken out of the configuration afterwards.",
  arguments: [{ name: "GROUP", summary: "the group", required: true }],
  options: [
    {
      flags: "--force",
      summary:
        "also where the standby lacks something, or its images are incomplete; what that loses is named",
    },
  ],
  examples: [
    "splitsite group retire erp --site primary --dry-run",
    "splitsite group retire erp --site primary --reason 'the ERP moved to another system'",
    "splitsite group retire erp --site dr --force",
  ],
  changes: true,
  async run(call) {
    const { name } = await configuredGroup(call);
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const { role, retired } = await partOf(client, name);
    if (retired !== null) {
      answer(call, { group: name, retired }, () => retiredText(name, retired));
      return ExitCode.done;
    }
    const path = adminRoutes.retire(role, name);
    const plan = await client.send<RetirePlan>(role, { method: "GET", path });
    const force = call.flag("force");
    const obstacle = retireObstacle(plan, force);
    if (call.dryRun) {
      answer(call, plan, () => retirePlanText(plan, call.terminal.style));
      return obstacle === undefined ? ExitCode.done : ExitCode.refused;
    }
    if (!call.json) call.terminal.err(retirePlanText(plan, call.terminal.style));
    if (obstacle !== undefined) {
      throw new CommandFailure({
        exit: ExitCode.refused,
        id: obstacle.id,
        message: `refused: ${obstacle.message}`,
        next: obstacle.forcible
          ? "Mend it, or add --force and lose what is named."
          : "Mend what the message names; nothing was changed.",
      });
    }
    await confirmName(call, name, warningOf(plan));
    const retiredNow = await follow(call, client, role, path, force);
    answer(call, { group: name, retired: retiredNow }, () => retiredText(name, retiredNow));
    return ExitCode.done;
  },
};

function warningOf({ group, site, part, loss }: RetirePlan): string {
  const ends =
    part === "owner"
      ? `Group ${group} is never served at ${site} again, and clients that are connected get an error.`
      : `The standby of group ${group} at ${site} takes nothing any more, and cannot be failed over to.`;
  const lost =
    loss.writes === 0
      ? ""
      : ` ${loss.writes} writes (${loss.bytes} bytes) are missing at the standby for ever.`;
  return `${ends}${lost}`;
}

async function follow(
  call: Call,
  client: AdminClient,
  role: PastRole,
  path: string,
  force: boolean,
): Promise<RetiredStatus> {
  const body: RetireRequest = { by: operatorName(call.terminal.env), reason: call.reason ?? "", force };
  const progress = await createProgress(call.terminal, call.json);
  try {
    return await client.follow<RetiredStatus>(role, { method: "POST", path, body }, (line) =>
      progress.show(line),
    );
  } finally {
    progress.stop();
  }
}

/** Which role of the site the group's life is with; what is left of it where that has ended. */
async function partOf(
  client: AdminClient,
  group: string,
): Promise<{ readonly role: PastRole; readonly retired: RetiredStatus | null }> {
  const { site, groups } = await client.status();
  // Owners come first: what was handed over to this site's agent is the agent's.
  const part = groups.find((each) => each.group === group);
  if (part !== undefined) return { role: part.role === "owner" ? "agent" : "gateway", retired: part.retired };
  throw new CommandFailure({
    exit: ExitCode.refused,
    id: "GROUP_UNKNOWN",
    message: `site ${site} has no part in group ${group}`,
    next: "Name the site that owns it or stands by for it, with --site.",
  });
}
