/**
 * `verify` and `scan ...`: compares a group's standby with its owner in the write order, and looks at scans under way. The
 * owner's agent does the work; a command that ends early leaves it going on.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { ScanReport, ScanRequest } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import type { VerifyResult } from "../../protocol/status.ts";
import { AdminClient } from "../admin-client.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { confirmName } from "../confirm.ts";
import { CommandFailure } from "../failure.ts";
import type { Progress } from "../render/progress.ts";
import { createProgress } from "../render/progress.ts";
import { reportText, verifyText } from "../render/scan.ts";

const group = { name: "GROUP", summary: "the group", required: true } as const;
/** The agent is asked again this often while a scan is followed, ms. */
const askMs = 500;

async function clientOf(call: Call): Promise<AdminClient> {
  return new AdminClient(await call.site(), call.timeoutMs);
}

function report(client: AdminClient, name: string): Promise<ScanReport> {
  return client.send<ScanReport>("agent", { method: "GET", path: adminRoutes.scan(name) });
}

/** Begins a scan and follows it to its end; gives what the agent says then. */
async function scanToEnd(
  client: AdminClient,
  name: string,
  purpose: ScanRequest["purpose"],
  progress: Progress,
): Promise<ScanReport> {
  const body: ScanRequest = { purpose };
  let seen = await client.send<ScanReport>("agent", {
    method: "POST",
    path: adminRoutes.scanStart(name),
    body,
  });
  while (seen.scan !== null) {
    const { doneBytes, totalBytes, reason, state } = seen.scan;
    progress.show({
      type: "progress",
      step: purpose,
      message: reason === null ? state : `${state}: ${reason.message}`,
      time: new Date().toISOString(),
      done: doneBytes,
      total: totalBytes,
    });
    await delay(askMs);
    seen = await report(client, name);
  }
  return seen;
}

/** A verify is over when the standby has read its before-images through as well. */
async function historyToEnd(
  client: AdminClient,
  name: string,
  begun: ScanReport,
  progress: Progress,
): Promise<ScanReport> {
  let seen = begun;
  const verify = seen.verifies[0]?.begin;
  while (seen.verifies[0]?.begin === verify && seen.verifies[0]?.history.state === "pending") {
    const { doneBytes, totalBytes, reason } = seen.historyCheck ?? {
      doneBytes: 0,
      totalBytes: 0,
      reason: null,
    };
    progress.show({
      type: "progress",
      step: "before-images",
      message: reason === null ? "running" : `waiting: ${reason.message}`,
      time: new Date().toISOString(),
      done: doneBytes,
      total: totalBytes,
    });
    await delay(askMs);
    seen = await report(client, name);
  }
  return seen;
}

async function verifyToEnd(client: AdminClient, name: string, progress: Progress): Promise<VerifyResult> {
  const seen = await scanToEnd(client, name, "verify", progress);
  newest(seen);
  return newest(await historyToEnd(client, name, seen, progress));
}

/** Something at the standby is not what it should be: its images, or what it keeps to go back. */
function foundProblem({ differingBlocks, history }: VerifyResult): boolean {
  return differingBlocks > 0 || (history.check?.damagedChunks ?? 0) > 0;
}

function newest(seen: ScanReport): VerifyResult {
  const [result] = seen.verifies;
  if (result?.outcome === "done") return result;
  throw new CommandFailure({
    exit: ExitCode.failed,
    id: "SCAN_GIVEN_UP",
    message: "the check did not come to its end",
    next: "See `splitsite scan status`, then verify again.",
  });
}

export const verify: CommandSpec = {
  path: ["verify"],
  summary: "compare a group's standby with its owner, block by block",
  detail:
    "Run it at the owner's site. Every chunk is compared at its own place in the write order, so writes go on and no difference is a false alarm. Then the standby reads its before-images through. Exit 7 when something differs or is damaged. With --repair the blocks that differ are sent again, and compared again.",
  arguments: [group],
  options: [{ flags: "--repair", summary: "send what differs to the standby, then compare again" }],
  examples: ["splitsite verify erp", "splitsite verify erp --json", "splitsite verify erp --repair --yes"],
  changes: true,
  async run(call) {
    const { name } = await configuredGroup(call);
    const client = await clientOf(call);
    if (call.dryRun) {
      const seen = await report(client, name);
      answer(call, seen, () => `would compare every block of ${name}\n${reportText(seen)}`);
      return ExitCode.done;
    }
    const progress = await createProgress(call.terminal, call.json);
    try {
      let result = await verifyToEnd(client, name, progress);
      if (result.differingBlocks > 0 && call.flag("repair")) {
        progress.stop();
        if (!call.json) call.terminal.err(verifyText(result));
        await confirmName(
          call,
          name,
          `The standby of ${name} gets ${result.differingBlocks} blocks of the owner's content in place of its own.`,
        );
        await scanToEnd(client, name, "repair", progress);
        result = await verifyToEnd(client, name, progress);
      }
      progress.stop();
      answer(call, result, () => verifyText(result));
      return foundProblem(result) ? ExitCode.foundProblem : ExitCode.done;
    } finally {
      progress.stop();
    }
  },
};

export const scanStatus: CommandSpec = {
  path: ["scan", "status"],
  summary: "the scan of a group that is under way, and what the last check found",
  arguments: [group],
  examples: ["splitsite scan status erp", "splitsite scan status erp --json"],
  changes: false,
  async run(call) {
    const { name } = await configuredGroup(call);
    const seen = await report(await clientOf(call), name);
    answer(call, seen, () => reportText(seen));
    return ExitCode.done;
  },
};

/** An order to the scan under way. */
function order(
  word: "pause" | "resume" | "give-up",
  summary: string,
  route: (name: string) => string,
): CommandSpec {
  return {
    path: ["scan", word],
    summary,
    arguments: [group],
    examples: [`splitsite scan ${word} erp`],
    changes: true,
    async run(call) {
      const { name } = await configuredGroup(call);
      const client = await clientOf(call);
      const seen = call.dryRun
        ? await report(client, name)
        : await client.send<ScanReport>("agent", { method: "POST", path: route(name), body: {} });
      answer(call, seen, () => reportText(seen));
      return ExitCode.done;
    },
  };
}

export const scanPause = order(
  "pause",
  "let a scan rest; it keeps its place, also over a restart",
  adminRoutes.scanPause,
);
export const scanResume = order("resume", "let a paused scan go on", adminRoutes.scanResume);
export const scanGiveUp = order(
  "give-up",
  "end a scan without its result; a first sync can only be paused",
  adminRoutes.scanGiveUp,
);
