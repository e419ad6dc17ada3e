/**
 * The scans of one owned group, across engines and restarts: which one is under way, who ordered it, and what the last ones
 * found. One at a time. A standby that lacks content gets its first sync or its resync
 * from here by itself; nothing here ever stops the group.
 */
import type { ScanAnswer, StandbyLack } from "../../protocol/control.ts";
import type { HistoryCheckAnswer } from "../../protocol/history-check.ts";
import type { Lineage, Sequence, Token, VolumeNumber } from "../../protocol/ids.ts";
import type { HistoryFollowStatus, Reason, ScanStatus, VerifyResult } from "../../protocol/status.ts";
import type { TableVolume } from "../../protocol/table-volume.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Disk } from "../../runtime/disk.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import { Turns } from "../../runtime/turns.ts";
import type { OngoingOverflow, Overflow } from "../overflow/overflow.ts";
import type { Line } from "../ship/line.ts";
import type { Engine } from "../write-path/engine.ts";
import type { Entrance } from "../write-path/entrance.ts";
import { askFindings, askHistory, askPin } from "./ask-standby.ts";
import { HistoryFollow } from "./history-follow.ts";
import { provenRanges } from "./owner-proof.ts";
import { afterOrder, afterRepair, afterVerify, policyIsBarred } from "./repairs.ts";
import type { BlockRange, ScanDocument } from "./scan-document.ts";
import { newScan, withResult } from "./scan-document.ts";
import { ScanDocuments } from "./scan-documents.ts";
import { Scanner } from "./scanner.ts";
import { resultOf } from "./verify-result.ts";

/** A step that failed is tried again after this, ms: space comes back. It ends with the engine. */
const stepAgainMs = 5_000;
/** Between the two reads that prove the owner's data before a repair by policy, ms. */
const rereadMs = 1_000;

export interface GroupScansWorld {
  readonly group: string;
  readonly disk: Disk;
  readonly paths: Pick<AgentGroupPaths, "scan" | "verify">;
  /** What a scan reads at most, bytes/s; null: as fast as it may. */
  readonly bytesPerSecond: number | null;
  /** What a verify does with what it found to differ. */
  readonly onMismatch: "report" | "repair";
  /** A verify that found nothing is followed by the digest of the point at its end; default: not. */
  readonly digestsPoints?: boolean;
  readonly clock: Clock;
  readonly log: Log;
  readonly link: Line | null;
  readonly entrance: Entrance;
  /** Why nothing may be put into the write order now: nobody attached, requests held. */
  readonly room: () => Reason | null;
  readonly superseded: (token: Token) => void;
  /** The standby has the content of these volumes from `end` on. Survives power loss when it settles. */
  readonly brought: (volumes: readonly VolumeNumber[], end: Sequence) => Promise<void>;
}

/** The history that is scanned, while an engine is open on it. */
export interface ScanGround {
  readonly engine: Engine;
  readonly lineage: Lineage;
  readonly token: Token;
  /** As it is now: `wholeFrom` changes while the engine is open. */
  readonly volumes: readonly TableVolume[];
  readonly journalBytesMax: number;
  /** Whether this term has a standby at all. */
  readonly hasStandby: boolean;
  /** What was dropped of its journal. */
  readonly overflow: Pick<Overflow, "note" | "map" | "clear">;
}

export class GroupScans {
  readonly #world: GroupScansWorld;
  readonly #documents: ScanDocuments;
  #ground: ScanGround | null = null;
  #scanner: Scanner | null = null;
  /** It is over, and what follows from that waits for its turn: until then its document is not one of a scan under way. */
  #ending: Scanner | null = null;
  #follow: HistoryFollow | null = null;
  /** What the standby said that it lacks; null: nothing, or not met yet. */
  #lack: StandbyLack | null = null;
  /** How far the standby was when it was met, until that was looked at. */
  #held: Sequence | null = null;
  /** The standby was met without the begin of the scan under way: it may be another one, that has nothing of it. */
  #isUnknownThere = false;
  #acknowledged: Sequence = 0;
  #applied: Sequence = 0;
  /** Steps that change documents or scanner run one after another. */
  readonly #steps = new Turns();
  /** Scanners that were stopped, and may still be reading. */
  #stopping: Promise<void> = Promise.resolve();
  /** A resync waits for its turn, or for room to begin. */
  #due = false;

  constructor(world: GroupScansWorld) {
    this.#world = world;
    this.#documents = new ScanDocuments(world.disk, world.paths, world.log);
  }

