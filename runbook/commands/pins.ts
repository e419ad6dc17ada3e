/** `points pin/unpin GROUP POINT`: keeps a point beyond window and limit, and lets it go; says what that costs on disk. */
import type { PinReport, PinRequest, UnpinRequest } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { parsePoint, pointForm } from "../../protocol/point.ts";
import { AdminClient } from "../admin-client.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { usageFailure } from "../failure.ts";
import { pastHolder } from "../past-holder.ts";
import { bytesText, countText } from "../render/quantities.ts";

const group = { name: "GROUP", summary: "the group", required: true } as const;

export const pointsPin: CommandSpec = {
  path: ["points", "pin"],
  summary: "keep a point of a group until it is unpinned",
  detail:
    "Run it at the site that keeps the points. A pinned point can be opened beyond protection.history.window and maxBytes, and the history may grow longer than its limit for it: what it keeps is said, and shown by `points` and `status`.",
  arguments: [group, { name: "POINT", summary: pointForm, required: true }],
  options: [{ flags: "--label TEXT", summary: "why, at most 256 characters" }],
  examples: [
    "splitsite points pin erp latest --site dr",
    'splitsite points pin erp 806 --label "before the upgrade"',
  ],
  changes: true,
  async run(call) {
    const { name } = await configuredGroup(call);
    const point = call.argument("POINT") ?? "";
    if (parsePoint(point) === undefined) throw usageFailure(`POINT is \`${point}\`, must be ${pointForm}`);
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const role = await pastHolder(client, name);
    const body: PinRequest = { point, label: call.option("label") ?? "" };
    if (call.dryRun) {
      answer(call, { dryRun: true, group: name, ...body }, () => `would pin the point ${point} of ${name}\n`);
      return ExitCode.done;
    }
    const path = adminRoutes.pointPin(role, name);
    const report = await client.send<PinReport>(role, { method: "POST", path, body });
    answer(call, report, () => `pinned ${report.id}: ${costText(report)}`);
    return ExitCode.done;
  },
};

export const pointsUnpin: CommandSpec = {
  path: ["points", "unpin"],
  summary: "let a pinned point of a group go",
  arguments: [group, { name: "PIN", summary: "id of the pin, or its sequence", required: true }],
  examples: ["splitsite points unpin erp 806 --site dr", "splitsite points unpin erp repair-806"],
  changes: true,
  async run(call) {
    const { name } = await configuredGroup(call);
    const pin = call.argument("PIN") ?? "";
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const role = await pastHolder(client, name);
    const body: UnpinRequest = { pin };
    if (call.dryRun) {
      answer(call, { dryRun: true, group: name, ...body }, () => `would unpin ${pin} of ${name}\n`);
      return ExitCode.done;
    }
    const path = adminRoutes.pointUnpin(role, name);
    const report = await client.send<PinReport>(role, { method: "POST", path, body });
    answer(call, report, () => `unpinned ${report.id}: ${costText(report)}`);
    return ExitCode.done;
  },
};

function costText({ group: name, sequence, keptBytes, historyBytes, historyBytesMax }: PinReport): string {
  const over =
    historyBytes > historyBytesMax ? `, ${bytesText(historyBytes - historyBytesMax)} beyond its limit` : "";
  return `${name} at ${countText(sequence)}, ${bytesText(keptBytes)} of before-images behind it; the history has ${bytesText(historyBytes)} of ${bytesText(historyBytesMax)}${over}\n`;
}
