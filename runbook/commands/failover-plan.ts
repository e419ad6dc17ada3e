/** `failover plan GROUP`: what a failover would do and lose. Changes nothing. */
import type { FailoverPlan } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { planText } from "../render/plan.ts";

export async function fetchPlan(
  call: Call,
): Promise<{ readonly plan: FailoverPlan; readonly client: AdminClient }> {
  const { name } = await configuredGroup(call);
  const client = new AdminClient(await call.site(), call.timeoutMs);
  return {
    client,
    plan: await client.send<FailoverPlan>("gateway", { method: "GET", path: adminRoutes.failoverPlan(name) }),
  };
}

export function refusedBy(plan: FailoverPlan) {
  return plan.checks.filter((check) => check.outcome === "fail");
}

export const failoverPlan: CommandSpec = {
  path: ["failover", "plan"],
  summary: "what a failover would do and what would be lost; changes nothing",
  detail: "Run it at the site that stands by. Exit 6 when a check would refuse the run.",
  arguments: [{ name: "GROUP", summary: "the group", required: true }],
  examples: ["splitsite failover plan erp", "splitsite failover plan erp --site dr --json"],
  changes: false,
  async run(call) {
    const { plan } = await fetchPlan(call);
    answer(call, plan, () => planText(plan, call.terminal.style));
    return refusedBy(plan).length > 0 ? ExitCode.refused : ExitCode.done;
  },
};
