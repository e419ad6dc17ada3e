/**
 * Judges a greeting: whether the sender's history is the one this standby holds. Pure. It never creates, changes or
 * believes anything; a history that does not fit is named, not mended.
 */
import { genesisChain } from "../protocol/chain.ts";
import type { Hello, HelloAnswer, Refusal, StandbyLack } from "../protocol/control.ts";
import type { ChainPosition, Sequence, VolumeEntry } from "../protocol/ids.ts";
import { bytesToHex, lineageFromText } from "../protocol/ids.ts";
import { judgeToken } from "./receive/machine.ts";
import { retiredRefusal } from "./retire.ts";
import type { StandbyDocument } from "./state.ts";

export interface HelloFacts {
  readonly hello: Hello;
  /** Volumes as this site's configuration has them. */
  readonly configured: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly document: StandbyDocument | undefined;
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
    judgeTable(hello.volumes, document.volumes) ?? judgeConfigured(hello.volumes, facts.configured);
  if (table !== undefined) return answer(table);
  const genesis = judgeGenesis(hello);
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
  });
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
  const genesis = lineage === undefined ? undefined : bytesToHex(genesisChain(lineage, hello.volumes));
  return genesis === hello.genesis
    ? undefined
    : refused("GENESIS", "genesis does not follow from lineage and volumes");
}

/** Numbers, names and sizes must be those the standby was made with. */
function judgeTable(offered: readonly VolumeEntry[], held: readonly VolumeEntry[]): Refusal | undefined {
  if (offered.length !== held.length)
    return refused("VOLUME_TABLE", `${offered.length} volumes, ${held.length} held here`);
  for (const volume of offered) {
    const ours = held.find((each) => each.number === volume.number);
    if (ours === undefined || ours.name !== volume.name) {
      return refused("VOLUME_TABLE", `volume ${volume.name} does not have number ${volume.number} here`);
    }
    if (ours.sizeBytes !== volume.sizeBytes) return wrongSize(volume, ours.sizeBytes);
  }
  return undefined;
}

/** Names and sizes must be those of this site's configuration; numbers are the owner's to give, each once. */
function judgeConfigured(
  offered: readonly VolumeEntry[],
  configured: HelloFacts["configured"],
): Refusal | undefined {
  const numbers = new Set(offered.map((volume) => volume.number));
  const names = new Set(offered.map((volume) => volume.name));
  if (
    offered.length !== configured.length ||
    numbers.size !== offered.length ||
    names.size !== offered.length
  ) {
    return refused("VOLUME_TABLE", "the volumes are not those of this site's configuration");
  }
  for (const volume of offered) {
    const ours = configured.find((each) => each.name === volume.name);
    if (ours === undefined)
      return refused("VOLUME_TABLE", `volume ${volume.name} is not in this site's configuration`);
    if (ours.sizeBytes !== volume.sizeBytes) return wrongSize(volume, ours.sizeBytes);
  }
  return undefined;
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
