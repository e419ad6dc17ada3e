/**
 * The CLI's side of the admin endpoint: finds the process that answers for a role, sends one order, decodes the
 * answer. Errors of the daemon come out as its own statement with its own exit code. Never sends an order twice:
 * another address is tried only when nothing could have been received.
 */
import { readFile } from "node:fs/promises";
import type { AdminError, AdminLine } from "../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../protocol/admin.ts";
import type { SiteStatus } from "../protocol/status.ts";
import { errorCode, OperationalError } from "../runtime/errors.ts";
import type { HttpClient } from "../runtime/http-client.ts";
import { formatAddress } from "../runtime/settings/address.ts";
import type { Address, SiteSettings } from "../runtime/settings/types.ts";
import type { Role } from "./admin-address.ts";
import { adminAddress } from "./admin-address.ts";
import { adminFailure, CommandFailure } from "./failure.ts";
import { mergeStatuses } from "./merge-statuses.ts";

/** A status of 256 groups with 256 volumes each, about 60 bytes a volume. */
const answerBytesMax = 8 * 1024 * 1024;
const lineBytesMax = 1024 * 1024;
/** The daemon answers from memory; if it does not in this time it hangs, ms. */
const answerTimeoutMs = 10_000;

export interface AdminOrder {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly body?: unknown;
}

export class AdminClient {
  readonly #site: SiteSettings;
  readonly #timeoutMs: number | null;

  /** `timeoutMs`: for the whole of each order; null: 10 s for an answer, no limit for long work. */
  constructor(site: SiteSettings, timeoutMs: number | null) {
    this.#site = site;
    this.#timeoutMs = timeoutMs;
  }

  /** Sends an order to the process that has `role`; the answer's JSON. CommandFailure when it says no. */
  async send<T>(role: Role, order: AdminOrder): Promise<T> {
    return this.#withClient([null, role], (client) => this.#request<T>(client, order));
  }

