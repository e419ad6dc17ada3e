/**
 * The configuration loader under fuzz, from text to settings. It takes a file or names what is wrong with it, in a bounded
 * list of places inside the file; what it takes it can print and take again as the same.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { OperationalError } from "../../../runtime/errors.ts";
import { describeSettings } from "../../../runtime/settings/describe.ts";
import type { PlacedFinding } from "../../../runtime/settings/findings.ts";
import { parseSettings } from "../../../runtime/settings/load.ts";
import { renderSource } from "../../../runtime/settings/source.ts";
import { type FuzzTarget, require } from "../target.ts";

const file = "/etc/splitsite/splitsite.yaml";

function requireFindings(error: OperationalError, text: string): void {
  const findings = error.details["findings"] as PlacedFinding[];
  require(findings.length >= 1 && findings.length <= 100, `${findings.length} findings`);
  const lines = text.split(/\r\n|[\n\r]/).length;
  for (const { line, column, key, message, hint } of findings) {
    require(line >= 1 && line <= lines + 1 && column >= 1, `place ${line}:${column} of ${lines} lines`);
    require(message !== "" && hint !== "", "a finding that says nothing");
    // Sixteen levels of keys at most, each bounded.
    require(key.length <= 17 * 260 && message.length <= 510 && hint.length <= 510, "a finding without bound");
  }
  require(error.reaction === "stop", "reaction");
}

export const settingsTarget: FuzzTarget = {
  name: "settings",
  inputBytesMax: 32 * 1024,
  seeds: () =>
    ["config", join("config", "invalid")].flatMap((folder) =>
      readdirSync(folder)
        .filter((name) => name.endsWith(".yaml"))
        .toSorted()
        .map((name) => readFileSync(join(folder, name))),
    ),
  run(input) {
    const text = Buffer.from(input).toString("utf8");
    try {
      const settings = parseSettings(file, text);
      const again = parseSettings(file, renderSource(describeSettings(settings)));
      require(JSON.stringify(again) === JSON.stringify(settings), "settings that read back otherwise");
      return "ok";
    } catch (error) {
      if (!(error instanceof OperationalError)) throw error;
      require(error.code === "CONFIG_INVALID" || error.code === "NOT_BUILT", error.code);
      requireFindings(error, text);
      return error.code;
    }
  },
};
