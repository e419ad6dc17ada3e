/** The loader: several findings at once with their places, defaults, paths, hostile files. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { OperationalError } from "../../../runtime/errors.ts";
import type { PlacedFinding } from "../../../runtime/settings/findings.ts";
import { loadSettings, parseSettings } from "../../../runtime/settings/load.ts";
import { configJsonSchema } from "../../../runtime/settings/schema.ts";
import { parseSource } from "../../../runtime/settings/source.ts";

const good = `version: 1
sites:
  primary:
    dataDir: ./data/primary
    tls: { ca: tls/ca.pem, cert: tls/primary.pem, key: /keys/primary.key }
    agent: { nbd: { listen: ["127.0.0.1:0", "unix:nbd.sock", "[::1]:10809"], tls: off } }
    gateway: { listen: 127.0.0.1:7700, url: "https://127.0.0.1:7700/" }
  dr:
    dataDir: ./data/dr
    tls: { ca: tls/ca.pem, cert: tls/dr.pem, key: tls/dr.key }
    agent: { nbd: { listen: ["127.0.0.1:10819"] } }
    gateway: { listen: 127.0.0.1:7701, url: "https://127.0.0.1:7701" }
groups:
  erp:
    home: primary
    standby: dr
    volumes:
      data: { size: 64MiB }
      log: { size: 16MiB, image: images/log.img }
links:
  - between: [primary, dr]
    limit: 8Mbit/s
`;

function refusal(text: string): { error: OperationalError; findings: readonly PlacedFinding[] } {
  try {
    parseSettings("/etc/splitsite/splitsite.yaml", text);
  } catch (error) {
    assert.ok(error instanceof OperationalError, String(error));
    return { error, findings: error.details["findings"] as PlacedFinding[] };
  }
  return assert.fail("was accepted");
}

test("paths are absolute, units resolved, defaults filled in", () => {
  const settings = parseSettings("/etc/splitsite/splitsite.yaml", good);
  const [primary, dr] = settings.sites;
  assert.ok(primary !== undefined && dr !== undefined);
  assert.equal(primary.dataDir, "/etc/splitsite/data/primary");
  assert.deepEqual(primary.tls, {
    ca: "/etc/splitsite/tls/ca.pem",
    cert: "/etc/splitsite/tls/primary.pem",
    key: "/keys/primary.key",
  });
  assert.deepEqual(primary.admin, { kind: "unix", path: "/etc/splitsite/data/primary/admin.sock" });
  assert.deepEqual(primary.agent?.nbd.listen, [
    { kind: "tcp", host: "127.0.0.1", port: 0 },
    { kind: "unix", path: "/etc/splitsite/nbd.sock" },
    { kind: "tcp", host: "::1", port: 10_809 },
  ]);
  assert.equal(primary.agent?.nbd.tls, "off");
  assert.equal(dr.agent?.nbd.tls, "require", "a network listener is protected unless told otherwise");
  assert.deepEqual(primary.agent?.journal, { maxBytes: 8 * 1024 ** 3, reserveBytes: 512 * 1024 ** 2 });
  assert.equal(primary.gateway?.url, "https://127.0.0.1:7700");
  const [group] = settings.groups;
  assert.equal(group?.durability, "flush");
  assert.deepEqual(group?.rpo, { ageMs: null, bytes: null });
  assert.deepEqual(
    group?.volumes.map((volume) => [volume.name, volume.sizeBytes, volume.image]),
    [
      ["data", 64 * 1024 ** 2, null],
      ["log", 16 * 1024 ** 2, "/etc/splitsite/images/log.img"],
    ],
  );
  assert.deepEqual(settings.links, [
    {
      between: ["primary", "dr"],
      limitBytesPerSecond: 1_000_000,
      windows: [],
      connections: 4,
      codec: "auto",
      collectMs: 60,
    },
  ]);
});

test("several problems are told at once, each with line, column, key and hint, in file order", () => {
  const { error, findings } = refusal(
    good
      .replace("    standby: dr\n", "    standby: dr\n    colour: red\n")
      .replace("size: 64MiB", "size: 64")
      .replace("limit: 8Mbit/s", "limit: fast\n    metrics: 1"),
  );
  assert.equal(error.code, "CONFIG_INVALID");
  assert.deepEqual(
    findings.map((finding) => [finding.line, finding.column, finding.key]),
    [
      [17, 5, "groups.erp.colour"],
      [19, 15, "groups.erp.volumes.data.size"],
      [23, 5, "links[0].limit"],
      [24, 5, "links[0].metrics"],
    ],
  );
  assert.ok(
    findings.every((finding) => finding.file === "/etc/splitsite/splitsite.yaml" && finding.hint !== ""),
  );
  assert.match(findings[0]?.hint ?? "", /home, standby, volumes, protection/);
});

test("a feature that is not built is told together with what is wrong besides", () => {
  const history = "    standby: dr\n    protection: { history: { pointEvery: 1s } }\n";
  assert.equal(refusal(good.replace("    standby: dr\n", history)).error.code, "NOT_BUILT");
  const both = refusal(good.replace("    standby: dr\n", history).replace("64MiB", "64"));
  assert.equal(both.error.code, "CONFIG_INVALID");
  assert.deepEqual(
    both.findings.map((finding) => finding.code),
    ["NOT_BUILT", "CONFIG_INVALID"],
  );
});

test("rpo with alert and overflow hold are taken", () => {
  const text = good.replace(
    "    standby: dr\n",
    "    standby: dr\n    protection: { rpo: { age: 5s, bytes: 1GiB, onBreach: alert }, overflow: hold, durability: write }\n",
  );
  const [group] = parseSettings("/x.yaml", text).groups;
  assert.deepEqual(group?.rpo, { ageMs: 5_000, bytes: 1024 ** 3 });
  assert.equal(group?.durability, "write");
});

test("a history is kept by default, within a bound, and can be turned off", () => {
  const read = (protection: string) =>
    parseSettings(
      "/x.yaml",
      good.replace("    standby: dr\n", `    standby: dr\n    protection: { ${protection} }\n`),
    ).groups[0]?.history;
  assert.deepEqual(read(""), { windowMs: 86_400_000, bytesMax: 10 * 1024 ** 3 });
  assert.deepEqual(read("history: { window: 7d, maxBytes: 1TiB }"), {
    windowMs: 7 * 86_400_000,
    bytesMax: 1024 ** 4,
  });
  assert.equal(read("history: { window: off }")?.windowMs, 0);
});

test("hostile files are refused with one clear finding and pollute nothing", () => {
  const texts = [
    "",
    "[",
    "a: 1\n---\nb: 2\n",
    "- 1",
    `${good}#${"x".repeat(1024 * 1024)}`,
    `version: ${"[".repeat(17)}${"]".repeat(17)}\n`,
    `version: ${"[".repeat(20_000)}\n`,
    "constructor: { prototype: { a: 1 } }\n",
    '{"__proto__": {"polluted": 1}}',
    "a: &a [x]\nb: [*a, *a]\n",
    "a: !!js/function 'x'\n",
  ];
  for (const text of texts) assert.equal(refusal(text).error.code, "CONFIG_INVALID", text.slice(0, 40));
  assert.equal(Reflect.get({}, "polluted"), undefined);
});

test("a hostile file costs no more than its length: keys, names and words are not repeated without bound", () => {
  const unknown = Array.from({ length: 20_000 }, (_, at) => `key${at}: 1`).join("\n");
  assert.equal(refusal(unknown).findings.length, 100);
  // The place of each item repeats the keys above it.
  const long = `? ${"x".repeat(20_000)}\n:\n${"  - a\n".repeat(5_000)}`;
  assert.match(refusal(long).findings[0]?.message ?? "", /key longer than 256/);
  // Every group's hint names every site.
  const sites = Array.from(
    { length: 500 },
    (_, at) => `  s${at}: {dataDir: d, tls: {ca: a, cert: b, key: c}}`,
  );
  const groups = Array.from({ length: 500 }, (_, at) => `  g${at}: {home: x, standby: y, volumes: {}}`);
  const many = ["version: 1", "sites:", ...sites, "groups:", ...groups, "links: []"].join("\n");
  for (const text of [
    `a: ${"!".repeat(100_000)}`,
    many,
    `version: ${"v".repeat(100_000)}`,
    `- ${"&".repeat(9_999)}`,
  ]) {
    for (const { message, hint } of refusal(text).findings)
      assert.ok(
        message.length <= 510 && hint.length <= 510,
        `${message.length} and ${hint.length} characters`,
      );
  }
});

test("any text is either settings or an operational error", () => {
  const lines = good.split("\n");
  const mutation = fc.tuple(
    fc.nat({ max: lines.length - 1 }),
    fc.oneof(fc.constantFrom("", "  x:", "- ", "a: [", "null", "  0: 1"), fc.string({ maxLength: 30 })),
  );
  fc.assert(
    fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), (mutations) => {
      const changed = [...lines];
      for (const [index, line] of mutations) changed[index] = line;
      try {
        parseSettings("/x.yaml", changed.join("\n"));
      } catch (error) {
        assert.ok(error instanceof OperationalError, String(error));
      }
    }),
    { numRuns: 300 },
  );
});

test("names keep the text they are written as", () => {
  const outcome = parseSource("f", "010: a\n1.0: b\noff: c\n");
  assert.ok(outcome.kind === "document");
  assert.deepEqual(outcome.document.value, { "010": "a", "1.0": "b", off: "c" });
});

test("a missing file says how to make one", async () => {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-settings-"));
  try {
    await assert.rejects(loadSettings(join(folder, "none.yaml")), { code: "CONFIG_UNREADABLE" });
    await writeFile(join(folder, "some.yaml"), good);
    const settings = await loadSettings(join(folder, "some.yaml"));
    assert.equal(settings.sites[0]?.dataDir, join(folder, "data", "primary"));
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("the JSON Schema knows every top-level key and is strict", () => {
  const schema = configJsonSchema() as {
    properties: Record<string, unknown>;
    additionalProperties: boolean;
    required: string[];
  };
  assert.deepEqual(Object.keys(schema.properties), ["version", "sites", "groups", "links", "witness"]);
  assert.equal(schema.additionalProperties, false);
  assert.deepEqual(schema.required, ["version", "sites", "groups", "links"]);
});
