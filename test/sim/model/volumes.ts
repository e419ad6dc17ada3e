/**
 * What an operator has asked of a group's volume table, and what may therefore become of it: which volumes exist when, what a
 * site may serve, what a point and a hand-over must hold (docs/volumes.md). The order of the changes is `history.ts`'s, what a
 * standby has of their content `received.ts`'s. Imports nothing of the product.
 */
import type { HeldRange, History, VolumeBytes } from "./history.ts";
import type { JournalledTable } from "./journalled.ts";
import type { Received } from "./received.ts";
import { require } from "./violation.ts";

/** A volume as a configuration has it. */
export interface WantedVolume {
  readonly name: string;
  /** Bytes. */
  readonly sizeBytes: number;
}

/** A row of a table that a site shows or serves. */
export interface ShownVolume extends WantedVolume {
  readonly number: number;
}

export class Volumes {
  /** Names by number: operators write new volumes behind the others, and numbers are given in that order. */
  readonly names: string[];
  /** What the owner's images of volumes that will join hold already. */
  readonly joining: HeldRange[] = [];
  /** Every table that the file of a site ever had. */
  readonly #configured = new Map<string, (readonly WantedVolume[])[]>();

  constructor(founding: readonly WantedVolume[], sites: readonly string[]) {
    this.names = founding.map(({ name }) => name);
    for (const site of sites) this.#configured.set(site, [founding]);
  }

  /** The newest table in the file of `site`. */
  wantedAt(site: string): readonly WantedVolume[] {
    return this.#configured.get(site)!.at(-1)!;
  }

  configured(site: string, table: readonly WantedVolume[]): void {
    this.#configured.get(site)!.push(table);
    for (const { name } of table) if (!this.names.includes(name)) this.names.push(name);
  }

  nameOf(volume: number): string {
    return this.names[volume] ?? `volume ${volume}`;
  }

  #wasAsked(site: string, name: string, sizeBytes: number): boolean {
    return this.#configured
      .get(site)!
      .some((table) => table.some((each) => each.name === name && each.sizeBytes === sizeBytes));
  }

  /** An owner at `site` puts a change into its order; `standby`: the site that has to be ready for it, if any. */
  judgeChange(
    what: string,
    change: JournalledTable,
    history: History,
    before: number,
    site: string,
    standby: string | undefined,
  ): void {
    const { volume, name, sizeBytes, holdsData } = change;
    const known = history.sizeAt(volume, before);
    const told = () => `${what} puts into its order that volume ${volume}, ${name}, has ${sizeBytes} bytes`;
    require("I3", this.names[volume] === name, () => `${told()}; that number is of ${this.names[volume]}`);
    require("I3", sizeBytes > known, () => `${told()}; it had ${known}`);
    require("I3", this.#wasAsked(site, name, sizeBytes), () => `${told()}, which nobody asked for`);
    require("I4", standby === undefined || this.#wasAsked(standby, name, sizeBytes), () =>
      `${told()}, for which site ${standby} was never prepared`);
    const held = known === 0 && this.joining.some((range) => range.volume === volume);
    require("I3", holdsData === held, () =>
      `${told()} and ${holdsData ? "data" : "nothing"}; its image held ${held ? "data" : "nothing"}`);
  }

  /** What is served once a site has come back is what its order leads to (VO3, VO4). */
  judgeServed(what: string, served: readonly ShownVolume[], history: History): void {
    this.judgeNotAhead(what, served, history);
    for (const { volume, sizeBytes } of history.volumes()) {
      const row = served.find(({ number }) => number === volume);
      require("I1", row?.sizeBytes === sizeBytes, () =>
        `${what} serves ${row?.sizeBytes ?? "no"} bytes of volume ${this.nameOf(volume)}; its order leads to ${sizeBytes}`);
    }
  }

  /** Nothing is served that is not in the order, nor under another name. */
  judgeNotAhead(what: string, served: readonly ShownVolume[], history: History): void {
    for (const { number, name, sizeBytes } of served) {
      const has = history.sizeAt(number, history.last);
      require("I1", sizeBytes <= has && this.names[number] === name, () =>
        `${what} serves ${sizeBytes} bytes of volume ${number}, ${name}; its order leads to ${has} of ${this.nameOf(number)}`);
    }
  }

  /** A volume that a point, a hand-over or a status leaves out is not whole there (VS4, VS5). */
  judgeLeftOut(what: string, volume: number, history: History, received: Received, sequence: number): void {
    const whole = received.knownWholeFrom(history, volume, sequence);
    require("I4", whole === undefined || whole > sequence, () =>
      `${what} leaves out volume ${this.nameOf(volume)} at ${sequence}, which is whole from ${whole}`);
  }

  /**
   * What a new owner serves of what was sealed at `sequence`: with the sizes of then, or larger ones that its standby had come to
   * know; whatever it leaves out was not whole. What is in it is judged by reading it.
   */
  judgeHandedOver(
    what: string,
    served: readonly ShownVolume[],
    history: History,
    received: Received,
    sequence: number,
  ): void {
    for (const { number, name, sizeBytes } of served) {
      const least = history.sizeAt(number, sequence);
      const most = history.sizeAt(number, history.last);
      require("I4", this.names[number] === name && sizeBytes >= least && sizeBytes <= most && least > 0, () =>
        `${what} serves ${sizeBytes} bytes of volume ${number}, ${name}; the old owner's order leads to ${least}..${most}`);
    }
    for (const { volume } of history.volumes(sequence))
      if (!served.some(({ number }) => number === volume))
        this.judgeLeftOut(what, volume, history, received, sequence);
  }

  /** A failover names what it leaves out, and nothing else (VS5). `table`: at the seal. */
  judgeNamed(
    what: string,
    named: readonly string[],
    table: readonly VolumeBytes[],
    served: readonly number[],
  ): void {
    const left = table
      .filter(({ volume }) => !served.includes(volume))
      .map(({ volume }) => this.nameOf(volume));
    const handed = served.map((volume) => this.nameOf(volume));
    require("I4", left.every((name) => named.includes(name)), () =>
      `${what} names [${named.join(", ")}] as left out; it leaves out [${left.join(", ")}]`);
    require("I4", named.every((name) => this.names.includes(name) && !handed.includes(name)), () =>
      `${what} names [${named.join(", ")}] as left out; it hands over [${handed.join(", ")}]`);
  }
}
