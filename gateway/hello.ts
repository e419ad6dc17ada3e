/**
 * Judges a greeting: whether the sender's history is the one this standby holds. Pure. It never creates, changes or
 * believes anything; a history that does not fit is named, not mended.
 */
import { genesisChain } from "../protocol/chain.ts";
import type { Hello, HelloAnswer, Refusal, StandbyLack, WantedAnswer } from "../protocol/control.ts";
import type { ChainPosition, Sequence, VolumeEntry } from "../protocol/ids.ts";
import { bytesToHex, lineageFromText } from "../protocol/ids.ts";
import type { Reason } from "../protocol/status.ts";
import { judgeToken } from "./receive/machine.ts";
import { retiredRefusal } from "./retire.ts";
import type { StandbyDocument } from "./state.ts";
import type { HeldVolume } from "./volumes/table.ts";

/** A volume in this site's configuration. */
export type ConfiguredVolume = Pick<VolumeEntry, "name" | "sizeBytes">;

export interface HelloFacts {
  readonly hello: Hello;
  /** Volumes as this site's configuration has them: it may be ahead of any table, a change being prepared so. */
  readonly configured: readonly ConfiguredVolume[];
  readonly document: StandbyDocument | undefined;
  /** The table once everything that was received is applied; undefined while the intake is not open. */
  readonly held: readonly HeldVolume[] | undefined;
  /** This site's own agent has state for the group, or a hand-over was made here. */
  readonly ownedHere: boolean;
  /** Undefined while the intake is not open. */
  readonly durable: ChainPosition | undefined;
  readonly applied: Sequence;
  /** What the images lack for certain until a first sync or resync has ended. */
  readonly lacks: StandbyLack | undefined;
}

export type HelloVerdict =
  | { readonly kind: "answer"; readonly answer: HelloAnswer }
  | { readonly kind: "create" };

const refused = (code: string, message: string): Refusal => ({ kind: "refused", code, message });
const answer = (body: HelloAnswer): HelloVerdict => ({ kind: "answer", answer: body });

export function judgeHello(facts: HelloFacts): HelloVerdict {
  const { hello, document } = facts;
  if (document === undefined || document.phase === "creating") return judgeFirstHello(facts);
  if (hello.lineage !== document.lineage) {
    // The fence holds against any history of an older owner; beyond that two histories are a matter for people.
    const fenced = document.failover === null ? undefined : judgeToken(hello.token, document.token);
    return answer(fenced ?? divergedFrom(document, facts.durable));
  }
  const token = judgeToken(hello.token, document.token);
  if (token !== undefined) return answer(token);
  if (document.retired !== null) return answer(retiredRefusal);
  const table =
    judgeTable(hello.volumes, facts.held ?? document.volumes) ??
    judgeConfigured(hello.volumes, facts.configured);
  if (table !== undefined) return answer(table);
  const genesis = judgeGenesis(hello) ?? judgeHeldGenesis(hello, document);
  if (genesis !== undefined) return answer(genesis);
  const { durable } = facts;
  if (durable === undefined) return answer(refused("STANDBY_STOPPED", "the standby is not open"));
  const same = bytesToHex(durable.chain) === hello.durable.chain;
  // A sender that has less than we hold was restored from a backup, or writes a second history.
  if (hello.durable.sequence < durable.sequence || (hello.durable.sequence === durable.sequence && !same)) {
    return answer(divergedFrom(document, durable));
  }
  return answer({
    kind: "attached",
    durable: { sequence: durable.sequence, chain: bytesToHex(durable.chain) },
    applied: facts.applied,
    token: document.token,
    ...(facts.lacks === undefined ? {} : { lacks: facts.lacks }),
    ...partialOf(facts.held ?? document.volumes),
  });
}

/** What an answer says against the owner's history or table: null settles a dispute, undefined leaves it as it is. */
export function disputeIn(answer: HelloAnswer): Reason | null | undefined {
  switch (answer.kind) {
    case "attached":
      return null;
    case "diverged": {
      const message = `the owner's history is not lineage ${answer.lineage} at sequence ${answer.durable.sequence}`;
      return { code: "DIVERGED", message };
    }
    case "conflict":
      return { code: "OWNER_CONFLICT", message: `two owners claim epoch ${answer.token.epoch}` };
    case "refused":
      // What was retired has no history to dispute about any more.
      return answer === retiredRefusal ? undefined : { code: answer.code, message: answer.message };
    case "superseded":
    case "unknown":
      return undefined;
  }
}

/** An owner that believes them whole would never bring them. */
function partialOf(table: readonly HeldVolume[]): Pick<HelloAnswer & { kind: "attached" }, "partial"> {
  const partial = table.filter(({ wholeFrom }) => wholeFrom === null).map(({ number }) => number);
  return partial.length === 0 ? {} : { partial };
}

