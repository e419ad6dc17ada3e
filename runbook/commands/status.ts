/** `status [GROUP]`: how protected the groups of a site are, on one screen. Reads only. */
import { ExitCode } from "../../protocol/admin.ts";
import { AdminClient } from "../admin-client.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { usageFailure } from "../failure.ts";
import { groupText, needsAttention, siteText } from "../render/status.ts";

export const status: CommandSpec = {
  path: ["status"],
  summary: "how protected the groups of a site are",
  detail: "Without GROUP, every group that has a part at the site, trouble first.",
  arguments: [{ name: "GROUP", summary: "one group, in detail", required: false }],
  options: [{ flags: "--exit-code", summary: "exit 7 when anything shown is not protected" }],
  examples: ["splitsite status", "splitsite status erp", "splitsite status --json --exit-code"],
  changes: false,
  async run(call) {
    const site = await call.site();
    const all = await new AdminClient(site, call.timeoutMs).status();
    const name = call.argument("GROUP");
    const shown =
      name === undefined ? all : { ...all, groups: all.groups.filter((group) => group.group === name) };
    if (name !== undefined && shown.groups.length === 0) {
      const names = all.groups.map((group) => group.group).join(", ");
      throw usageFailure(
        `site ${site.name} has no part of a group \`${name}\``,
        names === "" ? "No group is here yet." : `Name one of: ${names}.`,
      );
    }
    const paint = call.terminal.style;
    answer(call, shown, () =>
      name === undefined
        ? siteText(shown, paint)
        : shown.groups.map((group) => groupText(group, paint)).join(""),
    );
    return call.flag("exit-code") && shown.groups.some(needsAttention)
      ? ExitCode.foundProblem
      : ExitCode.done;
  },
};
