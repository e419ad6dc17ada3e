/** The first document of a group at a site: of a new history, or of one that was handed over. Pure. */
import { genesisChain } from "../../protocol/chain.ts";
import type { HandoverRecord } from "../../protocol/handover.ts";
import type { LineageBytes } from "../../protocol/ids.ts";
import { bytesToHex, lineageToText } from "../../protocol/ids.ts";
import type { AgentGroupState, StateVolume } from "./state.ts";

/** Nothing was ordered yet, and nothing went wrong. */
const untroubled = {
  changing: null,
  unflushedMayBeLost: false,
  unflushedAcceptedIn: null,
  paused: null,
  retired: null,
  fenced: null,
} as const;

export interface Founding {
  readonly lineage: LineageBytes;
  readonly site: string;
  readonly standby: string;
  readonly volumes: readonly StateVolume[];
  readonly initial: AgentGroupState["initial"];
}

export function createdState({ lineage, site, standby, volumes, initial }: Founding): AgentGroupState {
  return {
    ...untroubled,
    role: "creating",
    lineage: lineageToText(lineage),
    token: { epoch: 1, owner: site },
    volumes,
    origin: {
      sequence: 0,
      chain: bytesToHex(genesisChain(lineage, volumes)),
      dataBytesTotal: 0,
      timeMs: 0,
    },
    // Nobody opens the past at the site where the disks are at home: the standby keeps it.
    history: null,
    between: [],
    initial,
    standby,
  };
}

export function adoptedState(handover: HandoverRecord): AgentGroupState {
  const { lineage, token, sealed, chain, dataBytesTotal, pointTimeMs, history, between } = handover;
  return {
    ...untroubled,
    role: "adopting",
    lineage,
    token,
    volumes: handover.volumes.map((volume) => ({ ...volume, imageIdentity: null })),
    origin: { sequence: sealed, chain, dataBytesTotal, timeMs: pointTimeMs },
    history,
    between,
    // Those of the records before the hand-over, which this journal does not hold.
    initial: "data",
    // The old site is behind or gone; until there is a way home this group has no standby.
    standby: null,
  };
}
