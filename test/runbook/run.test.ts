/** `run` as a process: ready, answering, ending cleanly on a signal; the roles apart as one site. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { cli, initialised } from "./bench-stand.ts";

function entry(): string[] {
  const source = import.meta.url.endsWith(".ts");
  const path = fileURLToPath(new URL(`../../runbook/splitsite.${source ? "cts" : "cjs"}`, import.meta.url));
  return source ? ["--import", "tsx", path] : [path];
}

/** A configuration of its own ports: the kernel's, so that nothing else is in the way. */
async function freshSite(context: TestContext): Promise<string[]> {
  const { folder, config } = await initialised(context);
  const file = join(folder, "splitsite.yaml");
  const text = await readFile(file, "utf8");
  await writeFile(
    file,
    text
      .replaceAll(/"127\.0\.0\.1:(10809|10819)"/g, '"127.0.0.1:0"')
      .replaceAll(/listen: "127\.0\.0\.1:770[01]"/g, 'listen: "127.0.0.1:0"'),
  );
  return config;
}

async function start(context: TestContext, ...words: string[]) {
  const child = spawn(process.execPath, [...entry(), "run", ...words], { stdio: ["ignore", "pipe", "pipe"] });
  context.after(() => child.kill("SIGKILL"));
  let output = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  const ended = once(child, "close");
  await new Promise<void>((resolve, reject) => {
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      if (output.includes('"code":"READY"')) resolve();
    });
    void ended.then(() => reject(new Error(output)));
  });
  return {
    pid: child.pid!,
    output: () => output,
    signal: async (signal: NodeJS.Signals) => {
      child.kill(signal);
      const [code] = (await ended) as [number | null];
      return code;
    },
  };
}

test("ready, answering, and down with 0 at a signal; the next start is clean", async (context) => {
  const config = await freshSite(context);
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const daemon = await start(context, "--site", "primary", ...config);
    const ready =
      daemon
        .output()
        .split("\n")
        .find((line) => line.includes('"READY"')) ?? "";
    const { admin, nbd, wan } = JSON.parse(ready) as { admin: string; nbd: string[]; wan: string };
    assert.match(admin, /^unix:.*admin\.sock$/);
    assert.match(`${nbd[0]} ${wan}`, /^127\.0\.0\.1:[1-9]\d* 127\.0\.0\.1:[1-9]\d*$/);
    const status = await cli(["status", "--json", ...config]);
    assert.deepEqual([status.exit, (JSON.parse(status.out) as { site: string }).site], [0, "primary"]);
    assert.equal(await daemon.signal(signal), 0);
    assert.match(daemon.output(), /"STOPPED"/);
    assert.equal((await cli(["status", "--site", "primary", ...config])).exit, 4);
  }
});

test("the roles as two processes are one site; a second agent is turned away", async (context) => {
  const config = await freshSite(context);
  const agent = await start(context, "--site", "dr", "--role", "agent", ...config);
  const gateway = await start(context, "--site", "dr", "--role", "gateway", ...config);
  const status = await cli(["status", "--json", ...config]);
  assert.equal(status.exit, 0);
  assert.equal(
    (await cli(["throttle", "show", "--site", "dr", ...config])).exit,
    0,
    "an order of the agent's",
  );
  const plan = await cli(["failover", "plan", "app", "--site", "dr", "--json", ...config]);
  assert.equal(plan.exit, 6, "an order of the gateway's: it has no standby to move");
  await assert.rejects(start(context, "--site", "dr", "--role", "agent", "--json", ...config), /ROLE_LOCKED/);
  assert.equal(await gateway.signal("SIGTERM"), 0);
  assert.equal(await agent.signal("SIGTERM"), 0);
});

test("SIGHUP reads the configuration again; one that is wrong changes nothing, and what needs a restart is named", async (context) => {
  const config = await freshSite(context);
  const file = config[config.indexOf("--config") + 1]!;
  const text = await readFile(file, "utf8");
  const daemon = await start(context, "--site", "primary", ...config);
  const said = async (code: string): Promise<Record<string, unknown>> => {
    for (let tries = 0; tries < 400; tries += 1) {
      const line = daemon
        .output()
        .split("\n")
        .findLast((each) => each.includes(`"code":"${code}"`));
      if (line !== undefined) return JSON.parse(line) as Record<string, unknown>;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    throw new Error(`${code} was not said:\n${daemon.output()}`);
  };
  await writeFile(file, text.replace("size:", "seize:"));
  process.kill(daemon.pid, "SIGHUP");
  await said("RELOAD_REFUSED");
  assert.ok(!daemon.output().includes('"code":"RELOADED"'));
  await writeFile(file, text.replace(/limit: .*/, "limit: 3Mbit/s"));
  process.kill(daemon.pid, "SIGHUP");
  assert.deepEqual((await said("RELOADED"))["restart"], ["links"]);
  assert.deepEqual((await said("RESTART_NEEDED"))["keys"], ["links"]);
  assert.equal((await cli(["status", "--json", ...config])).exit, 0, "it runs as before");
  assert.equal(await daemon.signal("SIGTERM"), 0);
});
