/**
 * The status screen: the site's groups, trouble first, in plain words. Pure: status in, text out; it decides nothing
 * about protection, it only says what the daemon computed.
 */
import type {
  GroupStatus,
  HistoryStatus,
  OwnerStatus,
  PinStatus,
  ProtectionState,
  SiteStatus,
  StandbyStatus,
  VolumeChangeStatus,
} from "../../protocol/status.ts";
import type { Style } from "../terminal.ts";
import { bytesText, countText, durationText, plural, rateText } from "./quantities.ts";
import { retiredRows } from "./retirement.ts";
import { table } from "./table.ts";

export type Painter = (style: Style, text: string) => string;

/** Least protected first. */
const order: readonly ProtectionState[] = [
  "stopped",
  "fenced",
  "at-risk",
  "catching-up",
  "protected",
  "retired",
];
const styles: Readonly<Record<ProtectionState, Style>> = {
  stopped: "red",
  fenced: "red",
  "at-risk": "red",
  "catching-up": "yellow",
  protected: "green",
  retired: "dim",
};

export function needsAttention(group: GroupStatus): boolean {
  // Ended by an order: nobody has to look after it.
  if (group.state === "retired") return false;
  return group.state !== "protected" || (group.role === "owner" && group.io !== "serving");
}

/** One screen for the whole site. */
export function siteText(status: SiteStatus, paint: Painter): string {
  if (status.groups.length === 0) {
    return `SITE ${status.site}: no group has a part here yet; the first is made when its home site's agent starts\n`;
  }
  const groups = [...status.groups].sort(
    (a, b) => order.indexOf(a.state) - order.indexOf(b.state) || a.group.localeCompare(b.group),
  );
  const rows = [
    ["GROUP", "HERE", "STATE", "BEHIND", "AT RISK", "TARGET", "LOG", "LINE"].map((text) =>
      paint("dim", text),
    ),
  ];
  for (const group of groups) rows.push(row(group, paint));
  // Reasons follow the table: inside it they would tear the columns apart.
  const reasons = groups.filter((group) => group.reason !== null || needsAttention(group)).map(explain);
  const attention = groups.filter(needsAttention).length;
  const summary =
    attention === 0
      ? `${plural(groups.length, "group")}, all protected\n`
      : `${attention} of ${plural(groups.length, "group")} ${attention === 1 ? "needs" : "need"} attention\n`;
  return `SITE ${paint("bold", status.site)}  ${status.time}\n\n${table(rows)}\n${reasons.join("")}${summary}`;
}

function row(group: GroupStatus, paint: Painter): string[] {
  const state = paint(styles[group.state], group.state);
  if (group.role === "standby") {
    const behind = countText(Math.max(0, group.position.durable - group.position.applied));
    return [group.group, "standby", state, "-", "-", "-", `${behind} to apply`, `from ${group.owner ?? "?"}`];
  }
  const target =
    group.rpo.ageMs === null
      ? group.rpo.bytes === null
        ? "-"
        : bytesText(group.rpo.bytes)
      : durationText(group.rpo.ageMs);
  const percent = Math.floor((100 * group.journal.bytes) / Math.max(1, group.journal.maxBytes));
  const line = group.link.up ? `up, ${rateText(group.link.limitBytesPerSecond)}` : "down";
  return [
    group.group,
    // What is fenced was the owner once; to call it so would invite somebody to use it.
    group.state === "fenced" ? "old owner" : "owner",
    state,
    durationText(group.lag.ageMs),
    bytesText(group.lag.bytes),
    target,
    `${percent}% full`,
    line,
  ];
}

function explain(group: GroupStatus): string {
  const io = group.role === "owner" && group.io !== "serving" ? `; requests are ${group.io}` : "";
  const why = group.reason === null ? "" : `: ${group.reason.message} (${group.reason.code})`;
  return `${group.group}: ${group.state} since ${group.since}${io}${why}\n`;
}

/** The sentence of one group: "protected, 1.2 s behind, 14 MiB at risk". */
export function groupSentence(group: GroupStatus): string {
  if (group.retired !== null && group.state === "retired")
    return `retired, its disks are complete at ${countText(group.retired.sequence)}`;
  if (group.role === "standby") {
    const point =
      group.consistent === null ? "nothing to open yet" : `can be opened at ${group.consistent.time}`;
    return `standby, ${group.state}, ${point}${backText(group.history)}`;
  }
  const { lag } = group;
  if (group.state === "fenced") {
    const tail = lag.writes === 0 ? "no unsent tail" : `keeps ${plural(lag.writes, "write")} never sent`;
    return `fenced, ${tail} (${bytesText(lag.bytes)}), requests ${group.io}`;
  }
  const behind =
    lag.writes === 0
      ? "nothing behind"
      : `${durationText(lag.ageMs)} behind, ${bytesText(lag.bytes)} at risk`;
  const io = group.io === "serving" ? "" : `, requests ${group.io}`;
  return `${group.state}, ${behind}${io}`;
}

