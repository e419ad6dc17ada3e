/** The samples in config/ are documentation: the good ones load, each bad one fails with the code and key it names. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { OperationalError } from "../../runtime/errors.ts";
import type { PlacedFinding } from "../../runtime/settings/findings.ts";
import { loadSettings } from "../../runtime/settings/load.ts";

const folder = "config";
const yamlFiles = (path: string) => readdirSync(path).filter((name) => name.endsWith(".yaml"));

for (const name of yamlFiles(folder)) {
  test(`config/${name} loads`, async () => {
    const settings = await loadSettings(join(folder, name));
    assert.ok(settings.groups.length > 0);
    assert.ok(settings.sites.every((site) => site.agent !== null && site.gateway !== null));
  });
}

const invalid = yamlFiles(join(folder, "invalid"));

test("there are invalid samples", () => assert.ok(invalid.length > 25));

for (const name of invalid) {
  test(`config/invalid/${name} is refused as it says`, async () => {
    const path = join(folder, "invalid", name);
    const text = readFileSync(path, "utf8");
    const [, code, key] = /^# expect: ([A-Z_]+) (\S+)$/m.exec(text) ?? [];
    assert.ok(code !== undefined && key !== undefined, "first line names code and key");
    await assert.rejects(loadSettings(path), (error: unknown) => {
      assert.ok(error instanceof OperationalError);
      assert.equal(error.code, code);
      const findings = error.details["findings"] as PlacedFinding[];
      const found = findings.find((finding) => finding.key === key);
      assert.ok(found, `no finding for ${key}: ${JSON.stringify(findings)}`);
      assert.ok(found.line >= 1 && found.line <= text.split("\n").length);
      assert.ok(found.hint.length > 0);
      return true;
    });
  });
}