  /** True until the standby has everything: before that nothing there can be opened. */
  get firstSync(): boolean {
    if (this.#documents.scan?.purpose === "first-sync") return true;
    // What a resync brings is told by the overflow; without one nobody knows what that would be (OV6).
    return this.#lack !== null && !(this.#lack === "resync" && this.#note !== null);
  }

  get #note(): OngoingOverflow | null {
    return this.#ground?.overflow.note ?? null;
  }

  /** The standby's before-images being read behind the newest verify; null: they are not. */
  get historyCheck(): HistoryFollowStatus | null {
    return this.#follow?.status ?? null;
  }

  /** What was repaired differs again, until an operator orders another repair; null: nothing does. */
  get mismatch(): Reason | null {
    const { recurred } = this.#documents.repairs;
    if (recurred.length === 0) return null;
    const message = `blocks of the standby differ again after they were repaired; look at its disk, then: splitsite verify ${this.#world.group} --repair`;
    return { code: "MISMATCH_RECURRED", message };
  }

  get results(): readonly VerifyResult[] {
    return this.#documents.results;
  }

  /** Null: none is under way. */
  status(): ScanStatus | null {
    return this.#scanner?.status() ?? null;
  }

  /** An engine is open: what was under way goes on. */
  opened(ground: ScanGround): void {
    this.#ground = ground;
    this.#alone("open", async () => {
      await this.#documents.read();
      // An end that could not be put on record is come to once more, with this engine.
      this.#ending = null;
      await this.#forgetOtherTerm(ground.token.epoch);
      // Its end was applied, and then nothing was left to do but to forget it.
      if (this.#documents.scan?.purpose === "resync" && ground.overflow.note === null)
        await this.#documents.forget();
      if (this.#documents.scan?.purpose === "volume-sync" && !hasPartial(ground))
        await this.#documents.forget();
      // A volume with data has joined: what it held is brought before anything else is compared.
      if (!(hasPartial(ground) && this.#isOfComparing)) this.#scan();
      this.#followHistory();
    });
  }

  /** The engine is about to be closed. Settles when nothing reads it any more and no request waits for a scan. */
  async closing(): Promise<void> {
    this.#ground = null;
    const scanner = this.#scanner;
    const follow = this.#follow;
    this.#scanner = null;
    this.#follow = null;
    await Promise.all([scanner?.stop(), this.#stopping, follow?.stop()]);
  }

  /** The standby was met, and says what it lacks, and up to where it holds the order. */
  attached(lack: StandbyLack | null, held: Sequence): void {
    this.#lack = lack;
    this.#held = held;
    this.#scanner?.kick();
    this.#bringLacking();
  }

  /**
   * Frames are about to be dropped that the standby does not have, and with them maybe what a scan put into the order: it
   * must not believe another finding (OV4). It stops at once.
   */
  dropping(): void {
    const scanner = this.#scanner;
    if (scanner === null) return;
    this.#scanner = null;
    const stopped = scanner.stop();
    this.#stopping = Promise.all([this.#stopping, stopped]).then(() => {});
    // What comes next waits for it, so that two scans never read side by side.
    void this.#steps.take(() => stopped);
  }

  /** A volume is not whole at the standby. */
  volumesLack(): void {
    this.#bringLacking();
  }

  /** They are gone, or the standby is being told of it. */
  dropped(): void {
    this.#bringLacking();
  }

  standbyAdvanced(acknowledged: Sequence, applied: Sequence): void {
    this.#acknowledged = acknowledged;
    this.#applied = applied;
    this.#scanner?.standbyAdvanced(acknowledged, applied);
    this.#retryDue();
  }

  /** Room may have come: the line is up, requests are no longer held. */
  kick(): void {
    this.#scanner?.kick();
    this.#retryDue();
  }

  /** What was dropped has to be brought, and there is room now, or the standby turned out to have it. */
  #retryDue(): void {
    const ground = this.#ground;
    const note = this.#note;
    if (!this.#due || ground === null || note === null) return;
    if (this.#hasAllOf(note) || this.#mayBegin(ground)) this.#bringLacking();
  }

  #bringLacking(): void {
    this.#due = false;
    this.#alone("what the standby lacks", () => this.#bring());
  }

  /** OperationalErrors `SCAN_UNDER_WAY`, `NO_STANDBY`, `NOT_SERVING`. Settles when it is under way, durably. */
  verify(): Promise<void> {
    return this.#steps.take(async () => {
      const { token } = this.#requireIdle();
      await this.#begin(newScan("verify", "compare", token.epoch, this.#world.clock.wallMs(), null));
    });
  }

  /** Sends what the newest verify found to differ. Also `NOTHING_TO_REPAIR`. */
  repair(): Promise<void> {
    return this.#steps.take(async () => {
      const ground = this.#requireIdle();
      const found = this.#documents.results[0]?.differences ?? [];
      const listed: BlockRange[] = [];
      for (const { volume, offset, length } of found) {
        const number = ground.volumes.find(({ name }) => name === volume)?.number;
        if (number !== undefined) listed.push({ volume: number, start: offset, end: offset + length });
      }
      if (listed.length === 0) {
        throw refusal(
          "NOTHING_TO_REPAIR",
          `the newest verify of group ${this.#world.group} found no difference`,
          "Verify first: a repair sends exactly what the newest verify found.",
        );
      }
      await this.#repair(ground, listed, "operator");
    });
  }

