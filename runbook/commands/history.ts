/** `history verify GROUP`: reads what a site keeps to go back, and tells what of it is damaged. Reads only. */
import type { HistoryVerdict } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { AdminClient } from "../admin-client.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { pastHolder } from "../past-holder.ts";
import { historyCheckText } from "../render/history-check.ts";
import { createProgress } from "../render/progress.ts";

export const historyVerify: CommandSpec = {
  path: ["history", "verify"],
  summary: "read a group's before-images and tell which are damaged",
  detail:
    "Run it at the site that keeps them; `verify` at the owner's site does it as well. At the pace of protection.scan.rate, while apply goes on. Exit 7 when something is damaged.",
  arguments: [{ name: "GROUP", summary: "the group", required: true }],
  examples: ["splitsite history verify erp --site dr", "splitsite history verify erp --json"],
  changes: false,
  async run(call) {
    const { name } = await configuredGroup(call);
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const role = await pastHolder(client, name);
    const progress = await createProgress(call.terminal, call.json);
    let verdict: HistoryVerdict;
    try {
      verdict = await client.follow<HistoryVerdict>(
        role,
        { method: "POST", path: adminRoutes.historyVerify(role, name), body: {} },
        (line) => progress.show(line),
      );
    } finally {
      progress.stop();
    }
    answer(call, verdict, () => historyCheckText(verdict));
    return verdict.damagedChunks === 0 ? ExitCode.done : ExitCode.foundProblem;
  },
};
