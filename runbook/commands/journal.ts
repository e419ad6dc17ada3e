/** `journal stats/verify`: figures and evidence of the owner's journal. Reads only. */
import type { JournalStats, JournalVerdict } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { AdminClient } from "../admin-client.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { configuredGroup } from "../configured-group.ts";
import { createProgress } from "../render/progress.ts";
import { bytesText, countText, plural } from "../render/quantities.ts";
import { table } from "../render/table.ts";

const group = { name: "GROUP", summary: "the group", required: true } as const;

export const journalStats: CommandSpec = {
  path: ["journal", "stats"],
  summary: "what the journal of a group holds",
  arguments: [group],
  examples: ["splitsite journal stats erp"],
  changes: false,
  async run(call) {
    const { name } = await configuredGroup(call);
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const stats = await client.send<JournalStats>("agent", {
      method: "GET",
      path: adminRoutes.journalStats(name),
    });
    answer(call, stats, () =>
      table([
        ["group", stats.group],
        ["epoch", String(stats.epoch)],
        ["holds", `after ${countText(stats.head)} up to ${countText(stats.tail)}`],
        ["durable", countText(stats.durable)],
        ["frames", countText(stats.frames)],
        ["size", `${bytesText(stats.bytes)} of ${bytesText(stats.maxBytes)}`],
      ]),
    );
    return ExitCode.done;
  },
};

export const journalVerify: CommandSpec = {
  path: ["journal", "verify"],
  summary: "read a group's journal and prove that nothing is missing or changed",
  detail:
    "Checks that sequences are contiguous, the checksum of every frame's header, and the chain over all records. Exit 7 when it finds a problem.",
  arguments: [group],
  examples: ["splitsite journal verify erp", "splitsite journal verify erp --json"],
  changes: false,
  async run(call) {
    const { name } = await configuredGroup(call);
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const progress = await createProgress(call.terminal, call.json);
    let verdict: JournalVerdict;
    try {
      verdict = await client.follow<JournalVerdict>(
        "agent",
        { method: "POST", path: adminRoutes.journalVerify(name), body: {} },
        (line) => progress.show(line),
      );
    } finally {
      progress.stop();
    }
    answer(call, verdict, () => verdictText(verdict));
    return verdict.sound ? ExitCode.done : ExitCode.foundProblem;
  },
};

function verdictText(verdict: JournalVerdict): string {
  const range =
    verdict.frames === 0
      ? `nothing is kept; everything up to record ${countText(verdict.last)} is in the images and acknowledged`
      : `${plural(verdict.frames, "frame")}, ${bytesText(verdict.bytes)}, records ${countText(verdict.first)} to ${countText(verdict.last)}`;
  if (verdict.problem === null) return `sound: ${range}\nchain ${verdict.chain}\n`;
  const at = verdict.problem.sequence === null ? "" : ` at record ${countText(verdict.problem.sequence)}`;
  return `PROBLEM ${verdict.problem.code}${at}: ${verdict.problem.message}\nsound up to there: ${range}\n`;
}
