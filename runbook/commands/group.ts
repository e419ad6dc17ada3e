/** `group create/pause/resume`: moments when only an operator can decide whether a group is served, or shipped. */
import type { GroupPauseRequest, GroupResumeRequest } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import type { GroupStatus } from "../../protocol/status.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { confirmName } from "../confirm.ts";
import { operatorName } from "../operator.ts";
import { groupText } from "../render/status.ts";

const group = { name: "GROUP", summary: "the group", required: true } as const;

async function order(
  call: Call,
  warning: string,
  path: (name: string) => string,
  body: unknown,
): Promise<ExitCode> {
  const { name } = await configuredGroup(call);
  const site = await call.site();
  if (call.dryRun) {
    answer(
      call,
      { dryRun: true, group: name, site: site.name },
      () => `would act at site ${site.name}: ${warning}\n`,
    );
    return ExitCode.done;
  }
  await confirmName(call, name, warning);
  const status = await new AdminClient(site, call.timeoutMs).send<GroupStatus>("agent", {
    method: "POST",
    path: path(name),
    body,
  });
  answer(call, status, () => groupText(status, call.terminal.style));
  return ExitCode.done;
}

export const groupCreate: CommandSpec = {
  path: ["group", "create"],
  summary: "start a new group at its home site without asking the other site",
  detail:
    "Needed only when the other site cannot be asked whether it knows the group. If it does know it, this starts a second history, and one of the two has to be given up later.",
  arguments: [group],
  examples: ["splitsite group create erp --site primary"],
  changes: true,
  run: (call) =>
    order(
      call,
      "this starts a new history of the group with empty disks, although the other site was not asked.",
      adminRoutes.groupCreate,
      call.reason === undefined ? {} : { reason: call.reason },
    ),
};

export const groupPause: CommandSpec = {
  path: ["group", "pause"],
  summary: "ship nothing of a group until it is resumed",
  detail:
    "Run it at the owner's site. Writes are served and journalled all the while, and when the journal is full the group's overflow policy holds. The pause outlives restarts. Until `group resume` the group is at-risk, and a failover loses what was written since.",
  arguments: [group],
  examples: ["splitsite group pause erp --reason 'the standby moves to another rack'"],
  changes: true,
  run: (call) => {
    const body: GroupPauseRequest = { by: operatorName(call.terminal.env), reason: call.reason ?? "" };
    return order(
      call,
      "nothing of the group is shipped until it is resumed; a failover meanwhile loses all that is written from now on.",
      adminRoutes.groupPause,
      body,
    );
  },
};

export const groupResume: CommandSpec = {
  path: ["group", "resume"],
  summary: "ship a paused group again, and serve one that waits for an operator's decision",
  detail:
    "Replication goes on where `group pause` stopped it. After a power loss, writes that were answered but never flushed may be gone (UNFLUSHED_MAY_BE_LOST). A client that kept running may count on them: restart it, or check its file systems, before it goes on.",
  arguments: [group],
  options: [
    { flags: "--accept-unflushed", summary: "serve on although answered, unflushed writes may be gone" },
  ],
  examples: ["splitsite group resume erp", "splitsite group resume erp --accept-unflushed"],
  changes: true,
  run: (call) => {
    const body: GroupResumeRequest = { acceptUnflushed: call.flag("accept-unflushed") };
    const warning = body.acceptUnflushed
      ? "answered, unflushed writes may be gone; clients that kept running may be damaged by going on."
      : "what is paused goes on from where it stood.";
    return order(call, warning, adminRoutes.groupResume, body);
  },
};