/** Everything about one group. */
export function groupText(group: GroupStatus, paint: Painter): string {
  const head = `${paint("bold", group.group)}: ${paint(styles[group.state], groupSentence(group))}\n`;
  const reason = group.reason === null ? "" : explain(group);
  const rows = group.role === "owner" ? ownerRows(group) : standbyRows(group);
  const left = group.retired === null ? [] : retiredRows(group.retired);
  return head + reason + table([...left, ...rows], "  ");
}

function ownerRows(group: OwnerStatus): string[][] {
  const { position, lag, link, journal } = group;
  const roundTrip = link.roundTripMs === null ? "" : `, round trip ${durationText(link.roundTripMs)}`;
  const ratio =
    link.wireBytes === 0
      ? ""
      : `, ${(link.rawBytes / link.wireBytes).toFixed(1)} to 1 (${link.codec ?? "none"})`;
  return [
    ["since", group.since],
    ["history", `epoch ${group.epoch ?? "-"}, lineage ${group.lineage ?? "not known yet"}`],
    ["written", plural(position.written, "write")],
    ["durable", countText(position.durable)],
    ["shipped", countText(position.shipped)],
    ["acknowledged", `${countText(position.acknowledged)}  ${plural(lag.writes, "write")} behind`],
    ["applied", countText(position.applied)],
    [
      "lag",
      `${durationText(lag.ageMs)}, ${bytesText(lag.bytes)}, last progress ${durationText(lag.noProgressMs)} ago`,
    ],
    ["journal", `${bytesText(journal.bytes)} of ${bytesText(journal.maxBytes)}`],
    ...(group.history === null ? [] : pointRows(group.history)),
    [
      "line",
      `${link.up ? "up" : `down, last contact ${link.lastContact ?? "never"}`}, limit ${rateText(link.limitBytesPerSecond)}${roundTrip}`,
    ],
    ["sent", `${bytesText(link.wireBytes)} for ${bytesText(link.rawBytes)}${ratio}`],
    ["volumes", volumesText(group)],
    // A daemon of before says nothing of it.
    ...(group.volumeChange == null ? [] : [["change", changeText(group.volumeChange)]]),
  ];
}

function changeText({ state, code, message, volumes }: VolumeChangeStatus): string {
  const what = volumes.map(({ volume, fromBytes, toBytes }) => {
    return `${volume} ${fromBytes === null ? "new" : bytesText(fromBytes)} to ${bytesText(toBytes)}`;
  });
  return `${[state, ...what].join("  ")}: ${message} (${code})`;
}

function standbyRows(group: StandbyStatus): string[][] {
  const { position, consistent, lastHeard } = group;
  return [
    ["since", group.since],
    [
      "owner",
      `${group.owner ?? "not known yet"}, epoch ${group.epoch ?? "-"}, lineage ${group.lineage ?? "not known yet"}`,
    ],
    ["received", countText(position.received)],
    ["durable", countText(position.durable)],
    ["applied", countText(position.applied)],
    [
      "consistent",
      consistent === null ? "no point yet" : `${countText(consistent.sequence)}  ${consistent.time}`,
    ],
    ...pointRows(group.history),
    [
      "last heard",
      lastHeard === null
        ? "never"
        : `${lastHeard.time}, the owner had answered ${countText(lastHeard.answered)}`,
    ],
    ["intake", `${bytesText(group.intake.bytes)} of ${bytesText(group.intake.maxBytes)}`],
    ["volumes", volumesText(group)],
  ];
}

/** How far back one can go, where there is more than the newest point. */
function backText({ points, oldestTime }: HistoryStatus): string {
  return points > 1 ? `, back to ${oldestTime ?? "its beginning"}` : "";
}

function pointRows(history: HistoryStatus): string[][] {
  const { points, oldest, oldestTime, bytes, maxBytes, pins, problem, check } = history;
  const since =
    points > 1 ? `, back to ${countText(oldest)}  ${oldestTime ?? "its beginning"}` : ", the newest only";
  const rows = [
    ["points", points === 0 ? "none yet" : `${plural(points, "point")}${since}`],
    ["kept", `${bytesText(bytes)} of ${bytesText(maxBytes)}`],
  ];
  if (pins.length > 0) rows.push(["pinned", pins.map(pinText).join(", ")]);
  if (check !== null) {
    const found = check.damagedChunks === 0 ? "no damage" : `${plural(check.damagedChunks, "chunk")} DAMAGED`;
    rows.push(["checked", `${check.startedAt}, ${bytesText(check.checkedBytes)}: ${found}`]);
  }
  if (problem !== null) rows.push(["given up", `${problem.message} (${problem.code})`]);
  return rows;
}

function pinText({ id, sequence, label, keptBytes }: PinStatus): string {
  const why = label === "" ? "" : ` "${label}"`;
  return `${id}${why} at ${countText(sequence)}, keeps ${bytesText(keptBytes)}`;
}

function volumesText(group: GroupStatus): string {
  return group.volumes
    .map(({ volume, sizeBytes, wholeFrom }) => {
      return `${volume} ${bytesText(sizeBytes)}${wholeFrom === null ? " (not whole at the standby)" : ""}`;
    })
    .join("  ");
}
