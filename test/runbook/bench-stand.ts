/** A stand for the CLI: a terminal in memory, a scratch configuration, and fake daemons on Unix sockets. */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { runProgram } from "../../runbook/program.ts";
import type { Terminal } from "../../runbook/terminal.ts";

export interface Ran {
  readonly exit: number;
  readonly out: string;
  readonly err: string;
}

export interface StandOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** What a person types when asked; none: there is no terminal. */
  readonly typed?: string;
}

/** Runs one command line in this process. */
export async function cli(words: readonly string[], options: StandOptions = {}): Promise<Ran> {
  let out = "";
  let err = "";
  const terminal: Terminal = {
    env: options.env ?? {},
    interactive: false,
    progressRedraws: false,
    columns: 100,
    rows: 40,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    style: (_style, text) => text,
    ask: async () => options.typed,
    keys: () => () => undefined,
  };
  const exit = await runProgram(words, terminal);
  return { exit, out, err };
}

/** The last line on stderr, which is the error with --json. */
export function errorLine(ran: Ran): Record<string, unknown> {
  const line = ran.err.trimEnd().split("\n").at(-1) ?? "";
  return JSON.parse(line) as Record<string, unknown>;
}

export async function scratch(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-cli-"));
  context.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A folder with what `init` writes, group `app` with volumes data and log. */
export async function initialised(
  context: TestContext,
  ...more: string[]
): Promise<{ folder: string; config: string[] }> {
  const folder = join(await scratch(context), "made");
  const ran = await cli(["init", folder, ...more]);
  if (ran.exit !== 0) throw new Error(ran.err);
  return { folder, config: ["--config", join(folder, "splitsite.yaml")] };
}

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
}

export type Answer =
  | { readonly status?: number; readonly json: unknown }
  | { readonly lines: readonly unknown[] }
  | { readonly silence: true };

/** A daemon that answers on a Unix socket; what it was asked is kept. */
export async function fakeDaemon(
  context: TestContext,
  path: string,
  answer: (asked: Asked) => Answer,
): Promise<Asked[]> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      const text = Buffer.concat(parts).toString("utf8");
      const one: Asked = {
        method: request.method ?? "",
        path: request.url ?? "",
        body: text === "" ? null : JSON.parse(text),
      };
      asked.push(one);
      const said = answer(one);
      if ("silence" in said) return;
      if ("lines" in said) {
        response.writeHead(200, { "content-type": "application/x-ndjson" });
        for (const line of said.lines) response.write(`${JSON.stringify(line)}\n`);
        response.end();
        return;
      }
      response.writeHead(said.status ?? 200, { "content-type": "application/json" });
      response.end(JSON.stringify(said.json));
    });
  });
  server.listen({ path });
  await once(server, "listening");
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return asked;
}
