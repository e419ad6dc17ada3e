/**
 * `run`: the daemon. Parses what was asked, hands over to the service, and turns signals into an orderly end. Owns the
 * life of the process; what the roles do is theirs.
 */
import { ExitCode } from "../../protocol/admin.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { Settings, SiteSettings } from "../../runtime/settings/types.ts";
import type { Role } from "../admin-address.ts";
import type { Call, CommandSpec } from "../command.ts";
import { usageFailure } from "../failure.ts";
import type { RoleStarters, Service } from "../service.ts";

const levels = ["debug", "info", "warn", "error"] as const;

/** The whole way down, ms; what is not closed by then is left to the crash recovery, which is the tested path. */
const shutdownMs = 10_000;

export const run: CommandSpec = {
  path: ["run"],
  summary: "run the daemon of a site",
  detail:
    "Starts the roles that the site has in the configuration and logs one line READY with its addresses; logs are JSON lines on stdout. SIGTERM and SIGINT end it within 10 s; a second one ends it at once (exit 130). SIGHUP reads the configuration again: volumes that grow or join are taken over while everything runs; what else differs is logged by its key and needs a restart, and a file that is not valid changes nothing. With --role each role is a process of its own: its admin socket is then the configured one with .agent or .gateway appended (over TCP the gateway uses the next port), and commands find both.",
  options: [
    { flags: "--role ROLE", summary: "only this role: agent or gateway" },
    { flags: "--log LEVEL", summary: `least level that is logged: ${levels.join(", ")} (default: info)` },
  ],
  examples: [
    "splitsite run --config /etc/splitsite/splitsite.yaml --site primary",
    "splitsite run --site dr --role gateway",
  ],
  changes: true,
  async run(call) {
    const level = levels.find((candidate) => candidate === (call.option("log") ?? "info"));
    if (level === undefined) throw usageFailure(`--log must be one of: ${levels.join(", ")}`);
    const site = await call.site();
    const roles = chooseRoles(call, site);
    if (call.dryRun) {
      call.terminal.out(`would run site ${site.name}: ${roles.join(", ")}\n`);
      return ExitCode.done;
    }
    return serve(call, site, roles, level);
  },
};

function chooseRoles(call: Call, site: SiteSettings): Role[] {
  const configured = [
    ...(site.agent === null ? [] : ["agent" as const]),
    ...(site.gateway === null ? [] : ["gateway" as const]),
  ];
  const wanted = call.option("role");
  if (wanted === undefined) return configured;
  if (wanted !== "agent" && wanted !== "gateway")
    throw usageFailure(`--role is \`${wanted}\`, must be agent or gateway`);
  if (configured.includes(wanted)) return [wanted];
  throw new OperationalError({
    code: "ROLE_NOT_CONFIGURED",
    message: `site ${site.name} has no ${wanted} in the configuration`,
    reaction: "stop",
    hint: `Its roles are: ${configured.join(", ")}.`,
  });
}

/** The composition roots, and with them every native module. No other file of the CLI reaches them. */
export async function loadRoles(): Promise<RoleStarters> {
  const [{ startAgent }, { startGateway }] = await Promise.all([
    import("../../site-agent/main.ts"),
    import("../../gateway/main.ts"),
  ]);
  return { startAgent, startGateway };
}

async function serve(
  call: Call,
  site: SiteSettings,
  roles: readonly Role[],
  level: (typeof levels)[number],
): Promise<ExitCode> {
  // Journals, images and sockets are this user's alone.
  process.umask(0o077);
  const { createLog } = await import("../../runtime/log.ts");
  const log = createLog(level).child({ site: site.name });
  const stopped = untilSignal(log.info.bind(log));
  // From the first moment on: unheard it would end the process.
  const reloads = new Reloads(call.configFile, log);
  process.on("uncaughtException", (error) => {
    // Nobody knows what state this left behind, so nothing more is written; the restart recovers.
    log.error("UNCAUGHT", "unexpected error, ending", error);
    process.exit(ExitCode.failed);
  });
  // Loaded here only: every other command starts without the database and the codecs.
  const [{ startService }, starters] = await Promise.all([import("../service.ts"), loadRoles()]);
  const starting = startService({
    settings: await call.settings(),
    site,
    roles,
    apart: call.option("role") !== undefined,
    starters,
    log,
  });
  const signal = await Promise.race([stopped, starting.then(() => undefined)]);
  const service = await starting;
  reloads.serve(service);
  log.info("READY", "serving", { roles, ...service.addresses });
  const received = signal ?? (await stopped);
  log.info("STOPPING", "shutting down", { signal: received });
  const deadline = setTimeout(() => {
    log.error("STOP_TIMEOUT", `not closed within ${shutdownMs} ms, ending as after a crash`);
    process.exit(ExitCode.failed);
  }, shutdownMs - 500);
  await service.close();
  clearTimeout(deadline);
  log.info("STOPPED", "shut down cleanly");
  // Nothing is left to do; a handle that a library forgot must not keep the process.
  process.exit(ExitCode.done);
}

/** SIGHUP: the configuration is read again, as often as it is asked for, one reading after another. */
class Reloads {
  readonly #file: string;
  readonly #log: Log;
  #serve: (service: Service) => void = () => {};
  #reading: Promise<void>;

  constructor(file: string, log: Log) {
    this.#file = file;
    this.#log = log;
    // What is asked for before everything is started is done then.
    const started = new Promise<Service>((resolve) => (this.#serve = resolve));
    this.#reading = started.then(() => {});
    process.on("SIGHUP", () => {
      this.#reading = this.#reading.then(async () => this.#reload(await started));
    });
  }

  serve(service: Service): void {
    this.#serve(service);
  }

  async #reload(service: Service): Promise<void> {
    let settings: Settings;
    try {
      const { loadSettings } = await import("../../runtime/settings/load.ts");
      settings = await loadSettings(this.#file);
    } catch (error) {
      // Whatever is wrong with the file: what runs goes on as it is.
      const findings = error instanceof OperationalError ? error.details["findings"] : undefined;
      this.#log.error("RELOAD_REFUSED", "the configuration is not taken, nothing has changed", error, {
        findings,
      });
      return;
    }
    const restart = service.reload(settings);
    if (restart.length > 0)
      this.#log.warn("RESTART_NEEDED", "keys of the configuration differ that need a restart", {
        keys: restart,
      });
    this.#log.info("RELOADED", "the configuration was read again", { file: this.#file, restart });
  }
}

/** Settles at the first signal; the second ends the process at once. */
function untilSignal(say: (code: string, message: string) => void): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let seen = 0;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        seen += 1;
        if (seen === 1) {
          resolve(signal);
          return;
        }
        say("STOP_NOW", "second signal, ending at once");
        process.exit(ExitCode.interrupted);
      });
    }
  });
}
