/**
 * Shape of the configuration file, one table for three uses: checking, the defaults, and the JSON Schema that
 * editors take. The only importer of `zod`. Strict throughout: an unknown key is an error. Checks that span
 * several keys live in checks.ts; keys of features that are not built yet in not-built.ts.
 */
import * as z from "zod";
import { isName } from "../../protocol/ids.ts";
import type { Finding } from "./findings.ts";
import {
  parseDuration,
  parseRate,
  parseSize,
  rateForm,
  ratePattern,
  sizeForm,
  sizePattern,
  timeForm,
  timePattern,
  windowPattern,
} from "./units.ts";

/** A text that `parse` must take; the pattern is for editors, the parser decides. */
function quantity<T>(form: string, pattern: string, parse: (text: string) => T | undefined) {
  return z
    .string({ error: `must be ${form}` })
    .meta({ pattern })
    .transform((text, context): T => {
      const value = parse(text);
      if (value !== undefined) return value;
      context.addIssue({ code: "custom", message: `is \`${text}\`, must be ${form}` });
      return z.NEVER;
    });
}

function bounded(parse: (text: string) => number | undefined, least: number, most: number) {
  return (text: string) => {
    const value = parse(text);
    return value !== undefined && value >= least && value <= most ? value : undefined;
  };
}

/**
 * Smallest journal and intake log, bytes: 8 frames of the largest body (about 2 MiB each), so that group commit,
 * shipping and trimming can overlap.
 */
const logBytesMin = 16 * 1024 ** 2;
/** Largest, bytes: beyond this, opening and verifying takes longer than a resync. */
const logBytesMax = 4 * 1024 ** 4;
/** Slowest line, bytes per second: a frame of 1 MiB must cross within the peer's patience of minutes. */
const rateMin = 1_000;

const size = quantity(sizeForm, sizePattern, parseSize);
const logSize = quantity(
  `${sizeForm}, from 16MiB to 4TiB`,
  sizePattern,
  bounded(parseSize, logBytesMin, logBytesMax),
);
const rate = quantity(`${rateForm}, at least 8kbit/s`, ratePattern, (text) => {
  const value = parseRate(text);
  return value === null || (value !== undefined && value >= rateMin) ? value : undefined;
});
/** Ages under which the heartbeat's own interval would already be a breach make no sense. */
const age = quantity(
  `${timeForm}, from 1s to 30d`,
  timePattern,
  bounded(parseDuration, 1_000, 30 * 86_400_000),
);

/** Longer than 2 s it would be lag for nothing: no codec packs more than 4 MiB at a time. */
const collect = quantity(`${timeForm}, from 10ms to 2s`, timePattern, bounded(parseDuration, 10, 2_000));

/** A window shorter than one look of the retention would give points back as soon as they are made. */
const window = quantity(`off, or ${timeForm}, from 10s to 365d`, windowPattern, (text) =>
  text === "off" ? 0 : bounded(parseDuration, 10_000, 365 * 86_400_000)(text),
);
/**
 * Smallest history, bytes: two segments of 64 MiB (docs/history.md), because only whole ones are given back and the
 * newest never is. Largest: beyond it, its index takes longer to make anew than a first sync of the volumes.
 */
const historySize = quantity(
  `${sizeForm}, from 128MiB to 64TiB`,
  sizePattern,
  bounded(parseSize, 128 * 1024 ** 2, 64 * 1024 ** 4),
);

const text = (what: string) => z.string({ error: `must be ${what}` }).min(1, { error: `must be ${what}` });
const path = text("a path");
const address = text("an address: host:port or unix:PATH");
const name = z
  .string()
  .refine(isName, { error: "is not a legal name: lower-case letters, digits, `.`, `_` and `-`, at most 63" });
const choice = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, { error: `must be ${values.join(" | ")}` });

const logQuota = z.strictObject({
  maxBytes: logSize
    .prefault("8GiB")
    .describe("of the whole site, shared out over its groups; a full one holds writes"),
  reserve: size.prefault("512MiB").describe("free space of the file system that is never used"),
});

const nbd = z.strictObject({
  listen: z.array(address).min(1, { error: "needs at least one address" }).max(16),
  tls: choice(["off", "require"]).default("require"),
  clients: z
    .array(
      z.strictObject({
        name: text("the name in the client's certificate"),
        exports: z.array(text("GROUP/VOLUME or GROUP/*")).min(1).max(256),
      }),
    )
    .max(256)
    .default([])
    .describe("which client certificate may open which exports; only with tls: require"),
});

const site = z.strictObject({
  dataDir: path,
  tls: z.strictObject({ ca: path, cert: path, key: path }),
  admin: address.optional().describe("default: unix socket admin.sock in dataDir"),
  agent: z.strictObject({ nbd, journal: logQuota.prefault({}) }).optional(),
  gateway: z
    .strictObject({
      listen: address,
      url: text("an https URL without a path, under which the other site reaches this gateway"),
      intake: logQuota.prefault({}),
    })
    .optional(),
});

const volume = z.strictObject({
  size: size,
  image: path.optional().describe("image file or block device at the home site; default: inside dataDir"),
  standbyImage: path.optional().describe("the same at the standby site"),
});

