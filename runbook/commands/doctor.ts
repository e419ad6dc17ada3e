/**
 * `doctor`: finds what keeps a site from working, before or after it does not. Runs every check whatever the others
 * say; changes nothing. Each check lives in doctor-checks.ts; this prints them.
 */
import { ExitCode } from "../../protocol/admin.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { asFailure } from "../failure.ts";
import { table } from "../render/table.ts";
import type { Diagnosis } from "./doctor-checks.ts";

export const doctor: CommandSpec = {
  path: ["doctor"],
  summary: "check this host: runtime, configuration, certificates, ports, disks, daemon, the other site",
  detail: "Exit 7 when a check fails; warnings alone leave it at 0.",
  examples: ["splitsite doctor --site primary", "splitsite doctor --json"],
  changes: false,
  async run(call) {
    const diagnoses = await diagnose(call);
    const { style } = call.terminal;
    const colours = { pass: "green", warn: "yellow", fail: "red" } as const;
    answer(call, { checks: diagnoses }, () => {
      const rows = diagnoses.map(({ outcome, id, message }) => [
        style(colours[outcome], outcome.padEnd(4)),
        id,
        message,
      ]);
      const advice = diagnoses.flatMap(({ id, outcome, next }) =>
        outcome === "pass" || next === "" ? [] : [`try (${id}): ${next}\n`],
      );
      return table(rows) + advice.join("");
    });
    return diagnoses.some(({ outcome }) => outcome === "fail") ? ExitCode.foundProblem : ExitCode.done;
  },
};

async function diagnose(call: Call): Promise<Diagnosis[]> {
  const checks = await import("./doctor-checks.ts");
  const found: Diagnosis[] = [checks.checkRuntime(), await checks.checkNativeModules()];
  try {
    const settings = await call.settings();
    found.push({ id: "config", outcome: "pass", message: `${settings.file} is sound`, next: "" });
    const site = await call.site();
    const daemon = await checks.checkDaemon(site);
    found.push(daemon, ...(await checks.checkCertificates(site)), ...(await checks.checkDisk(site)));
    // A daemon that runs holds its ports itself.
    if (daemon.outcome !== "pass") found.push(...(await checks.checkPorts(site)));
    found.push(...checks.checkExposure(site), ...(await checks.checkPeers(settings, site)));
  } catch (error) {
    const failure = asFailure(error);
    found.push({ id: "config", outcome: "fail", message: failure.message, next: failure.next });
  }
  return found;
}
