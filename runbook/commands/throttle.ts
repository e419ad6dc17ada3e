/** `throttle show/set/clear`: the limit of the line, now. An override lasts until cleared, its time, or a restart. */
import type { ThrottleOverride, ThrottleStatus } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { parseDuration, parseRate, rateForm, timeForm } from "../../runtime/settings/units.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { usageFailure } from "../failure.ts";
import { rateText } from "../render/quantities.ts";

const sources = { config: "the configuration", window: "a time window", override: "an override" } as const;

function throttleText(status: ThrottleStatus): string {
  const until =
    status.source === "override"
      ? status.until === null
        ? ", until cleared"
        : `, until ${status.until}`
      : "";
  const next = status.next
    .map(({ at, limitBytesPerSecond }) => `next  ${at}  ${rateText(limitBytesPerSecond)}\n`)
    .join("");
  return `limit ${rateText(status.limitBytesPerSecond)}, from ${sources[status.source]}${until}\n${next}`;
}

async function show(call: Call, client: AdminClient): Promise<ExitCode> {
  const status = await client.send<ThrottleStatus>("agent", { method: "GET", path: adminRoutes.throttle });
  answer(call, status, () => throttleText(status));
  return ExitCode.done;
}

export const throttleShow: CommandSpec = {
  path: ["throttle", "show"],
  summary: "limit of the line now, and its next switches",
  examples: ["splitsite throttle show"],
  changes: false,
  run: async (call) => show(call, new AdminClient(await call.site(), call.timeoutMs)),
};

export const throttleSet: CommandSpec = {
  path: ["throttle", "set"],
  summary: "override the limit of the line",
  detail:
    "Control messages are never limited. Without --for the override lasts until cleared or until the agent restarts.",
  arguments: [{ name: "RATE", summary: "such as 20Mbit/s, or unlimited", required: true }],
  options: [{ flags: "--for TIME", summary: "end the override after this long, such as 2h" }],
  examples: ["splitsite throttle set 20Mbit/s --for 2h", "splitsite throttle set unlimited"],
  changes: true,
  async run(call) {
    const rate = call.argument("RATE") ?? "";
    const limitBytesPerSecond = parseRate(rate);
    if (limitBytesPerSecond === undefined || limitBytesPerSecond === 0)
      throw usageFailure(`RATE is \`${rate}\`, must be ${rateForm}`);
    const time = call.option("for");
    const durationMs = time === undefined ? null : parseDuration(time);
    if (durationMs === undefined || durationMs === 0)
      throw usageFailure(`--for is \`${time}\`, must be ${timeForm}`);
    const body: ThrottleOverride = { limitBytesPerSecond, durationMs };
    const site = await call.site();
    if (call.dryRun) {
      answer(
        call,
        { dryRun: true, ...body },
        () => `would limit the line of site ${site.name} to ${rateText(limitBytesPerSecond)}\n`,
      );
      return ExitCode.done;
    }
    const client = new AdminClient(site, call.timeoutMs);
    await client.send("agent", { method: "PUT", path: adminRoutes.throttle, body });
    return show(call, client);
  },
};

export const throttleClear: CommandSpec = {
  path: ["throttle", "clear"],
  summary: "end the override",
  examples: ["splitsite throttle clear"],
  changes: true,
  async run(call) {
    const client = new AdminClient(await call.site(), call.timeoutMs);
    if (!call.dryRun) await client.send("agent", { method: "DELETE", path: adminRoutes.throttle });
    return show(call, client);
  },
};