const group = z.strictObject({
  home: text("a site's name"),
  standby: text("a site's name"),
  volumes: z.record(name, volume),
  protection: z
    .strictObject({
      level: choice(["async"]).default("async"),
      durability: choice(["flush", "write"]).default("flush"),
      rpo: z
        .strictObject({
          age: age.optional(),
          bytes: size.optional(),
          onBreach: choice(["alert"]).default("alert"),
        })
        .prefault({}),
      onLinkLoss: choice(["continue"]).default("continue"),
      overflow: choice(["track", "hold"])
        .default("track")
        .describe(
          "a full journal: track: what the standby lacks is noted, and a resync brings it; hold: writes wait",
        ),
      history: z
        .strictObject({
          window: window.prefault("24h").describe("how far back points are kept at the standby; off: none"),
          maxBytes: historySize
            .prefault("10GiB")
            .describe("of this group, beside its images; the oldest points go first"),
        })
        .prefault({}),
      onMismatch: choice(["report", "repair"])
        .default("report")
        .describe("what a verify does with blocks of the standby that differ from the owner's"),
      scan: z
        .strictObject({
          rate: rate
            .prefault("64MiB/s")
            .describe("what a scan reads at most; a consistency check a quarter of it while clients write"),
          digest: choice(["off", "on"])
            .default("off")
            .describe(
              "on: a verify without a difference is followed by a digest of the standby's point at its end",
            ),
        })
        .prefault({}),
    })
    .prefault({}),
  schedule: z
    .strictObject({
      verify: text("a cron expression of 5 fields or an @nickname")
        .optional()
        .describe("when standby and owner are compared, in UTC; default: when ordered"),
    })
    .prefault({}),
});

const link = z.strictObject({
  between: z.tuple([text("a site's name"), text("a site's name")], { error: "must be two site names" }),
  limit: rate.prefault("unlimited"),
  windows: z
    .array(z.strictObject({ cron: text("a cron expression of 5 fields or an @nickname"), limit: rate }))
    .max(64)
    .default([]),
  connections: z
    .int({ error: "must be a whole number from 1 to 16" })
    .min(1, { error: "must be from 1 to 16" })
    .max(16, { error: "must be from 1 to 16" })
    .default(4),
  codec: choice(["auto", "lz4", "brotli", "none"]).default("auto"),
  collect: collect.optional(),
});

const file = z.strictObject({
  version: z.literal(1, { error: "must be 1" }),
  sites: z.record(name, site),
  groups: z.record(name, group),
  links: z.array(link).max(64),
  witness: z.strictObject({ kind: choice(["none"]) }).optional(),
});

/** The file with units resolved and defaults filled in; names, paths and addresses still as written. */
export type ConfigFile = z.output<typeof file>;

/** JSON Schema (draft 2020-12) of the file, for editors. */
export function configJsonSchema(): unknown {
  return { title: "splitsite configuration", ...z.toJSONSchema(file, { io: "input" }) };
}

export type ShapeOutcome =
  | { readonly kind: "shaped"; readonly file: ConfigFile }
  | { readonly kind: "refused"; readonly findings: readonly Finding[] };

/** Checks the shape of a whole document and fills in the defaults. */
export function parseShape(value: unknown): ShapeOutcome {
  const outcome = file.safeParse(value);
  if (outcome.success) return { kind: "shaped", file: outcome.data };
  return { kind: "refused", findings: outcome.error.issues.flatMap(findingsOf) };
}

function findingsOf(issue: z.core.$ZodIssue): Finding[] {
  const path = issue.path.map((part) => (typeof part === "number" ? part : String(part)));
  const finding = (at: Finding["path"], message: string, hint: string): Finding => ({
    code: "CONFIG_INVALID",
    path: at,
    message,
    hint,
  });
  switch (issue.code) {
    case "unrecognized_keys": {
      const hint = `Correct or remove it; known here: ${knownKeys(path)}.`;
      return issue.keys.map((key) => finding([...path, key], "is not a known key", hint));
    }
    case "invalid_key":
      return [finding(path, issue.issues[0]?.message ?? "is not a legal name", "Rename it.")];
    case "invalid_type":
      if (issue.message.includes("received undefined")) {
        return [finding(path, "is missing", "Add it; config/two-hosts.yaml shows every key.")];
      }
      return [finding(path, phrase(issue.message), "Write it as config/two-hosts.yaml shows.")];
    default:
      return [finding(path, phrase(issue.message), "Write it as config/two-hosts.yaml shows.")];
  }
}

/** Our own messages continue the key's name; the library's begin a sentence. */
function phrase(message: string): string {
  return message.startsWith("Invalid input: ") ? message.slice("Invalid input: ".length) : message;
}

/** Made once: a file of unknown keys asks for it as often as it has lines, and making it takes a millisecond. */
let jsonSchema: unknown;

function knownKeys(path: readonly (string | number)[]): string {
  jsonSchema ??= configJsonSchema();
  let schema = jsonSchema;
  for (const part of path)
    schema =
      typeof part === "number"
        ? member(schema, "items")
        : (member(member(schema, "properties"), part) ?? member(schema, "additionalProperties"));
  const properties = member(schema, "properties");
  return typeof properties === "object" && properties !== null ? Object.keys(properties).join(", ") : "none";
}

function member(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
}
