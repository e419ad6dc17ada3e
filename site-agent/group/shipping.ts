/**
 * Shipping of an owned group while a journal is open: makes the shipper on it, and gives it up with it. Knows the line also
 * while nothing is shipped. Decides nothing; it never ships for a group that has no standby.
 */
import type { CompressBatch } from "../../protocol/batch.ts";
import { genesisChain } from "../../protocol/chain.ts";
import type { WantedAnswer } from "../../protocol/control.ts";
import type { StandingOrder } from "../../protocol/group-life.ts";
import type { VolumeEntry } from "../../protocol/ids.ts";
import type { LinkStatus } from "../../protocol/status.ts";
import { foundingTable } from "../../protocol/table-volume.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { Overflow } from "../overflow/overflow.ts";
import type { Line } from "../ship/line.ts";
import type { ShipListener, ShipperStatus, ToldTable } from "../ship/shipper.ts";
import { Shipper } from "../ship/shipper.ts";
import type { Engine } from "../write-path/engine.ts";
import { lineageBytes } from "./files.ts";
import { noLink } from "./reasons.ts";
import type { StandbyView } from "./standby-view.ts";
import type { AgentGroupState } from "./state.ts";

export interface ShippingWorld {
  readonly group: string;
  /** Null when no line to the other site is configured. */
  readonly link: Line | null;
  readonly compress: CompressBatch;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly listener: ShipListener;
}

/** The history that is shipped, while an engine is open on it. */
export interface ShippedHistory {
  readonly state: AgentGroupState;
  readonly engine: Engine;
  readonly overflow: Overflow;
  readonly view: StandbyView;
  /** The table as it is durable now, a change under way included. */
  readonly table: () => ToldTable;
  /** An order to ship nothing, as it stands now. */
  readonly pause: () => StandingOrder | null;
}

export class Shipping {
  readonly #world: ShippingWorld;
  #shipper: Shipper | null = null;

  constructor(world: ShippingWorld) {
    this.#world = world;
  }

  start({ state, engine, overflow, view, table, pause }: ShippedHistory): void {
    const { group, link, compress, clock, random, log, listener } = this.#world;
    if (state.standby === null || link === null) return;
    const lineage = lineageBytes(state);
    this.#shipper = new Shipper({
      source: {
        group,
        lineage,
        token: state.token,
        table,
        genesis: genesisChain(lineage, foundingTable(state.volumes)),
        durable: () => engine.log.durable,
        headSequence: () => engine.log.head.sequence,
        floorSequence: () => engine.log.floor.sequence,
        pause,
        answered: () => view.answeredPosition,
        frames: (from, rawBytesMax) => engine.log.frames(from, rawBytesMax),
        chainAt: (sequence) => engine.log.chainAt(sequence),
        positionAt: (sequence) => engine.log.positionAt(sequence),
        declareGap: (first) => overflow.declare(first),
      },
      ...{ listener, link, compress, clock, random, log },
    });
    this.#shipper.start();
  }

  /** Undefined while nothing is shipped. */
  get status(): ShipperStatus | undefined {
    return this.#shipper?.status();
  }

  /** The line of a group that ships nothing. */
  get lineAlone(): LinkStatus {
    const { link } = this.#world;
    if (link === null) return noLink;
    const { up, limitBytesPerSecond, lastContact } = link.status;
    return { ...noLink, up, limitBytesPerSecond, lastContact };
  }

  /** More of the journal is durable. */
  durableAdvanced(): void {
    this.#shipper?.durableAdvanced();
  }

  pauseChanged(): void {
    this.#shipper?.pauseChanged();
  }

  /** See `Shipper.askForTable`; null while nothing is shipped, too. */
  async askForTable(table: readonly VolumeEntry[]): Promise<WantedAnswer | null> {
    return (await this.#shipper?.askForTable(table)) ?? null;
  }

  /** Settles when nothing of it reads the journal any more. */
  async stop(): Promise<void> {
    const shipper = this.#shipper;
    this.#shipper = null;
    await shipper?.close();
  }
}
