/** Commands that talk to a daemon: what they ask, how they answer, which exit code they end with. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { test } from "node:test";
import type { RetiredStatus, RetirePlan } from "../../protocol/retirement.ts";
import type { SiteStatus } from "../../protocol/status.ts";
import type { Answer, Asked } from "./bench-stand.ts";
import { cli, errorLine, fakeDaemon, initialised } from "./bench-stand.ts";
import { owner, plan, result, site, soundVerdict, standby } from "./samples.ts";

async function stand(context: TestContext, answer: (asked: Asked) => Answer, socket = "primary/admin.sock") {
  const { folder, config } = await initialised(context);
  const path = join(folder, "data", socket);
  await mkdir(join(path, ".."), { recursive: true });
  return { config, asked: await fakeDaemon(context, path, answer), folder };
}

test("status: plain words for people, the document for programs, 7 on demand", async (context) => {
  let groups: SiteStatus["groups"] = [owner];
  const { config } = await stand(context, () => ({ json: site(groups) }));
  const text = await cli(["status", ...config]);
  assert.equal(text.exit, 0);
  assert.match(text.out, /app +owner +protected +1\.2 s +14\.0 MiB +15\.0 s +0% full +up, 100 Mbit\/s/);
  assert.match(text.out, /all protected/);
  const detail = await cli(["status", "app", ...config]);
  assert.match(detail.out, /protected, 1\.2 s behind, 14\.0 MiB at risk/);
  const json = await cli(["status", "--json", ...config]);
  assert.deepEqual(JSON.parse(json.out), site(groups));
  assert.equal((await cli(["status", "--exit-code", ...config])).exit, 0);

  groups = [
    owner,
    {
      ...standby,
      group: "files",
      state: "at-risk",
      reason: { code: "NO_OWNER", message: "the owner is silent" },
    },
  ];
  const risky = await cli(["status", "--exit-code", ...config]);
  assert.equal(risky.exit, 7);
  assert.ok(risky.out.indexOf("files") < risky.out.indexOf("app "), "trouble first");
  assert.match(risky.out, /files: at-risk since .*: the owner is silent \(NO_OWNER\)/);
  assert.equal((await cli(["status", ...config])).exit, 0, "only on demand");
  const unknown = await cli(["status", "nosuch", "--json", ...config]);
  assert.equal(unknown.exit, 2);
});

test("status says how far back a standby can go, and what had to be given up", async (context) => {
  const problem = { code: "HISTORY_DAMAGED", message: "older points are gone" };
  const groups = [{ ...standby, history: { ...standby.history, problem } }];
  const { config } = await stand(context, () => ({ json: site(groups) }));
  const { out } = await cli(["status", "app", ...config]);
  assert.match(out, /back to 2026-03-01T10:14:06\.000Z/);
  assert.match(out, /points +97 points, back to 12/);
  assert.match(out, /given up +older points are gone \(HISTORY_DAMAGED\)/);
  const line = await cli(["watch", "--count", "1", ...config]);
  assert.match(line.out, /can be opened at .*, back to 2026-03-01/);
});

test("points: asked of whoever keeps them; nobody does: 6", async (context) => {
  let groups: SiteStatus["groups"] = [standby];
  const list = {
    group: "app",
    pins: [
      {
        ...{ id: "pin-12", sequence: 12, label: "before the upgrade" },
        ...{ since: standby.since, keptBytes: 8_192 },
      },
    ],
    points: [
      { sequence: 795, time: standby.since, bytes: null, pins: [], chain: "c4".repeat(32), digest: null },
      {
        ...{ sequence: 800, time: standby.since, bytes: 4_096, pins: ["mark-a"] },
        ...{ chain: "c5".repeat(32), digest: "5f".repeat(32) },
      },
    ],
  };
  const { config, asked } = await stand(context, ({ path }) => ({
    json: path === "/v1/status" ? site(groups) : list,
  }));
  const ran = await cli(["points", "app", "--from", "790", "--limit", "2", ...config]);
  assert.equal(ran.exit, 0, ran.err);
  assert.equal(asked.at(-1)?.path, "/v1/groups/app/gateway/points?from=790&limit=2");
  assert.match(ran.out, /800 +\S+ +4\.0 KiB +5f5f5f5f5f5f5f5f\.\.\. +mark-a/);
  assert.match(ran.out, /pin-12 at 12, keeps 8\.0 KiB, before the upgrade/);
  groups = [{ ...owner, history: standby.history }];
  const json = await cli(["points", "app", "--json", ...config]);
  assert.deepEqual(JSON.parse(json.out), list);
  assert.equal(asked.at(-1)?.path, "/v1/groups/app/agent/points?");
  groups = [owner];
  const none = await cli(["points", "app", "--json", ...config]);
  assert.equal(none.exit, 6);
  assert.equal(errorLine(none)["id"], "POINTS_NONE");
  assert.equal((await cli(["points", "app", "--limit", "many", ...config])).exit, 2);
});

test("image export: the file is whole, sparse and proven, or not there", async (context) => {
  const content = Buffer.alloc(3 * 65_536 + 512);
  content.fill(7, 65_536, 65_536 + 5_000);
  const sha256 = createHash("sha256").update(content).digest("hex");
  const result = {
    group: "app",
    volume: "data",
    sequence: 800,
    time: standby.since,
    sizeBytes: content.byteLength,
  };
  const data = { type: "data", offset: 65_536, base64: content.toString("base64", 65_536, 131_072) };
  let lines: unknown[] = [data, { type: "result", result: { ...result, sha256 } }];
  const { config, folder } = await stand(context, ({ path }) =>
    path === "/v1/status" ? { json: site([standby]) } : { lines },
  );
  const file = join(folder, "out.img");
  const words = [
    "image",
    "export",
    "app/data",
    file,
    "--point",
    "800",
    "--without-digest",
    "--json",
    ...config,
  ];
  const ran = await cli(words);
  assert.equal(ran.exit, 0, ran.err);
  assert.ok(content.equals(await readFile(file)));
  const again = await cli(words);
  assert.deepEqual([again.exit, errorLine(again)["id"]], [6, "FILE_EXISTS"]);
  await rm(file);
  lines = [
    { ...data, offset: 0 },
    { type: "result", result: { ...result, sha256 } },
  ];
  const damaged = await cli(words);
  assert.deepEqual([damaged.exit, errorLine(damaged)["id"]], [1, "EXPORT_DAMAGED"]);
  lines = [data];
  assert.equal(errorLine(await cli(words))["id"], "ANSWER_CUT");
  assert.equal(existsSync(file), false, "nothing unproven is left behind");
  for (const point of ["yesterday", "mark:a", "2026-03-02T10:14:06"]) {
    const wrong = await cli(["image", "export", "app/data", file, "--point", point, ...config]);
    assert.equal(wrong.exit, 2, point);
  }
});

test("held requests need attention although the group is protected", async (context) => {
  const { config } = await stand(context, () => ({ json: site([{ ...owner, io: "held" }]) }));
  assert.equal((await cli(["status", "--exit-code", ...config])).exit, 7);
});

test("roles that run apart make one status, and orders find their role", async (context) => {
  const { folder, config } = await initialised(context);
  const at = (role: string) => join(folder, "data", "dr", `admin.sock.${role}`);
  await mkdir(join(folder, "data", "dr"), { recursive: true });
  await fakeDaemon(context, at("agent"), () => ({ json: site([{ ...owner, group: "files" }]) }));
  const gateway = await fakeDaemon(context, at("gateway"), ({ path }) => ({
    json: path === "/v1/status" ? site([standby]) : plan,
  }));
  const status = await cli(["status", "--json", ...config]);
  assert.deepEqual(
    (JSON.parse(status.out) as SiteStatus).groups.map((group) => group.group),
    ["files", "app"],
  );
  assert.equal((await cli(["failover", "plan", "app", ...config])).exit, 0);
  assert.equal(gateway.at(-1)?.path, "/v1/groups/app/failover/plan");
});

test("a group handed over to this site's agent is shown once, as its owner", async (context) => {
  const handed = {
    ...standby,
    state: "fenced" as const,
    reason: { code: "HANDED_OVER", message: "to the agent" },
  };
  const { config } = await stand(context, () => ({ json: site([handed, owner]) }));
  const ran = await cli(["status", "--json", ...config]);
  assert.deepEqual((JSON.parse(ran.out) as SiteStatus).groups, [owner]);
});

test("nobody answers: 4 and the contract's error line", async (context) => {
  const { config } = await initialised(context);
  const ran = await cli(["status", "--json", "--site", "dr", ...config]);
  assert.equal(ran.exit, 4);
  const line = errorLine(ran);
  assert.equal(line["type"], "error");
  assert.equal(line["code"], 4);
  assert.equal(line["id"], "DAEMON_UNREACHABLE");
  assert.match(String(line["try"]), /splitsite run --site dr/);
  const text = await cli(["status", "--site", "dr", ...config]);
  assert.match(text.err, /^error: .*\ncause: .*\ntry: .*\n$/);
});

test("a daemon that hangs: 9 after --timeout", async (context) => {
  const { config } = await stand(context, () => ({ silence: true }));
  const ran = await cli(["status", "--timeout", "50ms", "--json", ...config]);
  assert.equal(ran.exit, 9);
  assert.equal(errorLine(ran)["id"], "TIMEOUT");
});

test("the daemon's own refusal comes through with its code", async (context) => {
  const refusal = {
    type: "error",
    code: 6,
    id: "NOT_THE_OWNER",
    message: "this site stands by",
    try: "Ask the other site.",
  };
  const { config } = await stand(context, () => ({ status: 409, json: refusal }));
  const ran = await cli(["journal", "stats", "app", "--json", ...config]);
  assert.equal(ran.exit, 6);
  assert.deepEqual(errorLine(ran), refusal);
});

test("throttle: rates and times become numbers with units", async (context) => {
  const shown = {
    limitBytesPerSecond: 2_500_000,
    source: "override",
    until: "2026-03-02T12:00:00.000Z",
    next: [],
  };
  const { config, asked } = await stand(context, () => ({ json: shown }));
  const set = await cli(["throttle", "set", "20Mbit/s", "--for", "2h", ...config]);
  assert.equal(set.exit, 0);
  assert.match(set.out, /limit 20\.0 Mbit\/s, from an override, until 2026/);
  assert.deepEqual(asked[0], {
    method: "PUT",
    path: "/v1/throttle",
    body: { limitBytesPerSecond: 2_500_000, durationMs: 7_200_000 },
  });
  await cli(["throttle", "set", "unlimited", ...config]);
  assert.deepEqual(asked.find(({ method, body }) => method === "PUT" && body !== asked[0]?.body)?.body, {
    limitBytesPerSecond: null,
    durationMs: null,
  });
  await cli(["throttle", "clear", ...config]);
  assert.equal(asked.at(-2)?.method, "DELETE");
  const count = asked.length;
  assert.equal((await cli(["throttle", "set", "20Mbit/s", "--dry-run", ...config])).exit, 0);
  assert.equal((await cli(["throttle", "set", "20", ...config])).exit, 2);
  assert.equal((await cli(["throttle", "set", "20Mbit/s", "--for", "2", ...config])).exit, 2);
  assert.equal(asked.length, count, "neither a dry run nor a wrong rate reaches the daemon");
});

const failoverAnswer =
  (over: Partial<typeof plan> = {}) =>
  ({ method }: Asked): Answer =>
    method === "GET"
      ? { json: { ...plan, ...over } }
      : {
          lines: [
            { type: "progress", step: "seal", message: "sealing", time: "2026-03-02T10:15:00.000Z" },
            { type: "result", result },
          ],
        };

test("failover: plan first, the name typed, progress on stderr, the result on stdout", async (context) => {
  const { config, asked } = await stand(context, failoverAnswer(), "dr/admin.sock");
  const ran = await cli(["failover", "run", "app", "--reason", "power", ...config], { typed: "app" });
  assert.equal(ran.exit, 0);
  assert.match(ran.err, /FAILOVER of app/);
  assert.match(
    ran.err,
    /unknown since the last contact with the old owner at 2026-03-02T10:14:07.000Z; at least 6 writes, 24\.0 KiB/,
  );
  assert.match(ran.err, /seal: sealing/);
  assert.match(ran.out, /nbd:\/\/127\.0\.0\.1:10819\/app\/data/);
  assert.deepEqual(asked.at(-1), {
    method: "POST",
    path: "/v1/groups/app/failover/run",
    body: { reason: "power" },
  });
  const json = await cli(["failover", "run", "app", "--yes", "--json", ...config]);
  assert.deepEqual(JSON.parse(json.out), result);
  assert.equal(json.err, "");
});

test("failover: not confirmed, nobody to ask, dry run and a failing check all leave the group alone", async (context) => {
  const orders = (asked: readonly Asked[]) => asked.filter(({ method }) => method === "POST").length;
  const { config, asked } = await stand(context, failoverAnswer(), "dr/admin.sock");
  assert.equal((await cli(["failover", "run", "app", ...config], { typed: "yes" })).exit, 6);
  assert.equal((await cli(["failover", "run", "app", ...config])).exit, 2);
  const dry = await cli(["failover", "run", "app", "--dry-run", "--json", ...config]);
  assert.deepEqual([dry.exit, JSON.parse(dry.out)], [0, plan]);
  assert.equal(orders(asked), 0);
});

test("failover: a failing check refuses even with --yes", async (context) => {
  const checks = [
    { id: "NOTHING_TO_OPEN", outcome: "fail" as const, message: "the standby is not complete" },
  ];
  const { config, asked } = await stand(context, failoverAnswer({ checks }), "dr/admin.sock");
  const ran = await cli(["failover", "run", "app", "--yes", "--json", ...config]);
  assert.equal(ran.exit, 6);
  assert.equal(errorLine(ran)["id"], "NOTHING_TO_OPEN");
  assert.equal((await cli(["failover", "plan", "app", ...config])).exit, 6);
  assert.ok(asked.every(({ method }) => method === "GET"));
});

test("failover: an error at the end of the lines, and lines without an end", async (context) => {
  const error = {
    type: "error",
    code: 8,
    id: "ADOPT_REFUSED",
    message: "the agent does not take it",
    try: "Run it again.",
  };
  let lines: unknown[] = [error];
  const { config } = await stand(
    context,
    ({ method }) => (method === "GET" ? { json: plan } : { lines }),
    "dr/admin.sock",
  );
  const refused = await cli(["failover", "run", "app", "--yes", "--json", ...config]);
  assert.equal(refused.exit, 8);
  assert.deepEqual(errorLine(refused), error);
  lines = [];
  const cut = await cli(["failover", "run", "app", "--yes", "--json", ...config]);
  assert.equal(cut.exit, 4);
  assert.equal(errorLine(cut)["id"], "ANSWER_CUT");
});

test("journal verify: 0 when sound, 7 when not", async (context) => {
  let verdict = soundVerdict;
  const { config } = await stand(context, () => ({ lines: [{ type: "result", result: verdict }] }));
  assert.equal((await cli(["journal", "verify", "app", ...config])).exit, 0);
  verdict = {
    ...soundVerdict,
    sound: false,
    problem: { code: "JOURNAL_HOLE", message: "a frame is missing", sequence: 400 },
  };
  const found = await cli(["journal", "verify", "app", ...config]);
  assert.equal(found.exit, 7);
  assert.match(found.out, /PROBLEM JOURNAL_HOLE at record 400/);
});

test("group create and resume ask for the name and say what was accepted", async (context) => {
  const { config, asked } = await stand(context, () => ({ json: owner }));
  assert.equal((await cli(["group", "create", "app", ...config], { typed: "no" })).exit, 6);
  assert.equal(asked.length, 0);
  assert.equal(
    (await cli(["group", "resume", "app", "--accept-unflushed", ...config], { typed: "app" })).exit,
    0,
  );
  assert.deepEqual(asked.at(-1), {
    method: "POST",
    path: "/v1/groups/app/resume",
    body: { acceptUnflushed: true },
  });
});

test("group pause says who paused it and why; the screen says so, whatever is worse", async (context) => {
  const paused = { since: owner.since, by: "carol@berlin", reason: "the rack moves" };
  const reason = { code: "PAUSED", message: "replication was paused by carol@berlin" };
  const risky = { ...owner, state: "at-risk" as const, reason, paused };
  const { config, asked } = await stand(context, () => ({ json: risky }));
  const env = { USER: "carol" };
  const words = ["group", "pause", "app", "--reason", "the rack moves", ...config];
  assert.equal((await cli(words, { typed: "no", env })).exit, 6);
  const ran = await cli(words, { typed: "app", env });
  assert.equal(ran.exit, 0, ran.err);
  assert.match(ran.out, /paused by carol@berlin \(PAUSED\)/);
  const [{ method, path, body }] = asked as [Asked];
  assert.deepEqual([asked.length, method, path], [1, "POST", "/v1/groups/app/pause"]);
  const { by, reason: why } = body as { by: string; reason: string };
  assert.match(by, /^carol@/);
  assert.equal(why, "the rack moves");
  const dry = await cli([...words, "--dry-run"], { env });
  assert.deepEqual([dry.exit, asked.length], [0, 1]);
});

const retirePlan: RetirePlan = {
  ...{ group: "app", site: "primary", part: "owner", sequence: 812 },
  loss: { writes: 6, bytes: 24_576 },
  images: [{ volume: "data", path: "/srv/data.img" }],
  deletable: ["/srv/agent/app/journal-1"],
  steps: ["close the exports"],
  checks: [
    { id: "NOT_ACKNOWLEDGED", outcome: "fail", message: "the standby lacks 6 writes", forcible: true },
  ],
};

test("group retire shows the plan, is refused unless forced, asks for the name, and finds the role that has it", async (context) => {
  const retired: RetiredStatus = {
    ...{ since: owner.since, by: "carol@berlin", reason: "", sequence: 812 },
    ...{ loss: retirePlan.loss, images: retirePlan.images, deletable: retirePlan.deletable },
  };
  let groups: SiteStatus["groups"] = [owner];
  const { config, asked } = await stand(context, ({ method, path }) => {
    if (path === "/v1/status") return { json: site(groups) };
    return method === "GET" ? { json: retirePlan } : { lines: [{ type: "result", result: retired }] };
  });
  const words = ["group", "retire", "app", ...config];
  const dry = await cli([...words, "--dry-run"]);
  assert.equal(dry.exit, 6, "what would be refused");
  assert.match(dry.out, /lacks 6 writes \(--force passes over it\)/);
  assert.match(dry.out, /data +\/srv\/data\.img/);
  const refused = await cli([...words, "--json"], { typed: "app" });
  assert.deepEqual([refused.exit, errorLine(refused)["id"]], [6, "NOT_ACKNOWLEDGED"]);
  assert.equal((await cli([...words, "--force"], { typed: "yes" })).exit, 6);
  assert.ok(asked.every(({ method }) => method === "GET"));
  const done = await cli([...words, "--force", "--json"], { typed: "app" });
  assert.equal(done.exit, 0, done.err);
  assert.deepEqual(JSON.parse(done.out), { group: "app", retired });
  assert.equal(asked.at(-1)?.path, "/v1/groups/app/agent/retire");
  groups = [standby];
  await cli([...words, "--force"], { typed: "app" });
  assert.equal(asked.at(-1)?.path, "/v1/groups/app/gateway/retire");
  groups = [{ ...owner, state: "retired", retired }];
  const again = await cli(words);
  assert.deepEqual([again.exit, asked.at(-1)?.path], [0, "/v1/status"]);
  assert.match(again.out, /was retired here by carol@berlin/);
  const status = await cli(["status", "app", "--exit-code", ...config]);
  assert.equal(status.exit, 0, "nobody has to look after it");
  assert.match(status.out, /disk data +\/srv\/data\.img/);
});

test("watch writes plain lines without a terminal, also while the daemon is away", async (context) => {
  const { config } = await stand(context, () => ({ json: site([owner]) }));
  const ran = await cli(["watch", "--count", "1", ...config]);
  assert.equal(ran.out, "2026-03-02T10:14:07.000Z app protected, 1.2 s behind, 14.0 MiB at risk\n");
  const away = await cli(["watch", "--count", "1", "--site", "dr", ...config]);
  assert.deepEqual([away.exit, /nothing answers for site dr/.test(away.out)], [0, true]);
});
