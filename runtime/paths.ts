/**
 * Layout of a site's data folder: the one place that names a file in it. Group and volume names have passed
 * `isName`, so they hold no separator.
 */
import { basename, dirname, join } from "node:path";

export interface GroupPaths {
  readonly directory: string;
  /** Durable document of the role for this group. */
  readonly state: string;
  /** Applied position of the images: two slots. */
  readonly marker: string;
  readonly image: (volume: string) => string;
}

/** Agent side. Journals are kept apart by epoch: an old owner's unsent tail must never meet new numbers. */
export interface AgentGroupPaths extends GroupPaths {
  readonly journal: (epoch: number) => string;
  readonly watermark: (epoch: number) => string;
  /** Folder of the journal's write-ahead halves. */
  readonly writeAhead: (epoch: number) => string;
  /** The scan under way. */
  readonly scan: string;
  /** Results of the last scans of purpose `verify`. */
  readonly verify: string;
}

export interface GatewayGroupPaths extends GroupPaths {
  readonly intake: string;
  readonly intakeWatermark: string;
  /** What the images held before: goes with them to the agent that takes them over. */
  readonly history: string;
  /** Hand-over record to the agent of the same site. */
  readonly handover: string;
  /** What the owner last said it had answered: the ground for stating loss after a restart. */
  readonly heard: string;
}

export function roleLockPath(dataDir: string, role: "agent" | "gateway"): string {
  return join(dataDir, `${role}.lock`);
}

export function agentGroupPaths(dataDir: string, group: string): AgentGroupPaths {
  const directory = join(dataDir, "agent", group);
  return {
    directory,
    state: join(directory, "state.json"),
    marker: join(directory, "checkpoint"),
    image: (volume) => join(directory, "images", `${volume}.img`),
    journal: (epoch) => join(directory, `journal-${epoch}`),
    watermark: (epoch) => join(directory, `watermark-${epoch}`),
    writeAhead: (epoch) => join(directory, `ahead-${epoch}`),
    scan: join(directory, "scan.json"),
    verify: join(directory, "verify.json"),
  };
}

export function gatewayGroupPaths(dataDir: string, group: string): GatewayGroupPaths {
  const directory = join(dataDir, "gateway", group);
  return {
    directory,
    state: join(directory, "state.json"),
    marker: join(directory, "applied"),
    image: (volume) => join(directory, "images", `${volume}.img`),
    intake: join(directory, "intake"),
    intakeWatermark: join(directory, "intake-watermark"),
    history: join(directory, "history"),
    handover: join(directory, "handover.json"),
    heard: join(directory, "heard.json"),
  };
}

export function evidencePath(dataDir: string, name: string): string {
  return join(dataDir, "evidence", `${name}.json`);
}

/** What a path of the layout is for, whatever the group, volume or epoch: names a failpoint or a line of a trace. */
export function fileKind(path: string): string {
  const name = basename(path).replace(/\.new$/, "");
  if (/^journal-\d+$/.test(name)) return "journal";
  if (/^watermark-\d+$/.test(name)) return "watermark";
  if (/^ahead-\d+$/.test(name)) return "ahead";
  if (/^half-[01]$/.test(name)) return "half";
  if (/\.log$/.test(name)) return basename(dirname(path)) === "intake" ? "intake-log" : "journal-log";
  if (/\.json$/.test(name)) return basename(dirname(path)) === "evidence" ? "evidence" : name.slice(0, -5);
  if (/\.opening$/.test(name)) return "trial-note";
  if (/^\d{8}$/.test(name) && basename(dirname(path)) === "segments") return "segment";
  if (name === "segments") return "segments";
  if (["checkpoint", "applied", "intake", "intake-watermark", "images", "history", "evidence"].includes(name))
    return name;
  return "folder";
}