  /** Status of the site, put together when its roles run apart. */
  async status(): Promise<SiteStatus> {
    const order: AdminOrder = { method: "GET", path: adminRoutes.status };
    const ask = (role: Role | null) =>
      this.#withClient([role], (client) => this.#request<SiteStatus>(client, order));
    const parts: SiteStatus[] = [];
    let unreachable: unknown;
    for (const role of [null, "agent", "gateway"] as const) {
      if (role === "agent" && parts.length > 0) break;
      // Over TCP the agent's own address is the shared one, which was asked already.
      if (role === "agent" && this.#site.admin.kind === "tcp") continue;
      try {
        parts.push(await ask(role));
      } catch (error) {
        if (!(error instanceof CommandFailure) || error.id !== "DAEMON_UNREACHABLE") throw error;
        unreachable ??= error;
      }
    }
    const [first] = parts;
    if (first === undefined) throw unreachable;
    return { ...first, groups: mergeStatuses(parts.flatMap((part) => part.groups)) };
  }

  /** Long work: calls `progress` for each such line, waits for `data` with each of those, and answers the result. */
  async follow<T>(
    role: Role,
    order: AdminOrder,
    progress: (line: Extract<AdminLine, { type: "progress" }>) => void,
    data: (line: Extract<AdminLine, { type: "data" }>) => Promise<void> = unexpectedData,
  ): Promise<T> {
    return this.#withClient([null, role], async (client) => {
      const { status, lines } = await client.lines({
        ...this.#message(order),
        headersTimeoutMs: answerTimeoutMs,
        idleTimeoutMs: 0,
        lineBytesMax,
      });
      for await (const value of lines) {
        const line = decodeLine(value);
        if (line.type === "progress") progress(line);
        if (line.type === "data") await data(line);
        if (line.type === "error") throw adminFailure(line);
        // The shape of a result belongs to the route; the daemon is of the same version.
        if (line.type === "result") return line.result as T;
      }
      throw new CommandFailure({
        exit: ExitCode.unreachable,
        id: "ANSWER_CUT",
        message: `the daemon's answer ended without a result (HTTP ${status})`,
        next: "The work may be done or not: look at `splitsite status` before you try again.",
      });
    });
  }

  async #request<T>(client: HttpClient, order: AdminOrder): Promise<T> {
    const reply = await client.request({
      ...this.#message(order),
      headersTimeoutMs: this.#timeoutMs ?? answerTimeoutMs,
      answerBytesMax,
    });
    const value = parseAnswer(reply.body);
    if (isAdminError(value)) throw adminFailure(value);
    if (reply.status >= 300) {
      throw new CommandFailure({
        exit: ExitCode.failed,
        id: "ANSWER_UNKNOWN",
        message: `the daemon answered HTTP ${reply.status}`,
      });
    }
    // As above: one version at both ends of the admin endpoint.
    return value as T;
  }

  #message(order: AdminOrder) {
    const body = order.body === undefined ? undefined : Buffer.from(JSON.stringify(order.body));
    return {
      method: order.method,
      path: order.path,
      ...(body === undefined
        ? {}
        : { body, headers: { "content-type": "application/json" }, contentLength: body.byteLength }),
      ...(this.#timeoutMs === null ? {} : { signal: AbortSignal.timeout(this.#timeoutMs) }),
    };
  }

  async #withClient<T>(roles: readonly (Role | null)[], use: (client: HttpClient) => Promise<T>): Promise<T> {
    let unreachable: unknown;
    for (const address of distinct(roles.map((role) => adminAddress(this.#site, role)))) {
      const client = await this.#connect(address);
      try {
        return await use(client);
      } catch (error) {
        if (errorCode(error) === "REQUEST_ABORTED" && this.#timeoutMs !== null)
          throw timeoutFailure(this.#timeoutMs);
        // Refused or absent before anything was sent: the other address may be the right one.
        if (errorCode(error) !== "PEER_UNREACHABLE") throw error;
        if (error instanceof OperationalError && error.details["raw"] === "EACCES")
          throw notPermitted(address);
        unreachable = error;
      } finally {
        await client.destroy();
      }
    }
    throw new CommandFailure({
      exit: ExitCode.unreachable,
      id: "DAEMON_UNREACHABLE",
      message: `nothing answers for site ${this.#site.name} at ${formatAddress(this.#site.admin)}`,
      why:
        unreachable instanceof OperationalError && unreachable.cause instanceof Error
          ? unreachable.cause.message
          : String(unreachable),
      next: `Start it with \`splitsite run --site ${this.#site.name}\`, or run this command on the site's host.`,
    });
  }

  async #connect(address: Address): Promise<HttpClient> {
    // Loaded here: commands that ask no daemon start without it.
    const { createHttpClient } = await import("../runtime/http-client.ts");
    if (address.kind === "unix") return createHttpClient({ socketPath: address.path, connections: 1 });
    const { tls, name } = this.#site;
    const [ca, cert, key] = await Promise.all([readFile(tls.ca), readFile(tls.cert), readFile(tls.key)]);
    return createHttpClient({
      origin: `https://${formatAddress(address)}`,
      tls: { ca, cert, key, serverSite: name },
      connections: 1,
    });
  }
}

function distinct(addresses: readonly Address[]): Address[] {
  const seen = new Set<string>();
  return addresses.filter((address) => {
    const text = formatAddress(address);
    if (seen.has(text)) return false;
    seen.add(text);
    return true;
  });
}

function notPermitted(address: Address): CommandFailure {
  return new CommandFailure({
    exit: ExitCode.notPermitted,
    id: "NOT_PERMITTED",
    message: `this user may not open ${formatAddress(address)}`,
    next: "Run the command as the user of the service.",
  });
}

function timeoutFailure(timeoutMs: number): CommandFailure {
  return new CommandFailure({
    exit: ExitCode.timeout,
    id: "TIMEOUT",
    message: `no answer within ${timeoutMs} ms`,
    next: "An order that was sent may still be carried out: look at `splitsite status` before you try again.",
  });
}

function isAdminError(value: unknown): value is AdminError {
  return (
    typeof value === "object" &&
    value !== null &&
    "type" in value &&
    value.type === "error" &&
    "id" in value &&
    "code" in value &&
    typeof value.code === "number"
  );
}

function decodeLine(value: unknown): AdminLine {
  if (typeof value === "object" && value !== null && "type" in value) {
    const { type } = value;
    if (type === "progress" || type === "data" || type === "result" || type === "error")
      return value as AdminLine;
  }
  throw unknownLine();
}

function unknownLine(): CommandFailure {
  return new CommandFailure({
    exit: ExitCode.failed,
    id: "ANSWER_UNKNOWN",
    message: "the daemon sent a line that this version does not know",
  });
}

async function unexpectedData(): Promise<void> {
  throw unknownLine();
}

function parseAnswer(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8"));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new CommandFailure({
      exit: ExitCode.failed,
      id: "ANSWER_UNKNOWN",
      message: "the daemon's answer is no JSON",
      next: "Is the admin address that of a splitsite of this version?",
    });
  }
}
