/**
 * One group as this site's agent lives with it: begins, opens, serves, ships, reopens, is fenced, is retired. Holds the parts
 * that outlive an engine, and the phase; its life-cycle steps run one after another. Anything ambiguous stops this group with
 * a reason and touches no other. Must never answer a write after a newer token was seen (invariant I4).
 */
import type { Extent } from "../../block/device.ts";
import type { Past } from "../../image/past.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { CompressBatch } from "../../protocol/batch.ts";
import type { OrderNote, StandingOrder } from "../../protocol/group-life.ts";
import { standingOrder } from "../../protocol/group-life.ts";
import type { Sequence, Token, VolumeEntry, VolumeNumber } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import type { RetirePlan, RetireRequest } from "../../protocol/retirement.ts";
import type { OwnerStatus, Reason } from "../../protocol/status.ts";
import type { Timer } from "../../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import { Turns } from "../../runtime/turns.ts";
import { GroupScans } from "../scan/group-scans.ts";
import type { ShipListener } from "../ship/shipper.ts";
import type { HoldCode } from "../write-path/committer.ts";
import type { Engine } from "../write-path/engine.ts";
import type { BeginningWorld } from "./beginning.ts";
import { Beginning } from "./beginning.ts";
import { KeptState } from "./kept-state.ts";
import { leftBehind, leftInJournal } from "./left-behind.ts";
import { openEngine } from "./open-engine.ts";
import type { OrderFacts } from "./orders.ts";
import { pausable, requireNoHistory, resumption } from "./orders.ts";
import type { OwnerParts } from "./owner-facts.ts";
import { retireFacts, statusFacts } from "./owner-facts.ts";
import {
  changingTable,
  fencedReason,
  holdReason,
  noRoomForScan,
  stopMessages,
  waitingReason,
} from "./reasons.ts";
import { mayPass, Reopens } from "./reopen-rule.ts";
import { shutdownError, stoppedError } from "./request-refusal.ts";
import { Requests } from "./requests.ts";
import type { RetireGround } from "./retire.ts";
import { planRetire, retiredReason, retireOwner } from "./retire.ts";
import { Shipping } from "./shipping.ts";
import { StandbyView } from "./standby-view.ts";
import type { PeerAnswer } from "./start-decision.ts";
import type { AgentGroupState, RetiredOwner, StateVolume } from "./state.ts";
import type { Phase } from "./status.ts";
import { ownerStatus, Since } from "./status.ts";
import { VolumeChanges } from "./volume-changes.ts";
import { withPartial, withWhole } from "./volume-content.ts";
import { wantedVolumes } from "./volume-decision.ts";
import type { RecordSink } from "./volume-device.ts";

/** A group without state asks again this often, ms, until the other site answers or an operator creates it. */
const peerAskAgainMs = 2_000;
/** A journal or image that fails to open is tried again after this, ms: space or a device may come back. */
const reopenAgainMs = 1_000;

export interface OwnedGroupWorld extends BeginningWorld {
  readonly unappliedBytesMax: number;
  readonly compress: CompressBatch;
}

export class OwnedGroup implements RecordSink {
  readonly #world: OwnedGroupWorld;
  readonly #kept: KeptState;
  readonly #beginning: Beginning;
  readonly #requests: Requests;
  readonly #view: StandbyView;
  readonly #shipping: Shipping;
  readonly #scans: GroupScans;
  readonly #changes: VolumeChanges;
  readonly #since = new Since();
  readonly #reopens = new Reopens();
  readonly #gapEnds: Sequence[] = [];
  #phase: Phase = { kind: "starting" };
  #engine: Engine | null = null;
  #hold: Reason | null = null;
  #retry: Timer | null = null;
  /** Set once a newer token is seen; from then on no request is answered with success. */
  #fencedBy: Token | null = null;
  /** Life-cycle steps, one behind another; the error of one is its caller's. */
  readonly #steps = new Turns();

