/** `config check/show/schema`: the configuration file as the program understands it. Reads only. */
import { ExitCode } from "../../protocol/admin.ts";
import { describeSettings } from "../../runtime/settings/describe.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { plural } from "../render/quantities.ts";

export const configCheck: CommandSpec = {
  path: ["config", "check"],
  summary: "check the configuration file; says nothing new when it is sound",
  detail:
    "Names every problem with file, line, column and key. Does not look at certificates, ports or disks: that is what `doctor` does.",
  examples: ["splitsite config check --config splitsite.yaml", "splitsite config check --json"],
  changes: false,
  async run(call) {
    const { file, sites, groups, links } = await call.settings();
    const facts = { file, sites: sites.length, groups: groups.length, links: links.length };
    answer(
      call,
      facts,
      () =>
        `${file}: sound; ${plural(sites.length, "site")}, ${plural(groups.length, "group")}, ${plural(links.length, "link")}\n`,
    );
    return ExitCode.done;
  },
};

export const configShow: CommandSpec = {
  path: ["config", "show"],
  summary: "the configuration with every default filled in and every path absolute",
  detail: "The file names keys and certificates but holds none, so there is nothing to hide.",
  examples: ["splitsite config show", "splitsite config show --json"],
  changes: false,
  async run(call) {
    const settings = await call.settings();
    const { renderSource } = await import("../../runtime/settings/source.ts");
    answer(call, settings, () => renderSource(describeSettings(settings)));
    return ExitCode.done;
  },
};

export const configSchema: CommandSpec = {
  path: ["config", "schema"],
  summary: "JSON Schema of the configuration file, for editors",
  examples: ["splitsite config schema > splitsite.schema.json"],
  changes: false,
  async run(call) {
    const { configJsonSchema } = await import("../../runtime/settings/schema.ts");
    call.terminal.out(`${JSON.stringify(configJsonSchema(), null, call.json ? 0 : 2)}\n`);
    return ExitCode.done;
  },
};
