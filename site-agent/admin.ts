/** The agent's admin routes: orders to one group, the throttle, the journal's evidence, and the points of a group that was taken over. A thin translation. */
import { pastRoutes } from "../image/past-routes.ts";
import { journalStats, verifyFrameLog } from "../journal/inspect.ts";
import type {
  AdminLine,
  GroupResumeRequest,
  JournalStats,
  ScanReport,
  ScanRequest,
} from "../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../protocol/admin.ts";
import { orderNoteOf } from "../protocol/group-life.ts";
import type { AdoptedExport } from "../protocol/handover.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import { retireRequestOf } from "../protocol/retirement.ts";
import type { Clock } from "../runtime/clock.ts";
import { rfc3339 } from "../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { HttpRequest, Route } from "../runtime/http.ts";
import { LineQueue } from "../runtime/line-queue.ts";
import type { LongOrder } from "../runtime/order-lines.ts";
import { orderLines } from "../runtime/order-lines.ts";
import type { OwnedGroup } from "./group/owned-group.ts";

/** Orders are a few fields; anything longer is not one. */
const orderBytesMax = 64 * 1024;

async function order(request: HttpRequest): Promise<Readonly<Record<string, unknown>>> {
  const body = await request.body(orderBytesMax);
  if (body.byteLength === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    throw new RemoteProtocolError("ORDER_MALFORMED", "the order is not JSON");
  }
  if (typeof value !== "object" || value === null)
    throw new RemoteProtocolError("ORDER_MALFORMED", "the order is not an object");
  return value as Readonly<Record<string, unknown>>;
}

function openJournal(group: OwnedGroup) {
  const { journal } = group;
  if (journal !== null) return journal;
  throw new OperationalError({
    code: "JOURNAL_CLOSED",
    message: `the journal of group ${group.name} is not open`,
    reaction: "refuse",
    hint: "Only the owner's agent has it open; see: status.",
  });
}

/** `adopt` takes over what this site's gateway handed over, when that runs as a process of its own. */
export function agentAdminRoutes(
  groups: ReadonlyMap<string, OwnedGroup>,
  adopt: (group: string) => Promise<readonly AdoptedExport[]>,
  clock: Clock,
): Route[] {
  const find = (request: HttpRequest): OwnedGroup => {
    const name = request.params["group"] ?? "";
    const group = groups.get(name);
    if (group !== undefined) return group;
    throw new OperationalError({
      code: "GROUP_UNKNOWN",
      message: `no group ${name}`,
      reaction: "refuse",
      hint: "See: status.",
    });
  };
  return [
    ...pastRoutes("agent", find, clock),
    {
      method: "POST",
      pattern: adminRoutes.groupCreate(":group"),
      run: async (request) => {
        const group = find(request);
        await group.create();
        return { status: 200, json: group.status() };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.groupPause(":group"),
      run: async (request) => {
        const group = find(request);
        await group.pause(orderNoteOf(await order(request)));
        return { status: 200, json: group.status() };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.groupResume(":group"),
      run: async (request) => {
        const group = find(request);
        const { acceptUnflushed } = (await order(request)) as Partial<GroupResumeRequest>;
        await group.resume(acceptUnflushed === true);
        return { status: 200, json: group.status() };
      },
    },
    ...retireRoutes(find, clock),
    {
      method: "POST",
      pattern: adminRoutes.groupAdopt(":group"),
      run: async (request) => {
        const group = find(request);
        // The durable hand-over record is what counts; the request only says that it is there.
        await order(request);
        return { status: 200, json: await adopt(group.name) };
      },
    },
    ...scanRoutes(find),
    {
      method: "GET",
      pattern: adminRoutes.journalStats(":group"),
      run: async (request) => {
        const group = find(request);
        const { log, epoch } = openJournal(group);
        const stats: JournalStats = { group: group.name, epoch, ...journalStats(log) };
        return { status: 200, json: stats };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.journalVerify(":group"),
      run: async (request) => {
        const group = find(request);
        return { status: 200, lines: verifyLines(group, clock) };
      },
    },
  ];
}

function retireRoutes(find: (request: HttpRequest) => OwnedGroup, clock: Clock): Route[] {
  const pattern = adminRoutes.retire("agent", ":group");
  const long: LongOrder = {
    step: "retire",
    message: "ending the group's life here",
    clock,
    advice: "Look at `splitsite status`: the group is retired, or served as before.",
  };
  return [
    { method: "GET", pattern, run: async (request) => ({ status: 200, json: find(request).retirePlan }) },
    {
      method: "POST",
      pattern,
      run: async (request) => {
        const group = find(request);
        const wanted = retireRequestOf(await order(request));
        const retire = async () => {
          await group.retire(wanted);
          return group.status().retired;
        };
        return { status: 200, lines: orderLines(long, retire) };
      },
    },
  ];
}

function scanRoutes(find: (request: HttpRequest) => OwnedGroup): Route[] {
  const report = (group: OwnedGroup) => {
    const json: ScanReport = {
      group: group.name,
      scan: group.scans.status(),
      historyCheck: group.scans.historyCheck,
      verifies: group.scans.results,
    };
    return { status: 200, json };
  };
  /** An order to the scans of a group, answered with what has come of it. */
  const post = (
    pattern: string,
    run: (group: OwnedGroup, fields: Readonly<Record<string, unknown>>) => Promise<void>,
  ): Route => ({
    method: "POST",
    pattern,
    run: async (request) => {
      const group = find(request);
      await run(group, await order(request));
      return report(group);
    },
  });
  return [
    { method: "GET", pattern: adminRoutes.scan(":group"), run: async (request) => report(find(request)) },
    post(adminRoutes.scanStart(":group"), (group, fields) => {
      const { purpose } = fields as Partial<ScanRequest>;
      if (purpose === "verify") return group.scans.verify();
      if (purpose === "repair") return group.scans.repair();
      throw new RemoteProtocolError("ORDER_MALFORMED", "a scan is ordered for verify or repair");
    }),
    post(adminRoutes.scanPause(":group"), (group) => group.scans.pause(true)),
    post(adminRoutes.scanResume(":group"), (group) => group.scans.pause(false)),
    post(adminRoutes.scanGiveUp(":group"), (group) => group.scans.giveUp()),
  ];
}

/** Verification as lines: progress, then the verdict. Goes on when the listener goes away; it only reads. */
function verifyLines(group: OwnedGroup, clock: Clock): AsyncIterable<AdminLine> {
  const { log } = openJournal(group);
  const lines = new LineQueue();
  const run = async (): Promise<void> => {
    try {
      const verdict = await verifyFrameLog(log, ({ sequence, end }) => {
        const message = `record ${sequence} of ${end}`;
        const time = rfc3339(clock.wallMs());
        lines.push({ type: "progress", step: "verify", message, time, done: sequence, total: end });
      });
      lines.push({ type: "result", result: { group: group.name, ...verdict } });
    } catch (error) {
      lines.push({
        type: "error",
        code: ExitCode.failed,
        id: errorCode(error),
        message: errorText(error),
        try: "Look at the log of the agent; the journal could not be read to its end.",
      });
    }
    lines.end();
  };
  void run();
  return lines;
}