  constructor(world: OwnedGroupWorld) {
    this.#world = world;
    const { site, clock, random, settings, files, paths, log, link, compress } = world;
    this.#kept = new KeptState(files.disk, paths.state);
    this.#beginning = new Beginning(world, this.#kept);
    this.#view = new StandbyView(clock);
    const phase = (): Phase => this.#phase;
    const engine = (): Engine | null => this.#engine;
    const isSuperseded = (): boolean => this.#fencedBy !== null;
    this.#requests = new Requests(
      {
        get phase() {
          return phase();
        },
        get engine() {
          return engine();
        },
        get isSuperseded() {
          return isSuperseded();
        },
      },
      () => clock.wallMs(),
    );
    const { entrance } = this.#requests;
    this.#shipping = new Shipping({
      ...{ group: settings.name, link, compress, clock, random, log },
      listener: this.#shipListener(),
    });
    this.#scans = new GroupScans({
      group: settings.name,
      disk: files.disk,
      paths,
      bytesPerSecond: settings.scan.bytesPerSecond,
      onMismatch: settings.scan.onMismatch,
      digestsPoints: settings.scan.digestsPoints === true,
      ...{ clock, log, link, entrance },
      room: () => noRoomForScan(this.#kept.now?.paused ?? null, this.#shipping.status, this.#hold),
      superseded: (token) => this.#superseded(token),
      brought: (numbers, end) => this.#steps.take(() => this.#noteWhole(numbers, end)),
    });
    this.#changes = new VolumeChanges(
      {
        ...{ group: settings.name, files, entrance, clock, log },
        step: (run) => this.#steps.take(run),
        state: () => this.#kept.now,
        save: (state) => this.#kept.save(state),
        journal: () => (this.#phase.kind === "serving" ? (this.#engine?.log ?? null) : null),
        acknowledged: () => this.#view.acknowledged,
        overflowing: () => this.#view.note !== null,
        ask: (table) => this.#shipping.askForTable(table),
        reopen: () => this.#openOnTable(),
      },
      wantedVolumes(settings, site, paths),
    );
  }

  /** The configuration was read again. Only its volumes count here: everything else needs a restart. */
  reload(settings: GroupSettings): void {
    const { site, paths } = this.#world;
    this.#changes.order(wantedVolumes(settings, site, paths));
  }

  /** The group's scans: ordered, paused and asked for by an operator. */
  get scans(): Pick<
    GroupScans,
    "verify" | "repair" | "pause" | "giveUp" | "status" | "results" | "historyCheck"
  > {
    return this.#scans;
  }

  get scanBytesPerSecond(): number | null {
    return this.#world.settings.scan.bytesPerSecond;
  }

  get name(): string {
    return this.#world.settings.name;
  }

  /** Volumes that clients may open now; empty while the group is not served. */
  get servedVolumes(): readonly VolumeEntry[] {
    const { kind } = this.#phase;
    return kind === "serving" || kind === "reopening" ? (this.#kept.now?.volumes ?? []) : [];
  }

  /** False while the group merely may come here one day by a hand-over. */
  get hasPart(): boolean {
    return this.#phase.kind !== "standing-by";
  }

  get fenced(): boolean {
    return this.#fencedBy !== null || this.#phase.kind === "fenced";
  }

  get retired(): boolean {
    return this.#phase.kind === "retired" || this.#phase.kind === "retiring";
  }

  /** TCP clients may have lived through the power loss that their unflushed writes did not. */
  get unflushedMayBeLost(): boolean {
    return this.#kept.now?.unflushedMayBeLost ?? false;
  }

  /** The journal while one is open, for verification and statistics. */
  get journal(): { readonly log: FrameLog; readonly epoch: number } | null {
    const engine = this.#engine;
    return engine === null || this.#kept.now === undefined
      ? null
      : { log: engine.log, epoch: this.#kept.now.token.epoch };
  }

  /** What an adopted group can go back to; undefined while it is not open, and for a group that is at home. */
  get past(): Past | undefined {
    return this.#engine?.past;
  }

  start(): Promise<void> {
    return this.#steps.take(() => this.#decide(false));
  }

  /** Operator's order: make the group without asking the other site. Refused when there is a history already. */
  async create(): Promise<void> {
    await this.#steps.take(async () => {
      requireNoHistory(this.#orderFacts);
      await this.#decide(true);
      this.#requireServing("be created");
    });
  }

  /** Takes over what this site's gateway handed over, or finds it taken over already. Serves when it settles. */
  async adopt(): Promise<void> {
    await this.#steps.take(async () => {
      // Taken over already, and waiting for its disk: deciding anew would stop it for what may pass.
      const { kind } = this.#phase;
      if (kind !== "serving" && kind !== "reopening") await this.#decide(false);
      this.#requireServing("be taken over");
    });
  }

  /** Operator's word that the guest may go on although answered, unflushed writes may be gone. */
  async #acceptUnflushed(): Promise<void> {
    if (this.#kept.now === undefined) return;
    const { bootId } = this.#world.files;
    await this.#kept.save({ ...this.#kept.now, unflushedMayBeLost: false, unflushedAcceptedIn: bootId });
  }

  /** Operator's order to ship nothing until `resume`. One that stands already stays as it is. Those of `pausable`. */
  pause(order: OrderNote): Promise<void> {
    return this.#steps.take(async () => {
      if (pausable(this.#orderFacts).paused !== null) return;
      await this.#setPaused(standingOrder(order, this.#world.clock.wallMs()));
    });
  }

  /** Operator's order to go on: after `pause`, and with his word after a power loss. Those of `resumption`. */
  resume(isLossAccepted: boolean): Promise<void> {
    return this.#steps.take(async () => {
      const { unpause, acceptUnflushed } = resumption(this.#orderFacts, isLossAccepted);
      if (acceptUnflushed) await this.#acceptUnflushed();
      if (unpause) await this.#setPaused(null);
    });
  }

  /** What `retire` would do, and what stands against it. */
  get retirePlan(): RetirePlan {
    return planRetire(retireFacts(this.#parts));
  }

  /** Operator's order to end the group's life here (docs/group-life.md). What is retired already is taken as done. */
  retire(order: RetireRequest): Promise<void> {
    return this.#steps.take(async () => {
      if (this.#phase.kind !== "retired") await retireOwner(this.#retireGround(), order);
    });
  }

  get #parts(): OwnerParts {
    const { site, settings, paths, files } = this.#world;
    return {
      ...{ site, settings, paths, journalBytesMax: files.journalBytesMax },
      ...{ phase: this.#phase, hold: this.#hold, state: this.#kept.now, engine: this.#engine },
      ...{ view: this.#view, shipping: this.#shipping, scans: this.#scans, changes: this.#changes },
    };
  }

  #retireGround(): RetireGround {
    const isThere = (): boolean => (retireFacts(this.#parts).lacking?.writes ?? 0) === 0;
    return {
      facts: () => retireFacts(this.#parts),
      acknowledged: (patienceMs) => this.#view.until(isThere, patienceMs),
      stopServing: async () => {
        this.#enter({ kind: "retiring" });
        this.#requests.refuseWaiting(shutdownError());
        await this.#scans.closing();
      },
      drain: () => this.#engine?.drain() ?? Promise.resolve(false),
      remember: (order) => this.#rememberRetired(order),
      serveAgain: (cause) =>
        errorCode(cause) === "STATE_NOT_RESTORED" ? this.#stopAndClose(cause) : this.#closeAndOpen(cause),
      end: () => this.#endRetired(),
    };
  }

  async #rememberRetired(order: Omit<RetiredOwner, "atMs" | "acknowledged">): Promise<void> {
    const before = this.#kept.now;
    // Refused by whoever owns it now: that is the truth to remember, and the fence follows as the next step.
    if (this.#fencedBy !== null || before === undefined) throw shutdownError();
    const retired = {
      ...order,
      ...standingOrder(order, this.#world.clock.wallMs()),
      acknowledged: this.#view.safe,
    };
    await this.#kept.saveOrPutBack({ ...before, role: "retired", retired }, before);
  }

  async #endRetired(): Promise<void> {
    this.#enter({ kind: "retired", reason: retiredReason(this.#kept.now) });
    this.#world.log.warn("GROUP_RETIRED", "the group's life here has ended; nothing is deleted", {
      images: this.#kept.now?.volumes.map(({ imagePath }) => imagePath),
    });
    await this.#shipping.stop();
    const engine = this.#engine;
    this.#engine = null;
    await engine?.close("clean");
    this.#requests.refuseWaiting(shutdownError());
  }

  get #orderFacts(): OrderFacts {
    return { group: this.name, state: this.#kept.now, phase: this.#phase };
  }

  /** Durable before anything follows it: a crash in between ships no more than was ordered, or goes on as ordered. */
  async #setPaused(paused: StandingOrder | null): Promise<void> {
    const state = this.#kept.now;
    if (state === undefined) throw new TypeError("ordered without a state");
    await this.#kept.save({ ...state, paused });
    this.#world.log.warn("REPLICATION_PAUSED", paused === null ? "it goes on" : "nothing is shipped", {
      paused,
    });
    this.#shipping.pauseChanged();
    this.#scans.kick();
  }

  submit(records: readonly BlockRecord[], durable: boolean): Promise<void> {
    return this.#requests.submit(records, durable);
  }

  flush(): Promise<void> {
    return this.#requests.flush();
  }

  read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array> {
    return this.#requests.read(volume, offset, length);
  }

  extents(volume: VolumeNumber, offset: number, length: number): Promise<Extent[]> {
    return this.#requests.extents(volume, offset, length);
  }

  status(): OwnerStatus {
    const { clock, log } = this.#world;
    const nowMs = clock.wallMs();
    const facts = ownerStatus(statusFacts(this.#parts), nowMs);
    const { since, changed } = this.#since.observe(
      `${facts.state} ${facts.io} ${facts.reason?.code ?? ""}`,
      nowMs,
    );
    if (changed) {
      log.info("PROTECTION_CHANGED", facts.reason?.message ?? facts.state, {
        state: facts.state,
        io: facts.io,
        reason: facts.reason?.code ?? null,
      });
    }
    return { ...facts, since };
  }

  /**
   * `clean`: everything answered is applied and checkpointed. `abandon`: stops after the steps under way and leaves
   * the files as a kill would. Requests that still wait are refused.
   */
  async close(how: "clean" | "abandon" = "clean"): Promise<void> {
    this.#retry?.cancel();
    this.#changes.stop();
    await this.#steps.take(async () => {
      const sound = how === "clean" && this.#phase.kind === "serving";
      await this.#shipping.stop();
      // Said before the last steps, not after: while they take their time nobody may read that clients are served.
      this.#enter({ kind: "closed" });
      await this.#scans.closing();
      const engine = this.#engine;
      if (engine !== null) await engine.close(sound && (await engine.drain()) ? "clean" : "abandon");
      this.#requests.refuseWaiting(shutdownError());
      this.#engine = null;
    });
    await this.#changes.idle();
  }

  #requireServing(what: string): void {
    const phase = this.#phase;
    if (phase.kind === "serving") return;
    const reason = "reason" in phase ? phase.reason : null;
    throw new OperationalError({
      code: reason?.code ?? "NOT_SERVING",
      message: `group ${this.name} could not ${what}: ${reason?.message ?? phase.kind}`,
      reaction: "stop",
      hint: "Mend the reason and run the command again: it goes on where it stopped.",
    });
  }

  /** A step nobody waits for: what it cannot mend stops the group. */
  #stepAlone(run: () => Promise<void>): void {
    void this.#steps.take(() => run().catch((error: unknown) => this.#stop(error)));
  }

  async #decide(createOrdered: boolean): Promise<void> {
    try {
      const decision = await this.#beginning.decide(createOrdered, (late) => this.#heardLate(late));
      switch (decision.kind) {
        case "serve":
          return await this.#open();
        case "create":
          await this.#beginning.create();
          return await this.#open();
        case "adopt":
          await this.#beginning.adopt(decision.handover);
          return await this.#open();
        case "fence":
          return await this.#fence(decision.by);
        case "stay-fenced":
          this.#fencedBy = this.#kept.now?.fenced?.by ?? null;
          this.#enter({ kind: "fenced", reason: fencedReason(this.#fencedBy) });
          return;
        case "stay-retired":
          this.#enter({ kind: "retired", reason: retiredReason(this.#kept.now) });
          return;
        case "stand-by":
          this.#enter({ kind: "standing-by" });
          return;
        case "stop":
          this.#enter({
            kind: "stopped",
            reason: { code: decision.code, message: stopMessages[decision.code] },
          });
          return;
        case "wait":
          this.#enter({ kind: "waiting", reason: waitingReason(decision.code, this.name) });
          this.#again(peerAskAgainMs, "waiting", () => this.#decide(false));
          return;
      }
    } catch (error) {
      this.#stop(error);
    }
  }

  /** The other site's answer came when we had begun to serve without it: a newer token counts whenever it is seen (I4). */
  #heardLate(peer: PeerAnswer): void {
    const state = this.#kept.now;
    if (state === undefined || peer === "unreachable" || this.#phase.kind === "closed") return;
    const decision = this.#beginning.decideLate(state, peer);
    if (decision.kind === "fence") this.#superseded(decision.by);
  }

  /** No request is answered with success from here on; the rest follows as a step. */
  #superseded(by: Token): void {
    // At once: the step may have to wait for a journal being opened again, which ends by answering what waits.
    this.#fencedBy ??= by;
    this.#stepAlone(() => this.#fence(by));
  }

  async #open(): Promise<void> {
    const { settings, files, unappliedBytesMax, clock, log } = this.#world;
    const parts = { kept: this.#kept, view: this.#view, requests: this.#requests, scans: this.#scans };
    const { state, engine, overflow, trail } = await openEngine(
      {
        ...{ settings, files, unappliedBytesMax, clock, log, ...parts },
        changes: this.#changes,
        gapEnds: this.#gapEnds,
      },
      {
        durable: () => this.#shipping.durableAdvanced(),
        answered: (frame) => this.#view.answered(frame),
        held: (code) => this.#held(code),
        trimmed: () => this.#scans.kick(),
        failed: (error) =>
          this.#stepAlone(async () => {
            // It may have failed on its last steps, with another one open since.
            if (this.#engine === engine) await this.#reopen(error);
          }),
      },
    );
    this.#view.opened(overflow, trail);
    const before = this.#engine?.unsettled ?? null;
    this.#engine = engine;
    this.#hold = null;
    this.#enter({ kind: "serving" });
    engine.inherit(before);
    this.#shipping.start({
      ...{ state, engine, overflow, view: this.#view },
      table: () => this.#changes.toldAt(engine.log.durable.sequence),
      pause: () => this.#kept.now?.paused ?? null,
    });
    const table = (): readonly StateVolume[] => this.#kept.now?.volumes ?? [];
    this.#scans.opened({
      ...{ engine, overflow, lineage: state.lineage, token: state.token },
      get volumes() {
        return table();
      },
      journalBytesMax: files.journalBytesMax,
      hasStandby: state.standby !== null,
    });
    this.#changes.kick();
  }

  #held(code: HoldCode | null): void {
    const isForTable = this.#world.settings.overflow === "track" && Number.isFinite(this.#changes.dropBehind);
    this.#hold = code === null ? null : holdReason(code, isForTable);
    this.#scans.kick();
  }

  #shipListener(): ShipListener {
    return {
      acknowledged: (durable, applied) => {
        if (this.#view.advanced(durable)) this.#engine?.standbyAdvanced();
        this.#view.appliedThrough(applied);
        this.#scans.standbyAdvanced(durable, applied);
      },
      superseded: (token) => this.#superseded(token),
      attached: (lacks, held, partial) => {
        this.#view.met(held);
        this.#scans.attached(lacks, held);
        void this.#steps
          .take(() => this.#notePartial(partial))
          .catch((error: unknown) => {
            // The next greeting tells it again.
            const fields = { reason: errorCode(error), volumes: partial };
            this.#world.log.warn("PARTIAL_NOT_NOTED", errorText(error), fields);
          });
        this.#changes.kick();
      },
      lost: () => this.#view.lost(),
      stopped: (code, message) => {
        // Two owners of one epoch: neither may go on answering until an operator has decided (I4).
        if (code === "EPOCH_CONFLICT") this.#stepAlone(() => this.#stopForConflict(message));
      },
      linkChanged: () => this.#scans.kick(),
    };
  }

  /** The standby has what these volumes held when they were added. */
  async #noteWhole(numbers: readonly VolumeNumber[], end: Sequence): Promise<void> {
    const state = this.#kept.now;
    if (state !== undefined) await this.#kept.save(withWhole(state, numbers, end));
  }

  async #notePartial(numbers: readonly VolumeNumber[]): Promise<void> {
    const state = this.#kept.now;
    const next = state === undefined ? null : withPartial(state, numbers);
    if (next === null) return;
    await this.#kept.save(next);
    this.#scans.volumesLack();
  }

  /** The records of a change are durable: everything is closed, and opened on the table that the journal leads to. */
  async #openOnTable(): Promise<void> {
    const { log } = this.#world;
    const engine = this.#engine;
    // Anything else opens it again by itself, and then it is done.
    if (this.#phase.kind !== "serving" || engine === null || this.#kept.now?.changing === null) return;
    this.#enter({ kind: "reopening", reason: changingTable });
    await this.#shipping.stop();
    await this.#scans.closing();
    try {
      await engine.close((await engine.drain()) ? "clean" : "abandon");
    } catch (error) {
      // As after any failure: what is on disk decides.
      log.warn("ENGINE_CLOSE_FAILED", errorText(error), { reason: errorCode(error) });
    }
    await this.#openAgain();
  }

  /** A put or sync failed: the handle is not believed any more. Close, open, verify, and go on from what is true. */
  async #reopen(cause: unknown): Promise<void> {
    if (this.#phase.kind !== "serving" && this.#phase.kind !== "reopening") return;
    this.#world.log.error("ENGINE_FAILED", "journal or image failed; opening and verifying again", cause);
    await this.#closeAndOpen(cause);
  }

  async #closeAndOpen(cause: unknown): Promise<void> {
    const { clock, log } = this.#world;
    const nowMs = clock.monotonicMs();
    this.#enter({ kind: "reopening", reason: { code: errorCode(cause), message: errorText(cause) } });
    await this.#shipping.stop();
    await this.#scans.closing();
    const failed = this.#engine;
    if (failed !== null) {
      try {
        await failed.close("abandon");
      } catch (error) {
        // What is on disk decides, not how the broken handle went away.
        log.warn("ENGINE_CLOSE_FAILED", errorText(error), { reason: errorCode(error) });
      }
    }
    if (this.#reopens.isOneTooMany(nowMs)) {
      this.#stop(cause);
      return;
    }
    await this.#openAgain();
  }

  /** Ends with an engine, with a reason to stop, or by trying again; requests wait meanwhile. */
  async #openAgain(): Promise<void> {
    try {
      await this.#open();
    } catch (error) {
      if (!mayPass(errorCode(error))) {
        this.#stop(error);
        return;
      }
      this.#world.log.error("REOPEN_FAILED", "cannot open journal and images yet", error);
      this.#enter({ kind: "reopening", reason: { code: errorCode(error), message: errorText(error) } });
      this.#again(reopenAgainMs, "reopening", () => this.#openAgain());
    }
  }

  /** Stops acknowledging first, then makes it durable: a crash in between is fenced again by the next answer. */
  async #fence(by: Token): Promise<void> {
    const { clock, log } = this.#world;
    if (this.#kept.now === undefined || this.#phase.kind === "closed" || this.#phase.kind === "retired")
      return;
    this.#fencedBy = by;
    this.#enter({ kind: "fenced", reason: fencedReason(by) });
    log.warn("FENCED", "a newer token owns this group: no write is answered any more", {
      epoch: by.epoch,
      owner: by.owner,
    });
    // Not waited for yet: its last requests may hang for seconds, and whoever is killed meanwhile must remember this.
    const stopped = this.#shipping.stop();
    const engine = this.#engine;
    this.#requests.refuseWaiting(shutdownError());
    const left =
      engine === null
        ? await leftInJournal(this.#kept.now, this.#world.files, this.#view, log)
        : leftBehind(engine.log, this.#view.note?.since ?? engine.log.floor, this.#view);
    const fenced: AgentGroupState = {
      ...this.#kept.now,
      role: "fenced",
      fenced: { by, atMs: clock.wallMs(), ...left },
    };
    await Promise.all([this.#kept.save(fenced), stopped, this.#scans.closing()]);
    if (engine !== null) {
      this.#engine = null;
      // The unsent tail stays in this epoch's journal, durable, for whoever has to look at it.
      await engine.close((await engine.drain()) ? "clean" : "abandon");
      // What was on its way into the journal at the first refusal, and came back.
      engine.refuseUnsettled(shutdownError());
      this.#requests.refuseWaiting(shutdownError());
    }
  }

  async #stopForConflict(message: string): Promise<void> {
    if (this.#phase.kind === "closed" || this.#phase.kind === "fenced") return;
    await this.#stopAndClose(new OperationalError({ code: "OWNER_CONFLICT", message, reaction: "stop" }));
  }

  async #stopAndClose(error: unknown): Promise<void> {
    this.#stop(error);
    await this.#shipping.stop();
    await this.#scans.closing();
    const engine = this.#engine;
    await engine?.close("abandon");
    // What was on its way into the journal when the rest was refused.
    this.#requests.refuseWaiting(stoppedError());
    this.#engine = null;
  }

  #stop(error: unknown): void {
    this.#world.log.error("GROUP_STOPPED", "the group is not served until this is mended", error);
    this.#enter({ kind: "stopped", reason: { code: errorCode(error), message: errorText(error) } });
    this.#requests.refuseWaiting(stoppedError(error));
  }

  #enter(phase: Phase): void {
    this.#phase = phase;
    this.#requests.phaseChanged();
    this.status();
  }

  /** Tries again later, unless the group has left `phase` by then: an operator or a hand-over may be quicker. */
  #again(delayMs: number, phase: Phase["kind"], run: () => Promise<void>): void {
    this.#retry?.cancel();
    this.#retry = this.#world.clock.after(delayMs, () => {
      this.#stepAlone(async () => {
        if (this.#phase.kind === phase) await run();
      });
    });
  }
}
