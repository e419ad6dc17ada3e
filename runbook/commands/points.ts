/** `points GROUP`: the points of a group that can be opened, and the digest of one of them. Reads only. */
import type { PastRole, PointList } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { parsePoint, pointForm } from "../../protocol/point.ts";
import type { PointDigest } from "../../protocol/point-digest.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { usageFailure } from "../failure.ts";
import { pastHolder } from "../past-holder.ts";
import { createProgress } from "../render/progress.ts";
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
    { flags: "--digest POINT", summary: `make the digest of the whole group at one point: ${pointForm}` },
  ],
  examples: [
    "splitsite points erp --site dr",
    "splitsite points erp --from 806 --limit 100 --json",
    "splitsite points erp --digest latest --json",
  ],
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
    const point = call.option("digest");
    if (point !== undefined) {
      if (parsePoint(point) === undefined)
        throw usageFailure(`--digest is \`${point}\`, must be ${pointForm}`);
      const made = await makeDigest(call, client, role, name, point);
      answer(call, made, () => digestText(made));
      return ExitCode.done;
    }
    const list = await client.send<PointList>(role, {
      method: "GET",
      path: `${adminRoutes.points(role, name)}?${query}`,
    });
    answer(call, list, () => pointsText(list));
    return ExitCode.done;
  },
};

/** Reads every volume of the group at the point, unless its digest was made before. */
export async function makeDigest(
  call: Call,
  client: AdminClient,
  role: PastRole,
  group: string,
  point: string,
): Promise<PointDigest> {
  const progress = await createProgress(call.terminal, call.json);
  const path = `${adminRoutes.pointDigest(role, group)}?${new URLSearchParams({ point })}`;
  try {
    return await client.follow<PointDigest>(role, { method: "POST", path, body: {} }, (line) =>
      progress.show(line),
    );
  } finally {
    progress.stop();
  }
}

function digestText({ group, sequence, time, chain, volumes, digest }: PointDigest): string {
  return table([
    ["point", `${group} at ${countText(sequence)}  ${time ?? "the beginning"}`],
    ["digest", digest],
    ["chain", chain],
    ...volumes.map((volume) => [volume.name, volume.digest]),
  ]);
}

function countOption(call: Call, name: string): string | undefined {
  const text = call.option(name);
  if (text === undefined || /^\d{1,15}$/.test(text)) return text;
  throw usageFailure(`--${name} is \`${text}\`, must be a whole number`);
}

function pointsText({ points: found, pins: all }: PointList): string {
  const kept = all.map(
    ({ id, sequence, label, since, keptBytes }) =>
      `pinned ${since}: ${id} at ${countText(sequence)}, keeps ${bytesText(keptBytes)}${label === "" ? "" : `, ${label}`}\n`,
  );
  if (found.length === 0) return `no points there\n${kept.join("")}`;
  return `${pointRows(found)}${kept.join("")}`;
}

function pointRows(found: PointList["points"]): string {
  return table([
    ["SEQUENCE", "TIME", "WRITTEN SINCE", "DIGEST", "PINS"],
    ...found.map(({ sequence, time, bytes, pins, digest }) => [
      countText(sequence),
      time ?? "the beginning",
      bytes === null ? "-" : bytesText(bytes),
      digest === null ? "-" : `${digest.slice(0, 16)}...`,
      pins.join(", "),
    ]),
  ]);
}