function judgeFirstHello({ hello, configured, ownedHere }: HelloFacts): HelloVerdict {
  if (!hello.create) return answer({ kind: "unknown" });
  if (ownedHere) {
    return answer(refused("GROUP_OWNED_HERE", "this site's own agent has a history of the group"));
  }
  const wrong = judgeConfigured(hello.volumes, configured) ?? judgeGenesis(hello);
  return wrong === undefined ? { kind: "create" } : answer(wrong);
}

function judgeGenesis(hello: Hello): Refusal | undefined {
  const lineage = lineageFromText(hello.lineage);
  const founding = hello.founding ?? hello.volumes;
  const genesis = lineage === undefined ? undefined : bytesToHex(genesisChain(lineage, founding));
  if (genesis !== hello.genesis)
    return refused("GENESIS", "genesis does not follow from lineage and founding volumes");
  const lost = founding.find((volume) => !isCovered(volume, hello.volumes));
  return (
    lost && refused("VOLUME_TABLE", `volume ${lost.name} was there at the beginning, and is not offered`)
  );
}

/** The same lineage cannot have begun with two tables. */
function judgeHeldGenesis(hello: Hello, document: StandbyDocument): Refusal | undefined {
  return hello.genesis === document.genesis
    ? undefined
    : refused("GENESIS", "the history that is held here began otherwise");
}

/**
 * The owner's table may be ahead of ours, which the records to come will mend. Never ours of its: no record takes a volume
 * away, so what is offered would be another history, or an owner that has forgotten.
 */
function judgeTable(offered: readonly VolumeEntry[], held: readonly VolumeEntry[]): Refusal | undefined {
  for (const ours of held) {
    const volume = offered.find((each) => each.number === ours.number);
    if (volume === undefined || volume.name !== ours.name)
      return refused(
        "VOLUME_TABLE",
        `volume ${ours.name} has number ${ours.number} here, and is not offered so`,
      );
    if (volume.sizeBytes < ours.sizeBytes) return wrongSize(volume, ours.sizeBytes);
  }
  return undefined;
}

function isCovered(volume: VolumeEntry, table: readonly VolumeEntry[]): boolean {
  return table.some(
    ({ number, name, sizeBytes }) =>
      number === volume.number && name === volume.name && sizeBytes >= volume.sizeBytes,
  );
}

/** This site's configuration must cover what is offered; it may be ahead. Numbers are the owner's to give, each once. */
function judgeConfigured(
  offered: readonly VolumeEntry[],
  configured: readonly ConfiguredVolume[],
): Refusal | undefined {
  const numbers = new Set(offered.map((volume) => volume.number));
  const names = new Set(offered.map((volume) => volume.name));
  if (numbers.size !== offered.length || names.size !== offered.length)
    return refused("VOLUME_TABLE", "a volume is offered twice");
  for (const volume of offered) {
    const ours = configured.find((each) => each.name === volume.name);
    if (ours === undefined)
      return refused("VOLUME_TABLE", `volume ${volume.name} is not in this site's configuration`);
    if (ours.sizeBytes < volume.sizeBytes) return wrongSize(volume, ours.sizeBytes);
  }
  return undefined;
}

/**
 * Whether this site is prepared for the whole table that the owner would like to change to: names and exactly these sizes
 * stand in its configuration, and nothing that is held would have to go or shrink.
 */
export function judgeWanted(
  wanted: readonly VolumeEntry[],
  configured: readonly ConfiguredVolume[],
  held: readonly VolumeEntry[],
): WantedAnswer {
  const table = judgeTable(wanted, held);
  if (table !== undefined) return { code: table.code, message: table.message };
  for (const { name, sizeBytes } of wanted) {
    const ours = configured.find((each) => each.name === name);
    if (ours === undefined) {
      const message = `volume ${name} is not in the standby's configuration`;
      return { code: "VOLUME_NOT_CONFIGURED", message };
    }
    if (ours.sizeBytes !== sizeBytes) {
      const message = `volume ${name} has ${ours.sizeBytes} bytes in the standby's configuration, and ${sizeBytes} here`;
      return { code: "VOLUME_SIZE", message };
    }
  }
  return "ready";
}

function wrongSize(volume: VolumeEntry, sizeBytes: number): Refusal {
  return refused(
    "VOLUME_SIZE",
    `volume ${volume.name} has ${volume.sizeBytes} bytes there and ${sizeBytes} here`,
  );
}

function divergedFrom(document: StandbyDocument, durable: ChainPosition | undefined): HelloAnswer {
  const seal = document.failover?.seal;
  const held =
    durable === undefined ? undefined : { sequence: durable.sequence, chain: bytesToHex(durable.chain) };
  return {
    kind: "diverged",
    lineage: document.lineage,
    durable:
      held ??
      (seal ? { sequence: seal.sequence, chain: seal.chain } : { sequence: 0, chain: document.genesis }),
  };
}
