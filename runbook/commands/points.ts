/** `points GROUP`: the points of a group that can be opened. Reads only. */
import type { PointList } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { usageFailure } from "../failure.ts";
import { pastHolder } from "../past-holder.ts";
import { bytesText, countText } from "../render/quantities.ts";
import { table } from "../render/table.ts";

export const points: CommandSpec = {
  path: ["points"],
  summary: "the points of a group that can be opened",
  detail:
    "Run it at the site that keeps them: the one that stands by, or that has taken the group over. Without --from the newest, oldest first.",
  arguments: [{ name: "GROUP", summary: "the group", required: true }],
  options: [
    { flags: "--from SEQUENCE", summary: "from this record on" },
    { flags: "--limit N", summary: "at most so many (default 20, at most 10000)" },
  ],
  examples: ["splitsite points erp --site dr", "splitsite points erp --from 806 --limit 100 --json"],
  changes: false,
  async run(call) {
    const { name } = await configuredGroup(call);
    const query = new URLSearchParams();
    for (const option of ["from", "limit"] as const) {
      const count = countOption(call, option);
      if (count !== undefined) query.set(option, count);
    }
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const role = await pastHolder(client, name);
    const list = await client.send<PointList>(role, {
      method: "GET",
      path: `${adminRoutes.points(role, name)}?${query}`,
    });
    answer(call, list, () => pointsText(list));
    return ExitCode.done;
  },
};

function countOption(call: Call, name: string): string | undefined {
  const text = call.option(name);
  if (text === undefined || /^\d{1,15}$/.test(text)) return text;
  throw usageFailure(`--${name} is \`${text}\`, must be a whole number`);
}

function pointsText({ points: found }: PointList): string {
  if (found.length === 0) return "no points there\n";
  return table([
    ["SEQUENCE", "TIME", "WRITTEN SINCE", "PINS"],
    ...found.map(({ sequence, time, bytes, pins }) => [
      countText(sequence),
      time ?? "the beginning",
      bytes === null ? "-" : bytesText(bytes),
      pins.join(", "),
    ]),
  ]);
}
