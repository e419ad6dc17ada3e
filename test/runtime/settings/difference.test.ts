/** What a daemon that reads its configuration again says that it cannot take. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { keysForRestart } from "../../../runtime/settings/difference.ts";
import { parseSettings } from "../../../runtime/settings/load.ts";

const base = `version: 1
sites:
  primary:
    dataDir: ./data/primary
    tls: { ca: tls/ca.pem, cert: tls/primary.pem, key: tls/primary.key }
    agent: { nbd: { listen: ["127.0.0.1:10809"] } }
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
      log: { size: 16MiB }
links:
  - between: [primary, dr]
    limit: 8Mbit/s
`;

function keys(...changes: readonly (readonly [string, string])[]): string[] {
  let text = base;
  for (const [from, to] of changes) {
    assert.ok(text.includes(from));
    text = text.replace(from, to);
  }
  const read = (content: string) => parseSettings("/etc/splitsite/splitsite.yaml", content);
  return keysForRestart(read(base), read(text));
}

test("volumes that grow, join, shrink or go are the group's to judge", () => {
  assert.deepEqual(keys(), []);
  assert.deepEqual(keys(["data: { size: 64MiB }", "data: { size: 96MiB }"]), []);
  assert.deepEqual(keys(["data: { size: 64MiB }", "data: { size: 32MiB }"]), []);
  assert.deepEqual(keys(["log: {", "new: { size: 1GiB, image: /dev/vg/new }\n      log: {"]), []);
  assert.deepEqual(keys(["      log: { size: 16MiB }\n", ""]), []);
});

test("everything else is named by its key", () => {
  assert.deepEqual(keys(["8Mbit/s", "9Mbit/s"]), ["links"]);
  assert.deepEqual(keys(["127.0.0.1:10819", "127.0.0.1:10820"]), ["sites.dr.agent.nbd.listen"]);
  assert.deepEqual(keys(["data: { size: 64MiB }", "data: { size: 96MiB, image: /dev/vg/data }"]), [
    "groups.erp.volumes.data.image",
  ]);
  assert.deepEqual(keys(["  erp:\n", "  shop:\n"]), ["groups.erp", "groups.shop"]);
  assert.deepEqual(
    keys(
      ["standby: dr\n", "standby: dr\n    protection: { durability: write, overflow: hold }\n"],
      ["./data/dr", "./else"],
    ),
    [
      "sites.dr.dataDir",
      "sites.dr.admin",
      "groups.erp.protection.durability",
      "groups.erp.protection.overflow",
    ],
  );
});
