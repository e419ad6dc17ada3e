/**
 * How an agent's part in a group begins: asks the other site where it must, has it decided what to do, and makes the files of
 * a new or an adopted history. Opens and serves nothing. Must never make anything where a history may already be.
 */
import type { HandoverRecord } from "../../protocol/handover.ts";
import { foundingVolume } from "../../protocol/table-volume.ts";
import type { Clock } from "../../runtime/clock.ts";
import { syncNamesOf } from "../../runtime/disk.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import type { Random } from "../../runtime/random.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import type { Line } from "../ship/line.ts";
import { askPeer } from "./ask-peer.ts";
import type { FilesSettings } from "./files.ts";
import { initialContent, journalExists, makeFiles } from "./files.ts";
import { adoptedState, createdState } from "./first-state.ts";
import type { KeptState } from "./kept-state.ts";
import type { PeerAnswer, StartDecision } from "./start-decision.ts";
import { decideStart } from "./start-decision.ts";
import type { AgentGroupState, StateVolume } from "./state.ts";

export interface BeginningWorld {
  readonly site: string;
  readonly settings: GroupSettings;
  readonly paths: AgentGroupPaths;
  readonly files: FilesSettings;
  /** Hand-over record that this site's gateway may have written. */
  readonly readHandover: () => Promise<HandoverRecord | undefined>;
  /** Null when no line to the other site is configured. */
  readonly link: Line | null;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

type Decided = Exclude<StartDecision, { readonly kind: "ask-peer" }>;

export class Beginning {
  readonly #world: BeginningWorld;
  readonly #kept: KeptState;

  constructor(world: BeginningWorld, kept: KeptState) {
    this.#world = world;
    this.#kept = kept;
  }

  /** From what is on disk now. `late`: told of an answer of the other site that came when it was decided without. */
  async decide(createOrdered: boolean, late: (peer: PeerAnswer) => void): Promise<Decided> {
    const { site, settings, log } = this.#world;
    await this.#kept.read();
    const handover = await this.#world.readHandover();
    const facts = { site, home: settings.home, state: this.#kept.now, handover, createOrdered };
    let decision = decideStart({ ...facts, peer: "not-asked" });
    if (decision.kind === "ask-peer")
      decision = decideStart({ ...facts, peer: await askPeer(settings.name, this.#world, late) });
    if (decision.kind === "ask-peer") throw new TypeError("an answered question is not asked again");
    log.info("START_DECIDED", "what to do with the group", { decision: decision.kind });
    return decision;
  }

  /** What the other site's answer would have decided, now that a group is served without it. */
  decideLate(state: AgentGroupState, peer: PeerAnswer): StartDecision {
    const { site, settings, log } = this.#world;
    const facts = { site, home: settings.home, state, handover: undefined, peer, createOrdered: false };
    const decision = decideStart(facts);
    log.info("PEER_ANSWERED_LATE", "the other site answered after the group was started", {
      decision: decision.kind,
    });
    return decision;
  }

  /** Makes a new history. OperationalError `STATE_MISSING` (`stop`), and those of the files. */
  async create(): Promise<void> {
    const { settings, site, paths, files, random, log } = this.#world;
    if (this.#kept.now === undefined && journalExists(files, 1)) {
      throw new OperationalError({
        code: "STATE_MISSING",
        message: "a journal lies in the data folder but its state document does not",
        reaction: "stop",
        hint: "Restore the whole data folder of the group, or move it away and fail over to the standby.",
      });
    }
    const volumes: StateVolume[] = settings.volumes.map((volume, number) => ({
      ...foundingVolume({ number, name: volume.name, sizeBytes: volume.sizeBytes }),
      imagePath: volume.image ?? paths.image(volume.name),
      imageIdentity: null,
    }));
    const initial = await initialContent(volumes, files);
    const { standby } = settings;
    await this.#make(createdState({ lineage: random.uuidBytes(), site, standby, volumes, initial }));
    log.info("GROUP_CREATED", "a new history begins", { lineage: this.#kept.now?.lineage });
  }

  /** Takes over what was handed over. Errors of the files. */
  async adopt(handover: HandoverRecord): Promise<void> {
    await this.#make(adoptedState(handover));
    this.#world.log.info("GROUP_ADOPTED", "this site owns the group now", {
      epoch: handover.token.epoch,
      sequence: handover.sealed,
    });
  }

  async #make(state: AgentGroupState): Promise<void> {
    const { files, paths } = this.#world;
    await files.disk.makeDirectory(paths.directory);
    // A crash from here to the second document is seen as an unfinished attempt and done anew.
    await this.#kept.save(state);
    // Power loss after the first answer would otherwise take the whole folder, name and all, and with it the history.
    await syncNamesOf(files.disk, paths.directory);
    const volumes = await makeFiles(state, files);
    // From here on the history exists: everything it stands on is durable already.
    await this.#kept.save({ ...state, role: "owner", volumes });
  }
}
