/** `watch`: the status screen, once a second, until `q`. Plain lines where there is no terminal. Reads only. */
import { setTimeout as delay } from "node:timers/promises";
import { ExitCode } from "../../protocol/admin.ts";
import type { SiteStatus } from "../../protocol/status.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { asFailure, CommandFailure, usageFailure } from "../failure.ts";
import { groupSentence, siteText } from "../render/status.ts";
import type { Terminal } from "../terminal.ts";

/** Between two looks, ms. */
const intervalMs = 1_000;
const clearScreen = "\u001b[H\u001b[2J";

export const watch: CommandSpec = {
  path: ["watch"],
  summary: "the status screen, redrawn every second until q",
  options: [
    { flags: "--ascii", summary: "no colours and no redrawing: one line for each group and look" },
    { flags: "--count N", summary: "end after this many looks" },
  ],
  examples: [
    "splitsite watch",
    "splitsite watch --ascii | tee watch.log",
    "splitsite watch --json --count 10",
  ],
  changes: false,
  async run(call) {
    const looks = parseCount(call.option("count"));
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const redraw = call.terminal.interactive && !call.flag("ascii") && !call.json;
    const stop = new AbortController();
    const release = redraw
      ? call.terminal.keys((key) => {
          if (key === "q" || key === "Q" || key === "\u0003") stop.abort();
        })
      : () => undefined;
    try {
      for (let look = 1; !stop.signal.aborted; look += 1) {
        await showOnce(call, client, redraw);
        if (look === looks) break;
        await delay(intervalMs, undefined, { signal: stop.signal }).catch(ignoreAbort);
      }
    } finally {
      release();
    }
    return ExitCode.done;
  },
};

function parseCount(text: string | undefined): number {
  if (text === undefined) return Number.POSITIVE_INFINITY;
  const count = Number(text);
  if (!Number.isSafeInteger(count) || count < 1)
    throw usageFailure(`--count is \`${text}\`, must be a whole number from 1 on`);
  return count;
}

function ignoreAbort(error: unknown): void {
  // The wait was cut short by a key: the loop's condition sees it.
  if (!(error instanceof Error && error.name === "AbortError")) throw error;
}

/** A daemon that restarts is part of what one watches, so its silence is shown, not an end. */
async function showOnce(call: Call, client: AdminClient, redraw: boolean): Promise<void> {
  const { terminal } = call;
  try {
    const status = await client.status();
    if (call.json) terminal.out(`${JSON.stringify(status)}\n`);
    else if (redraw) terminal.out(screen(terminal, siteText(status, terminal.style)));
    else terminal.out(plainLines(status));
  } catch (error) {
    const failure = asFailure(error);
    if (!(failure instanceof CommandFailure) || failure.exit !== ExitCode.unreachable || call.json)
      throw error;
    const line = `${new Date().toISOString()} ${failure.message}\n`;
    terminal.out(redraw ? screen(terminal, line) : line);
  }
}

function screen(terminal: Terminal, text: string): string {
  const lines = text.split("\n").slice(0, Math.max(1, terminal.rows - 2));
  return `${clearScreen}${lines.join("\n")}\n${terminal.style("dim", "q to quit")}`;
}

function plainLines(status: SiteStatus): string {
  return status.groups.map((group) => `${status.time} ${group.group} ${groupSentence(group)}\n`).join("");
}
