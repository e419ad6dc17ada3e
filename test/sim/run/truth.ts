/**
 * Holds the model against what the product shows: takes every answer, batch and status of a run, and judges each with
 * the books of clients and standby. It is the only place where both are in one hand; it never influences the run.
 */
import type { Past } from "../../../image/past.ts";
import type { StandbyStatus } from "../../../protocol/status.ts";
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import type { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { SeededRandom } from "../../support/seeded.ts";
import type { RequestKind, SenderToken } from "../link.ts";
import { Believed } from "../model/believed.ts";
import { requireWithin } from "../model/content.ts";
import type { HeldRange, Op, OpRequest } from "../model/history.ts";
import { History } from "../model/history.ts";
import type { HeardClaim, StatedLoss } from "../model/honesty.ts";
import {
  heardNothing,
  honestyMs,
  judgeHeartbeat,
  judgeLossNotice,
  judgeOwnerClaim,
  judgeStandbyClaim,
  judgeStatedLoss,
} from "../model/honesty.ts";
import type { Journalled } from "../model/journalled.ts";
import { GroupLife } from "../model/life.ts";
import type { LossKind } from "../model/owner-book.ts";
import { OwnerBook } from "../model/owner-book.ts";
import { Received } from "../model/received.ts";
import { Rot } from "../model/rot.ts";
import { StandbyBook } from "../model/standby-book.ts";
import { require } from "../model/violation.ts";
import { Volumes } from "../model/volumes.ts";
import type { WallOffset } from "../world/clock.ts";
import { wallMsOf } from "../world/clock.ts";
import type { Life } from "../world/life.ts";
import type { Scheduler } from "../world/scheduler.ts";
import { judgeDirty, judgeFull } from "./overflow-check.ts";
import { checkPast } from "./past-check.ts";
import type { HeldImages } from "./scan-plan.ts";
import type { AgentRole, SimSite, SiteName } from "./sites.ts";
import type { ImagesQuestion } from "./standby-images.ts";
import { compareImages, compareImagesAfterPowerLoss, compareImagesInPart } from "./standby-images.ts";
import { judgeOwnerTable, judgeServedTable, judgeStandbyTable } from "./volume-check.ts";

/** The standby's images are compared in full at most this often, ms of virtual time. */
const compareIntervalMs = 4_000;

/** An owner that shows itself fenced this often, a second apart, on a sound disk has written it down. */
const fencedSightsDurable = 3;

export interface GroupTruth {
  readonly settings: GroupSettings;
  readonly home: SiteName;
  readonly standbySite: SiteName;
  readonly books: Map<SiteName, OwnerBook>;
  readonly volumes: Volumes;
  readonly life: GroupLife;
  standby: StandbyBook;
  /** When the standby last told its owner that it lives; by this incarnation. */
  heardAtMs: number | null;
  /** Since when the owner has said without a break that it is protected. */
  protectedSinceMs: number | undefined;
  /** The same of the standby. */
  standbyProtectedSinceMs: number | undefined;
  /** What the owner said it had answered, and when the standby first heard it. */
  heardOf: { readonly answered: number; readonly atMs: number }[];
  comparedAtMs: number;
  comparedAt: number;
  /** The most that heartbeats told which the standby has heard: this incarnation of it, and all of them. */
  heardHere: HeardClaim;
  heardEver: HeardClaim;
  /** Wall clock of the standby's machine at the last heartbeat, and how that clock was set then; of this incarnation. */
  failoverOrdered: boolean;
  heardWall: { readonly atMs: number; readonly offsetMs: number } | undefined;
  /** How often in a row the owner at home has shown itself fenced, and whether that must have become durable. */
  fencedSights: number;
  fencedForGood: boolean;
  /** What was changed in the standby's images at rest. */
  readonly rot: Rot;
  /** What the standby has handed to its intake. */
  received: Received;
  /** What a standby held that has lost everything, until it is met made anew. */
  lost: Believed | undefined;
  /** The same as long as its owner cannot know: this is what it goes by. */
  believed: Believed | undefined;
  /** Where the owner's journal begins, and the chunks that its notes call dirty, by the note: as it hands them to its store. */
  head: number;
  readonly dirty: Map<number, readonly string[]>;
  /** Since when writes wait because the journal is full. */
  fullSinceMs: number | undefined;
  /** Its images were carried there. */
  carried: boolean;
  /** Results of verifies that were judged. */
  readonly judged: Set<string>;
}

export class Truth {
  readonly groups = new Map<string, GroupTruth>();
  readonly counts = {
    compares: 0,
    reads: 0,
    returns: 0,
    adoptions: 0,
    points: 0,
    verified: 0,
    found: 0,
    takenBack: 0,
    changes: 0,
    leftOut: 0,
  };
  /** The largest errors of owners' claims that are allowed: a lag may be stated as too much, a state be late. */
  readonly worst = { lagTooMuch: 0, protectedTooLongMs: 0 };
  readonly #seed: number;
  readonly #scheduler: Scheduler;
  /** Incarnations of an old owner that were told of a newer token, with the moment. */
  readonly #told = new Map<Life, Map<string, number>>();
  readonly #agents = new Map<SiteName, AgentRole>();
  /** Called when a gateway has acknowledged a batch, before anybody is told. */
  acknowledgedBy: ((site: SiteName) => void) | undefined;
  #number = 0;
  readonly #looked = new WeakSet<Past>();
  readonly #draws: SeededRandom;

  constructor(seed: number, scheduler: Scheduler, settings: readonly GroupSettings[]) {
    this.#seed = seed;
    this.#draws = new SeededRandom(seed, 9);
    this.#scheduler = scheduler;
    for (const group of settings) {
      const home = group.home as SiteName;
      const standbySite = group.standby as SiteName;
      const volumes = new Volumes(group.volumes, [home, standbySite]);
      const sizes = group.volumes.map((volume) => volume.sizeBytes);
      const history = new History(sizes, [], volumes.joining);
      this.groups.set(group.name, {
        settings: group,
        home,
        standbySite,
        volumes,
        life: new GroupLife(group.name),
        books: new Map([[home, new OwnerBook(`${group.name} at ${home}`, history, group.durability)]]),
        standby: new StandbyBook(`${group.name}'s standby at ${standbySite}`),
        heardAtMs: null,
        protectedSinceMs: undefined,
        standbyProtectedSinceMs: undefined,
        heardOf: [],
        comparedAtMs: 0,
        comparedAt: 0,
        heardHere: heardNothing,
        heardEver: heardNothing,
        failoverOrdered: false,
        heardWall: undefined,
        fencedSights: 0,
        fencedForGood: false,
        rot: new Rot(),
        received: new Received(),
        lost: undefined,
        believed: undefined,
        head: 0,
        dirty: new Map(),
        fullSinceMs: undefined,
        carried: false,
        judged: new Set(),
      });
    }
  }

  group(name: string): GroupTruth {
    return this.groups.get(name)!;
  }

  homeBook(group: string): OwnerBook {
    const truth = this.group(group);
    return truth.books.get(truth.home)!;
  }

  volumes(group: string): Volumes {
    return this.group(group).volumes;
  }

  /** What the owner's image of a volume holds that will join. Before anything is started. */
  joins(group: string, ranges: readonly HeldRange[]): void {
    this.volumes(group).joining.push(...ranges);
  }

  nextNumber(): number {
    this.#number += 1;
    return this.#number;
  }

  /** What the disks of the owner held before the group was made, and those of the standby. Before anything is started. */
  heldBefore(group: string, { owner, standby }: HeldImages): void {
    const book = this.homeBook(group);
    const sizes = book.history.volumes().map(({ sizeBytes }) => sizeBytes);
    book.history = new History(sizes, owner, this.volumes(group).joining);
    this.group(group).carried = standby.length > 0;
  }

  /** The images of a standby that has applied `position` are the source at it. */
  isWhole(group: string, position: number): boolean {
    const truth = this.group(group);
    return this.#isWholeSince(truth, position, this.homeBook(group).history.forgottenAt);
  }

  /** With some position from `least` on received, `point` is what a failover opens. */
  #isOpened(group: string, point: number, least: number): boolean {
    const { received } = this.group(group);
    const { history } = this.homeBook(group);
    for (let position = least; position <= Math.max(least, received.last); position += 1)
      if (received.openPoint(history, position, history.forgottenAt) === point) return true;
    return false;
  }

  /** A standby hands a frame to its intake. */
  received(site: SiteName, group: string, first: number, records: readonly Journalled[]): void {
    const truth = this.group(group);
    if (site === truth.standbySite) truth.received.took(first, records);
  }

  /** The owner at home moves the head of its journal, or finds it there when it opens. */
  headMoved(site: SiteName, group: string, head: number): void {
    const truth = this.group(group);
    if (site === truth.home) truth.head = head;
  }

  /** The same of a note; `chunks` undefined: it is gone, or none of dirty chunks. */
  noted(site: SiteName, group: string, number: number, chunks: readonly string[] | undefined): void {
    const { home, dirty } = this.group(group);
    if (site !== home) return;
    if (chunks === undefined) dirty.delete(number);
    else dirty.set(number, chunks);
  }

  /** The notes of an owner that opens its journal are read anew. */
  notesForgotten(site: SiteName, group: string): void {
    const { home, dirty } = this.group(group);
    if (site === home) dirty.clear();
  }

  agentStarted(site: SiteName, role: AgentRole): void {
    this.#agents.set(site, role);
  }

  /** `diskIsWell`: nothing of its machine's disk was slow or failed in this run. */
  agentGone(site: SiteName, loss: LossKind, diskIsWell: boolean): void {
    this.#agents.delete(site);
    for (const truth of this.groups.values()) {
      truth.books.get(site)?.lost(loss);
      if (truth.home !== site) continue;
      truth.protectedSinceMs = undefined;
      // The next one knows of a standby what its journal says of it, until it is told more.
      truth.believed = truth.lost?.afterStart();
      if (truth.fencedSights >= fencedSightsDurable && diskIsWell) truth.fencedForGood = true;
      truth.fencedSights = 0;
    }
  }

  gatewayGone(site: SiteName): void {
    for (const truth of this.groups.values()) {
      if (truth.standbySite !== site) continue;
      truth.heardAtMs = null;
      truth.heardOf = [];
      truth.standbyProtectedSinceMs = undefined;
      truth.heardHere = heardNothing;
      truth.heardWall = undefined;
    }
  }

  /** The owner's word of what it has answered goes out: a failover will state the loss by it. */
  heartbeatLeft(from: SiteName, group: string, body: Uint8Array): void {
    const owned = this.#agents.get(from)?.groups.get(group);
    if (owned !== undefined) this.#noticeReturn(from, group, owned);
    const book = this.group(group).books.get(from);
    if (book !== undefined && !book.awaitsReturn) judgeHeartbeat(book, claimOf(body));
  }

  /** An owner hands a frame to its journal. */
  journalled(site: SiteName, group: string, first: number, records: readonly Journalled[]): void {
    const owned = this.#agents.get(site)?.groups.get(group);
    if (owned !== undefined) this.#noticeReturn(site, group, owned);
    const { books, home, standbySite, volumes } = this.group(group);
    const book = books.get(site);
    require("I6", book !== undefined, () => `${site} journals for ${group}, which it has never owned`);
    for (const record of records) {
      if (record.kind !== "table") continue;
      const standby = site === home ? standbySite : undefined;
      volumes.judgeChange(book!.name, record, book!.history, first - 1, site, standby);
      this.counts.changes += 1;
    }
    book!.journalled(first, records, this.#scheduler.nowMs);
  }

  batchLeft(from: SiteName, group: string, last: number): void {
    const book = this.group(group).books.get(from);
    require("I6", book !== undefined, () => `${from} ships ${group}, which it has never owned`);
    this.group(group).life.judgeBatch(last);
    const owned = this.#agents.get(from)?.groups.get(group);
    if (owned !== undefined) this.#noticeReturn(from, group, owned);
    book!.shipped(last);
  }

  /** A gateway has decided on an answer. */
  answered(
    site: SiteName,
    group: string,
    what: RequestKind,
    sender: SenderToken | undefined,
    answer: unknown,
    body: Uint8Array,
    wall: WallOffset,
  ): void {
    const truth = this.group(group);
    if (site !== truth.standbySite || sender === undefined || what === "knowledge") return;
    const fields = answer as Record<string, unknown>;
    const { standby } = truth;
    if (["attached", "alive", "acknowledged"].includes(String((answer as Record<string, unknown>)["kind"])))
      truth.life.judgeEnded(site, "takes what it is sent");
    const { shippedMax } = this.homeBook(group);
    switch (fields["kind"]) {
      case "attached": {
        standby.accepted(sender);
        // Images are looked at before such an answer: nobody reads its positions, which are of before.
        if (isQuestion(body)) return;
        const durable = (fields["durable"] as { sequence: number }).sequence;
        standby.claimed(durable, fields["applied"] as number, shippedMax);
        truth.lost = undefined;
        return;
      }
      case "alive":
        truth.heardAtMs = this.#scheduler.nowMs;
        this.#heard(truth, claimOf(body), wall);
        standby.accepted(sender);
        standby.claimed(fields["durable"] as number, fields["applied"] as number, shippedMax);
        return;
      case "acknowledged":
        standby.accepted(sender);
        standby.claimed(fields["durable"] as number, fields["applied"] as number, shippedMax);
        this.acknowledgedBy?.(site);
        return;
      case "superseded":
        standby.superseded(sender, fields["token"] as SenderToken);
        return;
      case "conflict":
        require("I6", false, () => `${standby.name} sees two owners of one epoch: ${JSON.stringify(answer)}`);
        return;
      default:
        return;
    }
  }

  #heard(truth: GroupTruth, claim: HeardClaim, wall: WallOffset): void {
    const { answered } = claim;
    const { nowMs } = this.#scheduler;
    const newest = truth.heardOf.at(-1);
    if (newest === undefined || answered > newest.answered) truth.heardOf.push({ answered, atMs: nowMs });
    truth.heardEver = most(truth.heardEver, claim);
    truth.heardHere = most(truth.heardHere, claim);
    truth.heardWall = { atMs: Math.floor(wallMsOf(this.#scheduler, wall)), offsetMs: wall.offsetMs ?? 0 };
  }

  /** Everything that the standby had is gone, and it cannot know that: what it said before binds it no more. */
  standbyForgot(group: string): void {
    const truth = this.group(group);
    const { name, durableMax } = truth.standby;
    truth.standby = new StandbyBook(name);
    truth.standby.believedMax = durableMax;
    truth.heardEver = heardNothing;
    truth.comparedAt = 0;
    truth.rot.forget();
    // Where the disks held data, what was sent to others is not all that a standby made from nothing needs.
    const { history } = this.homeBook(group);
    truth.lost = new Believed(truth.received, durableMax, history.forgottenAt, this.#scheduler.nowMs);
    truth.believed = truth.lost;
    truth.received = new Received(history.heldData);
    history.forgotten(truth.carried || (history.heldData && history.held.length === 0));
  }

  /** The report of a failover, against what the heartbeats said that the standby has heard. */
  judgeLoss(group: string, loss: StatedLoss, sealed: number, wall: WallOffset): void {
    const { heardHere, heardEver, heardWall } = this.group(group);
    const book = this.homeBook(group);
    const clockKept = heardWall !== undefined && heardWall.offsetMs === (wall.offsetMs ?? 0);
    const wallMs = clockKept ? { heard: heardWall.atMs, now: wallMsOf(this.#scheduler, wall) } : undefined;
    const { history } = book;
    const sealedBytes = history.dataBytesThrough(sealed);
    const { standby, received } = this.group(group);
    // Taken back behind what it had received, it knows of that as well.
    const claimAt = (position: number): HeardClaim => ({
      answered: history.newestOp(position),
      dataBytes: history.dataBytesThrough(position),
    });
    const here = sealed < standby.durableMax ? most(heardHere, claimAt(standby.durableMax)) : heardHere;
    // What a scan put at the end of it counts as well: nobody tells it which of those are a client's.
    const end = { ...claimAt(received.last), answered: received.last };
    const ever = sealed < received.last ? most(heardEver, end) : heardEver;
    judgeStatedLoss(book, loss, sealed, sealedBytes, here, ever, wallMs, sealed < standby.durableMax);
  }

  /** An answer has reached an agent: that it is superseded, that nothing is known of the group, or who owns it. */
  told(site: SiteName, group: string, what: RequestKind, answer: unknown): void {
    const { kind, token } = answer as { kind?: string; token?: SenderToken | null };
    const agent = this.#agents.get(site);
    if (agent === undefined) return;
    const truth = this.group(group);
    // It knows as well when it meets what was made anew, perhaps for the process of it that was before.
    const isUnknown = kind === "unknown" && (what === "hello" || what === "heartbeat");
    const isMadeAnew = kind === "attached" && truth.lost === undefined;
    if (site === truth.home && (isUnknown || isMadeAnew)) truth.believed = undefined;
    const otherOwner = what === "knowledge" && site === truth.home && token != null && token.epoch > 1;
    if (kind !== "superseded" && !otherOwner) return;
    const told = this.#told.get(agent.life) ?? new Map<string, number>();
    this.#told.set(agent.life, told);
    if (!told.has(group)) told.set(group, this.#scheduler.nowMs);
  }

  /** The owner as it shows itself. */
  observeOwner(site: SiteName, group: string, owned: OwnedGroup, diskIsWell: boolean): void {
    const truth = this.group(group);
    this.#noticeReturn(site, group, owned);
    const book = truth.books.get(site);
    const status = owned.status();
    if (site === truth.home) {
      if (status.state === "protected") truth.protectedSinceMs ??= this.#scheduler.nowMs;
      else truth.protectedSinceMs = undefined;
    }
    if (site === truth.home) {
      truth.fencedSights = status.state === "fenced" ? truth.fencedSights + 1 : 0;
      require("I6", !truth.fencedForGood || status.io !== "serving", () =>
        `${group} at ${site} serves again, though it was fenced before it was started anew`);
    }
    require("I6", !truth.life.hasEnded(site) || status.io === "refused", () =>
      `${group} was retired at ${site}, and its io is ${status.io}`);
    if (site === truth.home && status.io !== "refused")
      truth.life.judgeShown(status.paused !== null, status.state);
    if (site === truth.home) judgeFull(truth, status, diskIsWell, this.#scheduler.nowMs);
    if (book === undefined || book.awaitsReturn) return;
    if (status.io !== "serving") return;
    book.stated(status.position.written);
    judgeLossNotice(book, owned.unflushedMayBeLost);
    judgeServedTable(truth, book.name, book.history, owned);
    if (site === truth.home) {
      const { state, io, lag } = status;
      const nowMs = this.#scheduler.nowMs;
      const shownMs = nowMs - (truth.protectedSinceMs ?? nowMs);
      const { believed } = truth;
      const { durableMax } = truth.standby;
      const error = judgeOwnerClaim(
        { state, io, lagWrites: lag.writes, unflushedMayBeLost: owned.unflushedMayBeLost },
        book,
        believed?.openPoint(book.history) ?? this.#openAt(truth, durableMax),
        nowMs,
        shownMs,
      );
      this.worst.lagTooMuch = Math.max(this.worst.lagTooMuch, error.lagTooMuch);
      this.worst.protectedTooLongMs = Math.max(this.worst.protectedTooLongMs, error.protectedTooLongMs);
      if (believed !== undefined) believed.judge(book.name, state, book.history, nowMs, shownMs);
      else
        require("I11", state !== "protected" || this.isWhole(group, durableMax), () =>
          `${book.name} says protected; the standby's first sync is not over`);
      this.#judgeVerifies(truth, book, owned);
      judgeDirty(truth, book);
      judgeOwnerTable(truth, book.history, status);
    } else {
      require("I11", status.state !== "protected", () => `${book.name} says protected without a standby`);
      require("I6", (status.epoch ?? 0) > 1, () => `${book.name} serves in epoch ${status.epoch}`);
    }
  }

  /** What a failover would open of `position`; `position` itself while a first sync is not over: nothing is proven of it. */
  #openAt({ settings, received }: GroupTruth, position: number): number {
    const { history } = this.homeBook(settings.name);
    const { lostAt, forgottenAt } = history;
    // To a standby that was made anew the scans of before prove nothing, though sent again they bring it everything.
    const isProven = received.openPoint(history, position, lostAt) !== undefined;
    return isProven ? (received.openPoint(history, position, forgottenAt) ?? position) : position;
  }

  #isWholeSince(truth: GroupTruth, position: number, since: number): boolean {
    return truth.received.isWhole(this.homeBook(truth.settings.name).history, position, since);
  }

  /** What verifies have found, each once. */
  #judgeVerifies(truth: GroupTruth, { name, history }: OwnerBook, owned: OwnedGroup): void {
    for (const result of owned.scans.results) {
      const { begin, end, startedAt, outcome, overwrittenChunks } = result;
      const key = `${begin} ${startedAt}`;
      if (truth.judged.has(key)) continue;
      truth.judged.add(key);
      this.counts.verified += 1;
      const differences = result.differences.map(({ volume, offset, length }) => ({
        volume: truth.volumes.names.indexOf(volume),
        offset,
        length,
      }));
      this.counts.found += truth.rot.judge(`verify ${begin}..${end} of ${name}`, history, {
        ...{ begin, end, differences, overwrittenChunks },
        done: outcome === "done",
      });
    }
  }

  /** First sight of a serving owner after its start: what it came back with is judged and then is the truth. */
  #noticeReturn(site: SiteName, group: string, owned: OwnedGroup): void {
    const truth = this.group(group);
    let book = truth.books.get(site);
    if (book !== undefined && !book.awaitsReturn) return;
    if (owned.servedVolumes.length === 0 || owned.fenced || owned.status().io !== "serving") return;
    const { written } = owned.status().position;
    if (book === undefined) {
      const old = this.homeBook(group);
      truth.standby.sealedAt(
        written,
        this.#isOpened(group, written, truth.standby.durableMax),
        old.shippedMax,
      );
      const taken = old.history.fork(written);
      const { volumes, received } = truth;
      const served = owned.servedVolumes;
      volumes.judgeHandedOver(`${group} at ${site}`, served, old.history, received, written);
      taken.handedOver(served.map(({ number, sizeBytes }) => ({ volume: number, sizeBytes })));
      if (served.length < old.history.volumes(written).length) this.counts.leftOut += 1;
      book = new OwnerBook(`${group} at ${site}`, taken, truth.settings.durability);
      truth.books.set(site, book);
      this.counts.adoptions += 1;
      if (written < truth.standby.durableMax) this.counts.takenBack += 1;
    } else {
      book.returned(written);
      truth.volumes.judgeServed(`${book.name} after its start`, owned.servedVolumes, book.history);
      this.counts.returns += 1;
    }
    const first = written;
    const { history, name } = book;
    const rot = this.#rotAt(site, group);
    for (const { volume, sizeBytes } of history.volumes()) {
      owned.read(volume, 0, sizeBytes).then(
        (data) => {
          if (this.#agents.get(site)?.groups.get(group) !== owned) return;
          this.#check(() => {
            this.counts.reads += 1;
            requireWithin({
              what: `${name} after its start`,
              invariant: "I1",
              history,
              volume,
              seed: this.#seed,
              offset: 0,
              bytes: data,
              first,
              last: history.last,
              rot,
            });
          });
        },
        // A read may fail for a fault of the disk; it may not lie.
        () => undefined,
      );
    }
  }

  /** What decayed at a site's images: only those of a standby, which it keeps when it takes over. */
  #rotAt(site: SiteName, group: string): Rot | undefined {
    const { standbySite, rot } = this.group(group);
    return site === standbySite && rot.count > 0 ? rot : undefined;
  }

  #check(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.#scheduler.fail(error);
    }
  }

  /** The standby as it shows itself, and its images when nothing is under way on them. */
  observeStandby(site: SiteName, group: string, status: StandbyStatus, machine: SimSite): void {
    const truth = this.group(group);
    if (site !== truth.standbySite) return;
    const nowMs = this.#scheduler.nowMs;
    const { applied, durable, received } = status.position;
    const silentMs = truth.heardAtMs === null ? null : nowMs - truth.heardAtMs;
    // It cannot know of writes it was not told of; that nobody tells it anything is judged by the silence.
    while (truth.heardOf.length > 0 && truth.heardOf[0]!.answered <= applied) truth.heardOf.shift();
    const missingMs = truth.heardOf.length === 0 ? 0 : nowMs - truth.heardOf[0]!.atMs;
    if (status.state === "protected") truth.standbyProtectedSinceMs ??= nowMs;
    else truth.standbyProtectedSinceMs = undefined;
    const shownMs = nowMs - (truth.standbyProtectedSinceMs ?? nowMs);
    judgeStandbyClaim(truth.standby.name, status.state, silentMs, missingMs, shownMs);
    const pausedMs = truth.life.stoodMs(nowMs);
    require("I11", status.state !== "protected" || Math.min(pausedMs, shownMs) <= honestyMs, () =>
      `${truth.standby.name} has said protected for ${Math.round(shownMs)} ms of a pause`);
    const { consistent } = status;
    require("I4", consistent === null || this.#isOpened(group, consistent.sequence, applied), () =>
      `${truth.standby.name} calls ${consistent?.sequence} consistent; with ${applied} applied that is not what it could open`);
    const { history } = this.homeBook(group);
    // To one that was made anew the scans of before prove nothing: it may call a point one, and need not.
    const openAt = (position: number) => truth.received.openPoint(history, position, history.lostAt);
    // With the end of a resync received, and not applied for a moment, it is that end which a failover would open.
    const open = openAt(applied) === openAt(received) ? openAt(applied) : undefined;
    judgeStandbyTable(truth, history, status);
    // Neither a gap nor a volume whose content is on its way takes from it what it could open.
    const isMoved = truth.received.gapCount > 0 || (applied > 0 && history.tableChanges().length > 0);
    const stands = status.state !== "stopped" && status.state !== "fenced" && isMoved;
    require("I4", consistent !== null || !stands || open === undefined || machine.diskTroubled, () =>
      `${truth.standby.name} has applied ${applied} and calls nothing consistent, ${status.state} ${status.reason?.code}; a failover could open ${open}`);
    if (applied === 0 || applied !== durable || durable !== received || status.state === "fenced") return;
    if (nowMs - truth.comparedAtMs < compareIntervalMs && truth.comparedAt !== 0) return;
    if (truth.comparedAt === applied) return;
    truth.comparedAtMs = nowMs;
    truth.comparedAt = applied;
    if (this.isWhole(group, applied)) this.compareStandby(group, applied, machine);
    // A failover may be taking them back.
    else if (status.state !== "stopped" && truth.received.gapCount > 0 && history.held.length === 0) {
      // A first sync that is not over lacks more than entries.
      this.counts.compares += 1;
      compareImagesInPart(this.#imagesOf(truth, machine), applied);
    }
  }

  /**
   * What a role keeps of the past, a few points of it, once after each start: crashes and cuts of power have hit the
   * capture before. The standby's points are of the history at home, an owner's of its own.
   */
  observePast(site: SiteName, group: string, past: Past | undefined): void {
    if (past === undefined || this.#looked.has(past)) return;
    const truth = this.group(group);
    const history = (truth.books.get(site) ?? this.homeBook(group)).history;
    this.#looked.add(past);
    checkPast({
      ...{ what: `${group} at ${site}`, past, history, seed: this.#seed, random: this.#draws },
      ...{ rot: this.#rotAt(site, group), mustHold: this.#mustHold(group) },
      how: "glance",
    }).then(
      (read) => {
        this.counts.points += read;
      },
      (error: unknown) => this.#scheduler.fail(error),
    );
  }

  /** Whether a point has to hold a volume: of what was taken over later on nothing is left out any more. */
  #mustHold(group: string): (volume: number, sequence: number) => boolean {
    const { received, standby } = this.group(group);
    const { history } = this.homeBook(group);
    return (volume, sequence) =>
      sequence > (standby.sealed ?? sequence) ||
      received.knownWholeFrom(history, volume, sequence) !== undefined;
  }

  /** The same in the end, all volumes of more points. */
  async requirePast(site: SiteName, group: string, past: Past, mayLack: boolean): Promise<void> {
    const { history } = this.group(group).books.get(site) ?? this.homeBook(group);
    const read = await checkPast({
      ...{ what: `${group} at ${site} in the end`, past, history, seed: this.#seed, random: this.#draws },
      ...{ rot: this.#rotAt(site, group), mustHold: this.#mustHold(group) },
      how: "whole",
      mayLack,
    });
    this.counts.points += read;
  }

  /** Power was lost at a standby: of what it had called applied, its images have lost nothing (I4). */
  standbyLostPower(machine: SimSite): void {
    for (const [group, truth] of this.groups) {
      const { standby, standbySite, failoverOrdered } = truth;
      if (standbySite !== machine.name || failoverOrdered || standby.appliedMax === 0) continue;
      if (this.isWhole(group, standby.appliedMax))
        compareImagesAfterPowerLoss(this.#imagesOf(truth, machine));
    }
  }

  /** Every byte of the standby's images against the history at `applied`; `repaired`: none of them may have decayed. */
  compareStandby(group: string, applied: number, machine: SimSite, repaired = false): void {
    this.counts.compares += 1;
    compareImages(this.#imagesOf(this.group(group), machine), applied, repaired);
  }

  #imagesOf(truth: GroupTruth, machine: SimSite): ImagesQuestion {
    return { truth, history: this.homeBook(truth.settings.name).history, machine, seed: this.#seed };
  }

  // What clients do.

  submit(site: SiteName, group: string, request: OpRequest): Op {
    return this.group(group).books.get(site)!.submit(request, this.#scheduler.nowMs);
  }

  /** A group that has stopped refuses all that is in flight, and comes back, if it does, on what its journal has. */
  refused(site: SiteName, group: string): void {
    if (this.#agents.get(site)?.groups.get(group)?.status().io !== "refused") return;
    const book = this.group(group).books.get(site);
    if (book !== undefined && !book.awaitsReturn) book.stopped();
  }

  /** True when a client may be served by `site`: its return was seen. */
  ready(site: SiteName, group: string): OwnerBook | undefined {
    const owned = this.#agents.get(site)?.groups.get(group);
    if (owned === undefined) return undefined;
    this.#noticeReturn(site, group, owned);
    const book = this.group(group).books.get(site);
    return book === undefined || book.awaitsReturn ? undefined : book;
  }

  /** An incarnation answers a client with success. */
  succeeded(site: SiteName, group: string, life: Life): void {
    this.group(group).life.judgeEnded(site, "answers a client");
    const toldAtMs = this.#told.get(life)?.get(group);
    require("I6", toldAtMs === undefined || toldAtMs === this.#scheduler.nowMs, () =>
      `${group} at ${site} answers a client at ${this.#scheduler.nowMs} although it was told at ${toldAtMs} that it is superseded`);
  }

  readBack(
    site: SiteName,
    group: string,
    volume: number,
    offset: number,
    bytes: Uint8Array,
    first: number,
  ): void {
    const book = this.group(group).books.get(site)!;
    this.counts.reads += 1;
    requireWithin({
      what: `read of ${book.name}`,
      invariant: "I1",
      history: book.history,
      volume,
      seed: this.#seed,
      offset,
      bytes,
      first,
      last: book.history.last,
      rot: this.#rotAt(site, group),
    });
  }
}

/** A greeting that only asks whether a change of the volume table could be followed. */
function isQuestion(body: Uint8Array): boolean {
  return "wanted" in (JSON.parse(Buffer.from(body).toString("utf8")) as object);
}

/** What a heartbeat says, read from its bytes as they went over the line. */
function claimOf(body: Uint8Array): HeardClaim {
  const fields = JSON.parse(Buffer.from(body).toString("utf8")) as {
    answered: number;
    dataBytesTotal: number;
  };
  return { answered: fields.answered, dataBytes: fields.dataBytesTotal };
}

function most(one: HeardClaim, other: HeardClaim): HeardClaim {
  return {
    answered: Math.max(one.answered, other.answered),
    dataBytes: Math.max(one.dataBytes, other.dataBytes),
  };
}
