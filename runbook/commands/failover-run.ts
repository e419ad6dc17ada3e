/**
 * `failover run GROUP`: shows the plan, asks once, moves the group to this site, states the loss. The gateway does the
 * work and keeps the evidence; if this command dies on the way, the move goes on or can be run again.
 */
import type { FailoverResult, FailoverRunRequest } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { confirmName } from "../confirm.ts";
import { CommandFailure } from "../failure.ts";
import { planText, resultText } from "../render/plan.ts";
import { createProgress } from "../render/progress.ts";
import { fetchPlan, refusedBy } from "./failover-plan.ts";

export const failoverRun: CommandSpec = {
  path: ["failover", "run"],
  summary: "move a group to the standby's site: fence, seal, promote, serve",
  detail:
    "Run it at the site that stands by. Prints the plan, asks for the group's name, and is refused (exit 6) while a check fails. What the old site answered after the last contact is lost and said so.",
  arguments: [{ name: "GROUP", summary: "the group", required: true }],
  examples: [
    "splitsite failover run erp --reason 'primary site without power'",
    "splitsite failover run erp --site dr --yes --json",
    "splitsite failover run erp --dry-run",
  ],
  changes: true,
  async run(call) {
    const { plan, client } = await fetchPlan(call);
    const { terminal } = call;
    const refused = refusedBy(plan);
    if (call.dryRun) {
      answer(call, plan, () => planText(plan, terminal.style));
      return refused.length > 0 ? ExitCode.refused : ExitCode.done;
    }
    // The answer on stdout is the result; the plan is what one reads before deciding.
    if (!call.json) terminal.err(planText(plan, terminal.style));
    const [first] = refused;
    if (first !== undefined) {
      throw new CommandFailure({
        exit: ExitCode.refused,
        id: first.id.toUpperCase().replaceAll(/[^A-Z0-9]+/g, "_"),
        message: `refused: ${refused.map((check) => check.message).join("; ")}`,
        next: `See \`splitsite failover plan ${plan.group}\` for every check.`,
      });
    }
    await confirmName(
      call,
      plan.group,
      `Group ${plan.group} moves from ${plan.oldOwner} to ${plan.newOwner}. Make sure that nothing goes on writing at ${plan.oldOwner}.`,
    );
    const body: FailoverRunRequest = { reason: call.reason ?? "" };
    const progress = await createProgress(terminal, call.json);
    let result: FailoverResult;
    try {
      result = await client.follow<FailoverResult>(
        "gateway",
        { method: "POST", path: adminRoutes.failoverRun(plan.group), body },
        (line) => progress.show(line),
      );
    } finally {
      progress.stop();
    }
    answer(call, result, () => resultText(result));
    return ExitCode.done;
  },
};
