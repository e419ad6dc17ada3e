/**
 * A gateway in a process of its own, to be killed: prints its port, runs a failover when it reads a line, and kills
 * itself without warning when the named step begins.
 */
import { startGateway } from "../../gateway/main.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";

const { settings, site, killAt } = JSON.parse(process.argv[2] ?? "{}");
const role = await startGateway({
  settings,
  site,
  clock: systemClock,
  random: systemRandom,
  log: silentLog,
  target: { adopt: async () => [] },
});
process.stdin.on("data", async () => {
  const route = role.adminRoutes.find(
    ({ method, pattern }) => method === "POST" && pattern.endsWith("/failover/run"),
  );
  const bytes = Buffer.from(JSON.stringify({ reason: "killed" }));
  const answer = await route!.run({
    method: "POST",
    path: "",
    params: { group: "erp" },
    query: new URLSearchParams(),
    sites: [],
    contentLength: bytes.length,
    take: async () => bytes,
    body: async () => bytes,
    signal: new AbortController().signal,
  });
  if (!("lines" in answer)) return;
  for await (const line of answer.lines) {
    const { step, type } = line as { step?: string; type: string };
    if (step === killAt || type === killAt) process.kill(process.pid, "SIGKILL");
  }
});
// The parent's end is this process's end.
process.stdin.on("end", () => process.exit(0));
process.stdout.write(`${role.wanAddress.kind === "tcp" ? role.wanAddress.port : 0}\n`);