  /** The order is remembered before anything is sent, so that a policy's repairs are counted whatever becomes of them. */
  async #repair(ground: ScanGround, listed: readonly BlockRange[], by: "operator" | "policy"): Promise<void> {
    await this.#documents.note({ repairs: afterOrder(this.#documents.repairs, by) });
    await this.#begin(
      newScan("repair", "listed", ground.token.epoch, this.#world.clock.wallMs(), null, listed),
    );
  }

  /** What the policy makes of a verify's differences, and of a repair that has ended. Does nothing where it may not. */
  async #mend(document: ScanDocument): Promise<void> {
    const ground = this.#ground;
    const { group, clock, log } = this.#world;
    if (ground === null || this.#documents.scan !== null || this.#lack !== null || hasPartial(ground)) return;
    if (document.purpose === "repair") {
      // A repair by policy is not over before a verify has found nothing there.
      if (this.#documents.repairs.awaitsProof)
        await this.#begin(newScan("verify", "compare", ground.token.epoch, clock.wallMs(), null));
      return;
    }
    const { begin, differences } = document;
    if (this.#world.onMismatch !== "repair" || differences.length === 0 || begin === null) return;
    const barred = policyIsBarred(this.#documents.repairs);
    const left = (code: string, message: string) => log.warn(code, message, { group, verify: begin });
    if (barred !== null) return left(barred, "what differs at the standby is only reported from here on");
    const proven = await provenRanges(differences, {
      read: (volume, offset, length) => ground.engine.read(volume, offset, length),
      rest: () => new Promise((resolve) => clock.after(rereadMs, resolve)),
      unreadable: (range, error) => {
        // What is being closed cannot be read either, and says nothing of the disk.
        if (this.#ground !== ground) return;
        log.error(
          "OWNER_UNREADABLE",
          "the owner's own data cannot be read where the standby differs",
          error,
          {
            ...range,
          },
        );
      },
    });
    if (this.#ground !== ground) return;
    if (proven.length === 0)
      return left("REPAIR_NOT_PROVEN", "nothing proves that the owner is right: only reported");
    const { link, superseded } = this.#world;
    const ask = { lineage: ground.lineage, token: ground.token, after: begin };
    const refused = await askPin(link, group, ask, superseded);
    if (refused !== null)
      return left("REPAIR_NOT_PINNED", `not repaired: ${refused.message} (${refused.code})`);
    log.warn("MISMATCH_REPAIRED", "blocks of the standby that differ are sent again, by policy", {
      verify: begin,
      ranges: proven.length,
    });
    await this.#repair(ground, proven, "policy");
  }

  /** OperationalError `NO_SCAN`, and those of the document, when it cannot be made durable. */
  async pause(paused: boolean): Promise<void> {
    await this.#steps.take(async () => {
      await this.#requireScanner().pause(paused);
    });
  }

  /** OperationalErrors `NO_SCAN`, and `SCAN_NEEDED` when the standby cannot be opened without it. */
  async giveUp(): Promise<void> {
    await this.#steps.take(async () => {
      const scanner = this.#requireScanner();
      const { purpose } = scanner.document;
      if (purpose === "first-sync" || purpose === "resync" || purpose === "volume-sync") {
        throw refusal(
          "SCAN_NEEDED",
          `without this scan the standby of group ${this.#world.group} cannot be opened, or not all of it`,
          "Pause it instead: it goes on where it stopped.",
        );
      }
      scanner.giveUp();
    });
  }

  /** Settles when what was begun so far is done. */
  async idle(): Promise<void> {
    await this.#steps.settled();
  }

  #requireScanner(): Scanner {
    if (this.#scanner !== null) return this.#scanner;
    throw refusal("NO_SCAN", `no scan of group ${this.#world.group} is under way`, "See: scan status.");
  }

  #requireIdle(): ScanGround {
    const { group } = this.#world;
    const ground = this.#ground;
    if (ground === null) throw refusal("NOT_SERVING", `group ${group} is not served here`, "See: status.");
    if (!ground.hasStandby)
      throw refusal("NO_STANDBY", `group ${group} has no standby to compare with`, "See: status.");
    const isIdle = this.#documents.scan === null && this.#lack === null && this.#note === null;
    if (isIdle && !hasPartial(ground)) return ground;
    const bringing = this.firstSync ? "first-sync" : isIdle ? "volume-sync" : "resync";
    const purpose = this.#documents.scan?.purpose ?? bringing;
    throw refusal(
      "SCAN_UNDER_WAY",
      `a scan of group ${group} is under way: ${purpose}`,
      "One at a time; see: scan status.",
    );
  }

  /** The first sync or the resync that the standby needs, unless it is under way. */
  async #bring(): Promise<void> {
    const ground = this.#ground;
    if (ground === null || !ground.hasStandby) return;
    let note = ground.overflow.note;
    if (note !== null && this.#hasAllOf(note) && (await ground.overflow.clear(note.through))) note = null;
    const purpose = this.#purposeNeeded(note);
    if (purpose === null) {
      this.#due = note !== null;
      if (note === null) await this.#bringVolumes(ground);
      return;
    }
    // A standby that lacks dropped records may hold anything where they were, also zeroes that nobody sends.
    const walk = this.#lack === "empty" && note === null ? "allocated" : "compare";
    const present = this.#documents.scan;
    if (this.#held !== null && this.#held < (present?.begin ?? 0)) this.#isUnknownThere = true;
    this.#held = null;
    const isPresent =
      present?.purpose === purpose &&
      present.walk === walk &&
      !this.#isUnknownThere &&
      !this.#isOvertaken(present);
    if (isPresent && this.#scanner !== null) return;
    // Begun while the journal is short of room its begin would be dropped with the rest.
    if (note !== null && !this.#mayBegin(ground)) {
      this.#due = true;
      return;
    }
    if (isPresent) {
      this.#scan();
      return;
    }
    // Whatever else was under way means little beside it. A later begin takes the place of an earlier one.
    const scanner = this.#scanner;
    this.#scanner = null;
    await scanner?.stop();
    const { clock } = this.#world;
    const paused = present !== null && present.purpose === purpose && present.paused;
    const begun = newScan(purpose, walk, ground.token.epoch, clock.wallMs(), note?.through ?? null);
    await this.#begin({ ...begun, paused });
  }

  /** What volumes held that were added with data, unless that is under way; else whatever was, which lost nothing. */
  async #bringVolumes(ground: ScanGround): Promise<void> {
    if (hasPartial(ground) && this.#documents.scan?.purpose !== "volume-sync") {
      const scanner = this.#scanner;
      this.#scanner = null;
      await scanner?.stop();
      const { clock } = this.#world;
      await this.#begin(newScan("volume-sync", "compare", ground.token.epoch, clock.wallMs(), null));
      return;
    }
    this.#scan();
  }

  /** A scan that changes nothing the standby needs: it gives way. */
  get #isOfComparing(): boolean {
    const purpose = this.#documents.scan?.purpose;
    return purpose === "verify" || purpose === "repair";
  }

  /** Null: none, or not before the standby is told of the gap. */
  #purposeNeeded(note: OngoingOverflow | null): "first-sync" | "resync" | null {
    const lack = this.#lack;
    if (lack === "empty" || lack === "unknown") return "first-sync";
    if (note !== null) return lack === "resync" || note.declared ? "resync" : null;
    // Nobody knows any more what it lacks (OV6).
    return lack === "resync" ? "first-sync" : null;
  }

  /** It acknowledged everything that was dropped, and was never told of a gap instead. */
  #hasAllOf(note: OngoingOverflow): boolean {
    return !note.declared && this.#acknowledged >= note.through;
  }

  /** Frames were dropped behind its back: what it put into the order may be among them (OV4). */
  #isOvertaken({ dropped }: ScanDocument): boolean {
    const note = this.#note;
    return note !== null && note.through !== dropped;
  }

  /** Durable before its begin can be in the order: a begin that nobody remembers would never be ended. */
  async #begin(document: ScanDocument): Promise<void> {
    this.#isUnknownThere = false;
    await this.#documents.save(document);
    // The document of one that was over has gone: nothing follows from its end any more.
    this.#ending = null;
    this.#scan();
  }

  #scan(): void {
    const { group, clock, log, entrance } = this.#world;
    const ground = this.#ground;
    const document = this.#documents.scan;
    if (ground === null || !ground.hasStandby || document === null || this.#scanner !== null) return;
    // Gone on with, it would end twice: its second end would be taken for that of whatever began in between.
    if (this.#ending !== null || this.#isOvertaken(document)) return;
    const scanner: Scanner = new Scanner({
      group,
      document,
      volumes: document.purpose === "volume-sync" ? walkedBy(ground, document) : ground.volumes,
      only: document.purpose === "resync" ? (volume) => ground.overflow.map.chunks(volume) : null,
      engine: ground.engine,
      entrance,
      clock,
      log,
      rateBytesPerSecond: this.#world.bytesPerSecond,
      room: () => this.#room(ground),
      ask: (after) => this.#ask(ground, after),
      save: (next) => this.#documents.save(next),
      over: (last, how, end) => {
        if (this.#scanner !== scanner) return;
        this.#scanner = null;
        this.#ending = scanner;
        this.#alone("end", async () => {
          // Another one has taken its place, or the next engine comes to its end once more.
          if (this.#ending !== scanner) return;
          await this.#ended(ground, last, how, end);
          this.#ending = null;
        });
      },
    });
    this.#scanner = scanner;
    scanner.start(this.#acknowledged, this.#applied);
  }

  #mayBegin(ground: ScanGround): boolean {
    return this.#world.room() === null && !isHalfFull(ground);
  }

  #room(ground: ScanGround): Reason | null {
    const room = this.#world.room();
    if (room !== null) return room;
    // The other half is the clients': a scan never makes them wait for room.
    if (!isHalfFull(ground)) return null;
    // Without a client's write nobody else would trim.
    ground.engine.makeRoom();
    return { code: "JOURNAL_HALF_FULL", message: "the journal is more than half full" };
  }

  async #ask(ground: ScanGround, after: Sequence): Promise<ScanAnswer | null> {
    const { link, group, room, superseded } = this.#world;
    if (link === null || room()?.code === "NOT_ATTACHED") return null;
    const ask = { lineage: ground.lineage, token: ground.token, after };
    return askFindings(link, group, ask, superseded);
  }

  /** The result first: a crash in between ends the scan once more, and tells the same result once. */
  async #ended(
    ground: ScanGround,
    document: ScanDocument,
    how: "done" | "given-up",
    end: Sequence | null,
  ): Promise<void> {
    const { log } = this.#world;
    const { purpose, dropped } = document;
    const brings = purpose === "first-sync" || purpose === "resync";
    // Its engine went away first: the next one ends it once more.
    if (brings && this.#ground !== ground) return;
    if (brings && ground.overflow.note !== null) {
      // The standby has applied the end of what began behind the last drop (OV3), unless there was another one since.
      if (dropped === null || !(await ground.overflow.clear(dropped))) {
        this.#bringLacking();
        return;
      }
    }
    if (purpose === "volume-sync") {
      // As above: the next engine ends it once more, or this one, when there is nothing more to be brought before.
      if (this.#ground !== ground || ground.overflow.note !== null) return;
      const numbers = partialOf(ground, document).map(({ number }) => number);
      if (end !== null) await this.#world.brought(numbers, end);
      log.info("VOLUME_SYNC_OVER", "the standby has what was added with data", { numbers, end });
    }
    if (purpose === "verify") {
      const results = withResult(this.#documents.results, resultOf(ground.volumes, document, how, end));
      const before = this.#documents.repairs;
      const repairs = how === "done" ? afterVerify(before, document.differences) : before;
      if (repairs.recurred.length > before.recurred.length)
        log.error(
          "MISMATCH_RECURRED",
          "blocks of the standby differ again after they were repaired",
          undefined,
          { recurred: repairs.recurred },
        );
      await this.#documents.note({ results, repairs });
      this.#followHistory();
    }
    // Before the repair is forgotten: a crash in between ends it once more. A difference there is none of chance any more.
    if (purpose === "repair" && how === "done")
      await this.#documents.note({ repairs: afterRepair(this.#documents.repairs, document.listed) });
    await this.#documents.forget();
    if (how === "done") this.#alone("repair", () => this.#mend(document));
    if (brings) this.#lack = null;
    if (purpose !== "verify" && hasPartial(ground)) this.#bringLacking();
  }

  /** What the newest verify left to be known of the standby's before-images is asked for, until it is. */
  #followHistory(): void {
    const ground = this.#ground;
    const [newest] = this.#documents.results;
    if (ground === null || !ground.hasStandby || newest?.history.state !== "pending") return;
    if (this.#follow?.verify === newest.begin) return;
    // The one before is for a result that nobody waits for any more.
    void this.#follow?.stop();
    const { clock, log } = this.#world;
    const follow: HistoryFollow = new HistoryFollow(newest.begin, {
      volumes: ground.volumes,
      clock,
      log,
      ask: (verify) => this.#askHistory(ground, verify),
      ended: (verify, history) => {
        if (this.#follow === follow) this.#follow = null;
        this.#alone("history", () => this.#historyKnown(verify, history));
      },
    });
    this.#follow = follow;
  }

  async #askHistory(ground: ScanGround, after: Sequence): Promise<HistoryCheckAnswer | "absent" | null> {
    const { link, group, room, superseded } = this.#world;
    if (link === null || room()?.code === "NOT_ATTACHED") return null;
    const digestAt = this.#world.digestsPoints === true ? this.#cleanEndOf(after) : null;
    const ask = {
      ...{ lineage: ground.lineage, token: ground.token, after },
      ...(digestAt === null ? {} : { digestAt }),
    };
    return askHistory(link, group, ask, superseded);
  }

  /** Where the verify named so ended without a difference; null: it did not. */
  #cleanEndOf(verify: Sequence): Sequence | null {
    const result = this.#documents.results.find(({ begin }) => begin === verify);
    if (result === undefined || result.differingBlocks + result.unreadableBlocks > 0) return null;
    return result.end;
  }

  async #historyKnown(verify: Sequence, history: VerifyResult["history"]): Promise<void> {
    await this.#documents.note({
      results: this.#documents.results.map((result) =>
        result.begin === verify ? { ...result, history } : result,
      ),
    });
  }

  /** The group was given away and came back: what the earlier term had begun stands in no journal of this one. */
  async #forgetOtherTerm(epoch: number): Promise<void> {
    const document = this.#documents.scan;
    if (document === null || document.epoch === epoch) return;
    this.#world.log.warn("SCAN_FORGOTTEN", `the scan for ${document.purpose} was begun in an earlier epoch`, {
      epoch: document.epoch,
    });
    await this.#documents.forget();
  }

  /** A step nobody waits for, and which may be done twice: what it could not do is told, and tried again. */
  #alone(what: string, run: () => Promise<void>): void {
    const { clock, log } = this.#world;
    void this.#steps.take(() =>
      run().catch((error: unknown) => {
        log.error("SCAN_STEP_FAILED", `not done for a scan: ${what}`, error);
        clock.after(stepAgainMs, () => {
          if (this.#ground !== null) this.#alone(what, run);
        });
      }),
    );
  }
}

function hasPartial({ hasStandby, volumes }: ScanGround): boolean {
  return hasStandby && volumes.some(({ wholeFrom }) => wholeFrom === null);
}

/**
 * What a scan of purpose `volume-sync` walks. Its place is a count of these, so none before it may go: also what has grown since,
 * and will be brought anew, keeps its turn.
 */
function walkedBy(ground: ScanGround, document: ScanDocument): readonly TableVolume[] {
  const last = partialOf(ground, document).at(-1)?.number ?? -1;
  return ground.volumes.filter(({ number, wholeFrom }) => wholeFrom === null && number <= last);
}

/** What its end makes whole: what joined before it began, and has not grown since. */
function partialOf({ volumes }: ScanGround, { begin }: ScanDocument): readonly TableVolume[] {
  return volumes.filter(({ wholeFrom, changedAt }) => {
    return wholeFrom === null && changedAt < (begin ?? Number.POSITIVE_INFINITY);
  });
}

function isHalfFull({ engine, journalBytesMax }: ScanGround): boolean {
  return engine.log.bytes * 2 > journalBytesMax;
}

function refusal(code: string, message: string, hint: string): OperationalError {
  return new OperationalError({ code, message, reaction: "refuse", hint });
}
