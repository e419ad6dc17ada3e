/**
 * The failpoints of both roles, by when a process comes past them: while a group is made, under load, and while a
 * standby takes over. docs/testing.md explains the names. Each stands for two, `.before` and `.after`.
 */

/** Steps in the order in which a document is replaced, or a small file is made under its name. */
const replaced = (file: string): string[] => [`${file}.write`, `${file}.sync`, `${file}.rename`];

export const agentMaking: readonly string[] = [
  "agent.folder.makeDirectory",
  ...replaced("agent.state"),
  "agent.folder.sync",
  "agent.journal.remove",
  "agent.watermark.remove",
  "agent.ahead.remove",
  "agent.checkpoint.remove",
  "agent.images.makeDirectory",
  "agent.images.sync",
  ...replaced("agent.checkpoint"),
  ...replaced("agent.watermark"),
  "agent.store.putHead",
  "agent.journal-log.syncData",
  "agent.journal.sync",
  "agent.ahead.makeDirectory",
  "agent.half.write",
  "agent.half.sync",
  "agent.ahead.sync",
];

/** The halves' `write`, `sync` and the name of their folder: when they are emptied, at the start after an end. */
export const agentUnderLoad: readonly string[] = [
  "agent.half.writeNow",
  "agent.half.syncData",
  "agent.half.write",
  "agent.half.sync",
  "agent.ahead.sync",
  "agent.store.putFrame",
  "agent.store.putFrames",
  "agent.watermark.writeNow",
  "agent.journal-log.syncData",
  "agent.watermark.syncData",
  "agent.image.writeChanges",
  "agent.image.flush",
  "agent.checkpoint.write",
  "agent.checkpoint.syncData",
  "agent.store.putHead",
  "agent.store.deleteFrames",
  "agent.journal.sync",
  "agent.line.upload",
  "agent.line.control",
];

export const gatewayMaking: readonly string[] = [
  "gateway.images.makeDirectory",
  ...replaced("gateway.state"),
  "gateway.folder.sync",
  "gateway.intake.remove",
  "gateway.intake-watermark.remove",
  "gateway.applied.remove",
  "gateway.history.remove",
  ...replaced("gateway.applied"),
  ...replaced("gateway.intake-watermark"),
  "gateway.store.putHead",
  "gateway.intake-log.syncData",
  "gateway.intake.sync",
  "gateway.segments.makeDirectory",
  "gateway.segments.sync",
  "gateway.history.sync",
  ...replaced("gateway.pins"),
  "gateway.index.clear",
  "gateway.index.settle",
];

export const gatewayUnderLoad: readonly string[] = [
  "gateway.store.putFrame",
  "gateway.intake-watermark.writeNow",
  "gateway.intake-log.syncData",
  "gateway.intake-watermark.syncData",
  "gateway.applied.write",
  "gateway.applied.syncData",
  "gateway.segment.write",
  "gateway.segment.syncData",
  "gateway.index.write",
  "gateway.image.writeChanges",
  "gateway.image.flush",
  "gateway.store.putHead",
  "gateway.store.deleteFrames",
  "gateway.intake.sync",
  ...replaced("gateway.heard"),
];

/** With the hit that falls into a takeover: the state document is replaced twice while the standby is made. */
export const takingOver: readonly (readonly [name: string, hit: number])[] = [
  ...replaced("gateway.state").flatMap((name) => [3, 4, 5, 6].map((hit) => [name, hit] as const)),
  ...replaced("gateway.handover").map((name) => [name, 1] as const),
  ["gateway.evidence.makeDirectory", 1],
  ...replaced("gateway.evidence").map((name) => [name, 1] as const),
  // The history is opened with the images that were handed over.
  ["agent.segments.sync", 1],
  ["agent.history.sync", 1],
  ...agentMaking.filter((name) => !name.includes("images")).map((name) => [name, 1] as const),
];

export const failpointNames: readonly string[] = [
  ...new Set([
    ...agentMaking,
    ...agentUnderLoad,
    ...gatewayMaking,
    ...gatewayUnderLoad,
    ...takingOver.map(([name]) => name),
  ]),
].flatMap((name) => [`${name}.before`, `${name}.after`]);
