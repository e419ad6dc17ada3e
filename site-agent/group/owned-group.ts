/**
 * One group as this site's agent lives with it: asks, creates, adopts, opens, serves, ships, reopens, is fenced.
 * Holds the requests that outlive an engine. Anything ambiguous stops this group with a reason and touches no other.
 * Must never answer a write after a newer token was seen (invariant I4).
 */
import type { Extent } from "../../block/device.ts";
import { BlockErrno, BlockError } from "../../block/device.ts";
import { Past } from "../../image/past.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { CompressBatch } from "../../protocol/batch.ts";
import { genesisChain } from "../../protocol/chain.ts";
import type { OrderNote, StandingOrder } from "../../protocol/group-life.ts";
import { pausedReason, standingOrder } from "../../protocol/group-life.ts";
import type { HandoverRecord } from "../../protocol/handover.ts";
import type { Sequence, Token, VolumeEntry, VolumeNumber } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import type { RetirePlan, RetireRequest } from "../../protocol/retirement.ts";
import type { OwnerStatus, Reason } from "../../protocol/status.ts";
import { isOutside } from "../../protocol/stretch.ts";
import { foundingTable, foundingVolume, isWholeAt } from "../../protocol/table-volume.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { syncNamesOf } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import type { Random } from "../../runtime/random.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import { Overflow, readNotes } from "../overflow/overflow.ts";
import { GroupScans } from "../scan/group-scans.ts";
import type { Line } from "../ship/line.ts";
import { Shipper } from "../ship/shipper.ts";
import type { HoldCode } from "../write-path/committer.ts";
import { DurableGate } from "../write-path/durable-gate.ts";
import { Engine } from "../write-path/engine.ts";
import { Entrance } from "../write-path/entrance.ts";
import type { Lag } from "../write-path/lag.ts";
import { clientsPart, type LagTrail, Stall } from "../write-path/lag.ts";
import { PendingWrites } from "../write-path/pending-writes.ts";
import { AcknowledgedWait } from "./acknowledged-wait.ts";
import { askPeer } from "./ask-peer.ts";
import type { FilesSettings } from "./files.ts";
import { initialContent, journalExists, lineageBytes, makeFiles, openFiles, openLog } from "./files.ts";
import { adoptedState, createdState } from "./first-state.ts";
import { lagTrailOf } from "./lag-trail.ts";
import type { OrderFacts } from "./orders.ts";
import { pausable, requireNoHistory, resumption } from "./orders.ts";
import { changingTable, fencedReason, heldForTable, holdMessages, noLink, stopMessages } from "./reasons.ts";
import { mayPass } from "./reopen-rule.ts";
import type { RetireFacts, RetireGround } from "./retire.ts";
import { planRetire, retiredReason, retiredStatus, retireOwner } from "./retire.ts";
import type { PeerAnswer } from "./start-decision.ts";
import { decideStart } from "./start-decision.ts";
import type { AgentGroupState, RetiredOwner, StateVolume } from "./state.ts";
import { parseAgentGroupState } from "./state.ts";
import type { Phase } from "./status.ts";
import { ownerStatus, Since } from "./status.ts";
import { VolumeChanges } from "./volume-changes.ts";
import type { WantedVolume } from "./volume-decision.ts";
import type { RecordSink } from "./volume-device.ts";

/** A group without state asks again this often, ms, until the other site answers or an operator creates it. */
const peerAskAgainMs = 2_000;
/** A journal or image that fails to open is tried again after this, ms: space or a device may come back. */
const reopenAgainMs = 1_000;
/** Opened and failed again this often in one window: the group stops and an operator looks. */
const reopensMax = 5;
const reopenWindowMs = 60_000;

export interface OwnedGroupWorld {
  readonly site: string;
  readonly settings: GroupSettings;
  readonly paths: AgentGroupPaths;
  readonly files: FilesSettings;
  readonly unappliedBytesMax: number;
  /** Hand-over record that this site's gateway may have written. */
  readonly readHandover: () => Promise<HandoverRecord | undefined>;
  /** Null when no line to the other site is configured. */
  readonly link: Line | null;
  readonly compress: CompressBatch;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export class OwnedGroup implements RecordSink {
  readonly #world: OwnedGroupWorld;
  readonly #pending = new PendingWrites();
  readonly #gate = new DurableGate();
  readonly #entrance: Entrance;
  readonly #scans: GroupScans;
  readonly #changes: VolumeChanges;
  readonly #since = new Since();
  #phase: Phase = { kind: "starting" };
  #state: AgentGroupState | undefined;
  #engine: Engine | null = null;
  /** Of the engine's journal. */
  #overflow: Overflow | null = null;
  readonly #gapEnds: Sequence[] = [];
  #shipper: Shipper | null = null;
  #trail: LagTrail | null = null;
  #hold: Reason | null = null;
  #acknowledged: Sequence = 0;
  #appliedAtStandby: Sequence = 0;
  readonly #acknowledgedWait: AcknowledgedWait;
  readonly #stall = new Stall();
  #retry: Timer | null = null;
  /** Reads that wait for the phase to change; bounded by the NBD server's requests in flight. */
  #phaseWaiters: (() => void)[] = [];
  #reopens: number[] = [];
  /** Set once a newer token is seen; from then on no request is answered with success. */
  #fencedBy: Token | null = null;
  /** Life-cycle steps run one after another. */
  #steps: Promise<void> = Promise.resolve();

  constructor(world: OwnedGroupWorld) {
    this.#world = world;
    const { clock, settings, files, paths, log, link } = world;
    this.#acknowledgedWait = new AcknowledgedWait(clock);
    this.#entrance = new Entrance(
      this.#pending,
      () => clock.wallMs(),
      () => this.#engine?.kick(),
    );
    this.#scans = new GroupScans({
      group: settings.name,
      disk: files.disk,
      paths,
      bytesPerSecond: settings.scan.bytesPerSecond,
      onMismatch: settings.scan.onMismatch,
      digestsPoints: settings.scan.digestsPoints === true,
      clock,
      log,
      link,
      entrance: this.#entrance,
      room: () => this.#noRoomForScan(),
      superseded: (token) => this.#superseded(token),
      brought: (numbers, end) => this.#step(() => this.#noteWhole(numbers, end)),
    });
    this.#changes = new VolumeChanges(
      {
        group: settings.name,
        files,
        entrance: this.#entrance,
        clock,
        log,
        step: (run) => this.#step(run),
        state: () => this.#state,
        save: (state) => this.#save(state),
        journal: () => (this.#phase.kind === "serving" ? (this.#engine?.log ?? null) : null),
        acknowledged: () => this.#acknowledged,
        overflowing: () => this.#overflow?.note != null,
        ask: async (table) => (await this.#shipper?.askForTable(table)) ?? null,
        reopen: () => this.#openOnTable(),
      },
      this.#wantedVolumes(settings),
    );
  }

  /** The configuration was read again. Only its volumes count here: everything else needs a restart. */
  reload(settings: GroupSettings): void {
    this.#changes.order(this.#wantedVolumes(settings));
  }

  #wantedVolumes({ home, volumes }: GroupSettings): WantedVolume[] {
    const { site, paths } = this.#world;
    return volumes.map(({ name, sizeBytes, image, standbyImage }) => ({
      name,
      sizeBytes,
      imagePath: (site === home ? image : standbyImage) ?? paths.image(name),
    }));
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
    return kind === "serving" || kind === "reopening" ? (this.#state?.volumes ?? []) : [];
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
    return this.#state?.unflushedMayBeLost ?? false;
  }

  /** The journal while one is open, for verification and statistics. */
  get journal(): { readonly log: FrameLog; readonly epoch: number } | null {
    const engine = this.#engine;
    return engine === null || this.#state === undefined
      ? null
      : { log: engine.log, epoch: this.#state.token.epoch };
  }

  /** What an adopted group can go back to; undefined while it is not open, and for a group that is at home. */
  get past(): Past | undefined {
    return this.#engine?.past;
  }

  start(): Promise<void> {
    return this.#step(() => this.#decide(false));
  }

  /** Operator's order: make the group without asking the other site. Refused when there is a history already. */
  async create(): Promise<void> {
    await this.#step(async () => {
      requireNoHistory(this.#orderFacts);
      await this.#decide(true);
      this.#requireServing("be created");
    });
  }

  /** Takes over what this site's gateway handed over, or finds it taken over already. Serves when it settles. */
  async adopt(): Promise<void> {
    await this.#step(async () => {
      // Taken over already, and waiting for its disk: deciding anew would stop it for what may pass.
      const { kind } = this.#phase;
      if (kind !== "serving" && kind !== "reopening") await this.#decide(false);
      this.#requireServing("be taken over");
    });
  }

  /** Operator's word that the guest may go on although answered, unflushed writes may be gone. */
  async #acceptUnflushed(): Promise<void> {
    if (this.#state === undefined) return;
    const { bootId } = this.#world.files;
    await this.#save({ ...this.#state, unflushedMayBeLost: false, unflushedAcceptedIn: bootId });
  }

  /** Operator's order to ship nothing until `resume`. One that stands already stays as it is. Those of `pausable`. */
  pause(order: OrderNote): Promise<void> {
    return this.#step(async () => {
      if (pausable(this.#orderFacts).paused !== null) return;
      await this.#setPaused(standingOrder(order, this.#world.clock.wallMs()));
    });
  }

  /** Operator's order to go on: after `pause`, and with his word after a power loss. Those of `resumption`. */
  resume(isLossAccepted: boolean): Promise<void> {
    return this.#step(async () => {
      const { unpause, acceptUnflushed } = resumption(this.#orderFacts, isLossAccepted);
      if (acceptUnflushed) await this.#acceptUnflushed();
      if (unpause) await this.#setPaused(null);
    });
  }

  /** What `retire` would do, and what stands against it. */
  get retirePlan(): RetirePlan {
    return planRetire(this.#retireFacts);
  }

  /** Operator's order to end the group's life here (docs/group-life.md). What is retired already is taken as done. */
  retire(order: RetireRequest): Promise<void> {
    return this.#step(async () => {
      if (this.#phase.kind !== "retired") await retireOwner(this.#retireGround(), order);
    });
  }

  get #retireFacts(): RetireFacts {
    const { site, paths } = this.#world;
    const written = this.#engine?.log.tail.sequence ?? 0;
    const { writes, bytes } = this.#lag() ?? { writes: 0, bytes: 0 };
    // A scan's records are nobody's loss, but they have to arrive like all others.
    const lacking = { writes: Math.max(writes, written - this.#safe), bytes };
    const hasStandby = this.#state?.standby != null;
    return {
      ...this.#orderFacts,
      ...{ site, paths, written, firstSync: hasStandby && this.#scans.firstSync },
      lacking: hasStandby ? lacking : null,
    };
  }

  #retireGround(): RetireGround {
    const isThere = (): boolean => (this.#retireFacts.lacking?.writes ?? 0) === 0;
    return {
      facts: () => this.#retireFacts,
      acknowledged: (patienceMs) => this.#acknowledgedWait.until(isThere, patienceMs),
      stopServing: async () => {
        this.#enter({ kind: "retiring" });
        this.#refuseWaiting(shutdownError());
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
    const before = this.#state;
    // Refused by whoever owns it now: that is the truth to remember, and the fence follows as the next step.
    if (this.#fencedBy !== null || before === undefined) throw shutdownError();
    const retired = {
      ...order,
      ...standingOrder(order, this.#world.clock.wallMs()),
      acknowledged: this.#safe,
    };
    try {
      await this.#save({ ...before, role: "retired", retired });
    } catch (error) {
      // It may or may not be on disk, and what is served must not be called retired there.
      await this.#save(before).catch((cause: unknown) => {
        throw new OperationalError({
          code: "STATE_NOT_RESTORED",
          message:
            "it is not known whether the group is retired: nothing is served before a restart has read it",
          reaction: "stop",
          cause,
        });
      });
      throw error;
    }
  }

  async #endRetired(): Promise<void> {
    this.#enter({ kind: "retired", reason: retiredReason(this.#state) });
    this.#world.log.warn("GROUP_RETIRED", "the group's life here has ended; nothing is deleted", {
      images: this.#state?.volumes.map(({ imagePath }) => imagePath),
    });
    await this.#stopShipping();
    const engine = this.#engine;
    this.#engine = null;
    await engine?.close("clean");
    this.#refuseWaiting(shutdownError());
  }

  get #orderFacts(): OrderFacts {
    return { group: this.name, state: this.#state, phase: this.#phase };
  }

  /** Durable before anything follows it: a crash in between ships no more than was ordered, or goes on as ordered. */
  async #setPaused(paused: StandingOrder | null): Promise<void> {
    if (this.#state === undefined) throw new TypeError("ordered without a state");
    await this.#save({ ...this.#state, paused });
    this.#world.log.warn("REPLICATION_PAUSED", paused === null ? "it goes on" : "nothing is shipped", {
      paused,
    });
    this.#shipper?.pauseChanged();
    this.#scans.kick();
  }

  submit(records: readonly BlockRecord[], durable: boolean): Promise<void> {
    const refusal = this.#refusal();
    if (refusal !== null) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const settle = () => (this.#fencedBy === null ? resolve() : reject(shutdownError()));
      this.#entrance.enter(records, { durable, resolve: settle, reject });
    });
  }

  flush(): Promise<void> {
    const refusal = this.#refusal();
    if (refusal !== null) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const settle = () => (this.#fencedBy === null ? resolve() : reject(shutdownError()));
      // Between two engines: the next one opens with everything durable, and answers then.
      if (this.#engine === null) this.#gate.add(0, { resolve: settle, reject });
      else this.#engine.flush({ resolve: settle, reject });
    });
  }

  async read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array> {
    return this.#unlessFenced((await this.#readable()).read(volume, offset, length));
  }

  async extents(volume: VolumeNumber, offset: number, length: number): Promise<Extent[]> {
    return this.#unlessFenced((await this.#readable()).extents(volume, offset, length));
  }

  /** What was read while the news came may be old already, and is nobody's answer any more (I4). */
  async #unlessFenced<T>(answer: Promise<T>): Promise<T> {
    const read = await answer;
    if (this.#fencedBy !== null) throw shutdownError();
    return read;
  }

  status(): OwnerStatus {
    const { clock, settings, log } = this.#world;
    const nowMs = clock.wallMs();
    const state = this.#state;
    const engine = this.#engine;
    const fenced = state?.fenced ?? null;
    const retired = engine === null ? (state?.retired ?? null) : null;
    const written = engine?.log.tail.sequence ?? fenced?.written ?? retired?.written ?? 0;
    const left = fenced?.acknowledged ?? retired?.acknowledged ?? this.#acknowledged;
    const acknowledged = engine === null ? left : this.#acknowledged;
    const shipping = this.#shipper?.status();
    const facts = ownerStatus(
      {
        group: settings.name,
        lineage: state?.lineage ?? null,
        token: state?.token ?? null,
        phase: this.#phase,
        hold: this.#hold,
        unflushedMayBeLost: this.unflushedMayBeLost,
        standby: state?.standby ?? null,
        paused: state?.paused ?? null,
        retired: retiredStatus(state, this.#world.paths),
        shipStopped: shipping?.state === "stopped" || shipping?.state === "waiting" ? shipping.reason : null,
        attached: shipping?.state === "attached",
        firstSync: this.#scans.firstSync,
        scan: this.#scans.status(),
        overflow: this.#overflowStatus(),
        mismatch: this.#scans.mismatch,
        link: shipping?.link ?? this.#lineAlone(),
        durability: settings.durability,
        rpo: settings.rpo,
        position: {
          written,
          durable: engine?.log.durable.sequence ?? written,
          shipped: Math.max(shipping?.shipped ?? 0, acknowledged),
          acknowledged,
          applied: this.#appliedAtStandby,
        },
        lag: (retired === null ? this.#lag() : undefined) ?? {
          writes: retired?.loss.writes ?? written - acknowledged,
          bytes: fenced?.tailBytes ?? retired?.loss.bytes ?? 0,
          ageMs: 0,
          oldestAtMs: null,
        },
        noProgressMs: this.#stall.ms(clock.monotonicMs()),
        journal: { bytes: engine?.log.bytes ?? 0, maxBytes: this.#world.files.journalBytesMax },
        history: engine?.past?.status ?? null,
        volumeChange: this.#changes.status,
        volumes: state?.volumes ?? [],
      },
      nowMs,
    );
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

  #overflowStatus(): OwnerStatus["overflow"] {
    const overflow = this.#overflow;
    const note = overflow?.note ?? null;
    if (overflow === null || note === null) return null;
    const { through, declared, since } = note;
    const told = declared && this.#acknowledged >= through;
    return {
      state: told ? "resync" : "dropping",
      since: since.sequence,
      through,
      dirtyChunks: overflow.map.count,
    };
  }

  /** What would be lost now: as long as the standby lacks what was dropped, it would open a point from before that. */
  get #safe(): Sequence {
    const since = this.#overflow?.note?.since.sequence;
    return since === undefined ? this.#acknowledged : Math.min(since, this.#acknowledged);
  }

  #lag(): Lag | undefined {
    const safe = this.#safe;
    this.#trail?.acknowledged(safe);
    return this.#trail?.lag(safe);
  }

  /** The line of a group that ships nothing. */
  #lineAlone(): OwnerStatus["link"] {
    const { link } = this.#world;
    if (link === null) return noLink;
    const { up, limitBytesPerSecond, lastContact } = link.status;
    return { ...noLink, up, limitBytesPerSecond, lastContact };
  }

  /**
   * `clean`: everything answered is applied and checkpointed. `abandon`: stops after the steps under way and leaves
   * the files as a kill would. Requests that still wait are refused.
   */
  async close(how: "clean" | "abandon" = "clean"): Promise<void> {
    this.#retry?.cancel();
    this.#changes.stop();
    await this.#step(async () => {
      const sound = how === "clean" && this.#phase.kind === "serving";
      await this.#stopShipping();
      // Said before the last steps, not after: while they take their time nobody may read that clients are served.
      this.#enter({ kind: "closed" });
      await this.#scans.closing();
      const engine = this.#engine;
      if (engine !== null) await engine.close(sound && (await engine.drain()) ? "clean" : "abandon");
      this.#refuseWaiting(shutdownError());
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
    void this.#step(() => run().catch((error: unknown) => this.#stop(error)));
  }

  /** Queues a life-cycle step behind those under way; its error is the caller's. */
  #step(run: () => Promise<void>): Promise<void> {
    const step = this.#steps.then(run);
    this.#steps = step.catch(() => {});
    return step;
  }

  async #decide(createOrdered: boolean): Promise<void> {
    const { site, settings, log } = this.#world;
    try {
      this.#state = await readDocument(this.#world.files.disk, this.#world.paths.state, parseAgentGroupState);
      const handover = await this.#world.readHandover();
      let peer: PeerAnswer = "not-asked";
      let decision = decideStart({
        site,
        home: settings.home,
        state: this.#state,
        handover,
        peer,
        createOrdered,
      });
      if (decision.kind === "ask-peer") {
        peer = await askPeer(this.name, this.#world, (late) => this.#heardLate(late));
        decision = decideStart({
          site,
          home: settings.home,
          state: this.#state,
          handover,
          peer,
          createOrdered,
        });
      }
      log.info("START_DECIDED", "what to do with the group", { decision: decision.kind });
      switch (decision.kind) {
        case "serve":
          return await this.#open();
        case "create":
          await this.#create();
          return await this.#open();
        case "adopt":
          await this.#adopt(decision.handover);
          return await this.#open();
        case "fence":
          return await this.#fence(decision.by);
        case "stay-fenced":
          this.#fencedBy = this.#state?.fenced?.by ?? null;
          this.#enter({ kind: "fenced", reason: fencedReason(this.#fencedBy) });
          return;
        case "stay-retired":
          this.#enter({ kind: "retired", reason: retiredReason(this.#state) });
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
          this.#enter({
            kind: "waiting",
            reason: {
              code: decision.code,
              message: `the other site must be running and say that it does not know this group; only if it is lost for good, run: splitsite group create ${this.name}`,
            },
          });
          this.#again(peerAskAgainMs, "waiting", () => this.#decide(false));
          return;
        case "ask-peer":
          throw new TypeError("an answered question is not asked again");
      }
    } catch (error) {
      this.#stop(error);
    }
  }

  /** The other site's answer came when we had begun to serve without it: a newer token counts whenever it is seen (I4). */
  #heardLate(peer: PeerAnswer): void {
    const { site, settings, log } = this.#world;
    const state = this.#state;
    if (state === undefined || peer === "unreachable" || this.#phase.kind === "closed") return;
    const facts = { site, home: settings.home, state, handover: undefined, peer, createOrdered: false };
    const decision = decideStart(facts);
    log.info("PEER_ANSWERED_LATE", "the other site answered after the group was started", {
      decision: decision.kind,
    });
    if (decision.kind === "fence") this.#superseded(decision.by);
  }

  /** No request is answered with success from here on; the rest follows as a step. */
  #superseded(by: Token): void {
    // At once: the step may have to wait for a journal being opened again, which ends by answering what waits.
    this.#fencedBy ??= by;
    this.#stepAlone(() => this.#fence(by));
  }

  async #create(): Promise<void> {
    const { settings, site, paths, files, random, log } = this.#world;
    if (this.#state === undefined && journalExists(files, 1)) {
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
    log.info("GROUP_CREATED", "a new history begins", { lineage: this.#state?.lineage });
  }

  async #adopt(handover: HandoverRecord): Promise<void> {
    await this.#make(adoptedState(handover));
    this.#world.log.info("GROUP_ADOPTED", "this site owns the group now", {
      epoch: handover.token.epoch,
      sequence: handover.sealed,
    });
  }

  async #make(state: AgentGroupState): Promise<void> {
    const { disk } = this.#world.files;
    const { directory } = this.#world.paths;
    await disk.makeDirectory(directory);
    // A crash from here to the second document is seen as an unfinished attempt and done anew.
    await this.#save(state);
    // Power loss after the first answer would otherwise take the whole folder, name and all, and with it the history.
    await syncNamesOf(disk, directory);
    const volumes = await makeFiles(state, this.#world.files);
    // From here on the history exists: everything it stands on is durable already.
    await this.#save({ ...state, role: "owner", volumes });
  }

  async #save(state: AgentGroupState): Promise<void> {
    await writeDocument(this.#world.files.disk, this.#world.paths.state, state);
    this.#state = state;
  }

  async #open(): Promise<void> {
    const { clock, settings, files, log } = this.#world;
    if (this.#state === undefined) throw new TypeError("opened without a state");
    const opened = await openFiles(this.#state, files, {
      settle: (found, journal) => this.#changes.settle(found, journal),
      configuredBytes: (name) => this.#changes.configuredBytes(name),
    });
    const { state, log: journal, image, recovery } = opened;
    const lostPower = !recovery.sameBoot && !recovery.cleanShutdown;
    if (lostPower && settings.durability === "flush" && state.unflushedAcceptedIn !== files.bootId) {
      log.warn("UNFLUSHED_MAY_BE_LOST", "the host lost power: writes answered but not flushed may be gone");
      await this.#save({ ...state, unflushedMayBeLost: true });
    }
    this.#acknowledged = Math.max(this.#acknowledged, journal.floor.sequence);
    const overflow = await Overflow.open({
      journal,
      journalBytesMax: files.journalBytesMax,
      acknowledged: () => this.#acknowledged,
      gapEnds: this.#gapEnds,
      dropping: () => this.#scans.dropping(),
      dropped: () => this.#scans.dropped(),
      log,
    });
    const trail = await lagTrailOf(journal, overflow.note);
    this.#overflow = overflow;
    trail.acknowledged(this.#safe);
    this.#trail = trail;
    this.#stall.moved(clock.monotonicMs());
    const before = this.#engine?.unsettled ?? null;
    const engine = new Engine({
      log: journal,
      image,
      past:
        image.history === undefined
          ? undefined
          : new Past(
              image,
              settings.history,
              clock,
              log,
              (sequence) => isOutside(state.between, sequence),
              (volume, sequence) =>
                state.volumes.some((row) => row.number === volume && isWholeAt(row, sequence)),
            ),
      lineage: lineageBytes(state),
      pending: this.#pending,
      gate: this.#gate,
      clock,
      durability: settings.durability,
      unappliedBytesMax: this.#world.unappliedBytesMax,
      releasedByStandby: () =>
        Math.min(
          this.#state?.standby === null ? Number.POSITIVE_INFINITY : this.#acknowledged,
          this.#changes.keepBehind,
        ),
      dropBehind:
        settings.overflow === "track" && state.standby !== null
          ? (checkpoint, freed) => overflow.dropBehind(Math.min(checkpoint, this.#changes.dropBehind), freed)
          : null,
      listener: {
        durable: () => this.#shipper?.durableAdvanced(),
        answered: (frame) => {
          const part = clientsPart(frame);
          if (part !== undefined) trail.answered(part);
          this.#stall.answered(frame.first, this.#acknowledged, clock.monotonicMs());
        },
        held: (code) => {
          this.#hold = code === null ? null : this.#holdReason(code);
          this.#scans.kick();
        },
        trimmed: () => this.#scans.kick(),
        failed: (error) =>
          this.#stepAlone(async () => {
            // It may have failed on its last steps, with another one open since.
            if (this.#engine === engine) await this.#reopen(error);
          }),
      },
    });
    this.#engine = engine;
    this.#hold = null;
    this.#enter({ kind: "serving" });
    engine.inherit(before);
    this.#ship(state, engine, overflow, trail);
    const table = (): readonly StateVolume[] => this.#state?.volumes ?? [];
    this.#scans.opened({
      engine,
      overflow,
      lineage: state.lineage,
      token: state.token,
      get volumes() {
        return table();
      },
      journalBytesMax: files.journalBytesMax,
      hasStandby: state.standby !== null,
    });
    this.#changes.kick();
  }

  /** The standby has what these volumes held when they were added. */
  async #noteWhole(numbers: readonly VolumeNumber[], end: Sequence): Promise<void> {
    const state = this.#state;
    if (state === undefined) return;
    const volumes = state.volumes.map((volume) =>
      numbers.includes(volume.number) && volume.wholeFrom === null ? { ...volume, wholeFrom: end } : volume,
    );
    await this.#save({ ...state, volumes });
  }

  /** What the standby says that it has not whole, as after a gap that we know nothing of, is brought anew. */
  async #notePartial(numbers: readonly VolumeNumber[]): Promise<void> {
    const state = this.#state;
    if (state?.role !== "owner" || state.standby === null) return;
    const isNews = (volume: StateVolume) => numbers.includes(volume.number) && volume.wholeFrom !== null;
    if (!state.volumes.some(isNews)) return;
    const volumes = state.volumes.map((volume) => (isNews(volume) ? { ...volume, wholeFrom: null } : volume));
    await this.#save({ ...state, volumes });
    this.#scans.volumesLack();
  }

  #holdReason(code: HoldCode): Reason {
    const isForTable =
      code === "JOURNAL_FULL" &&
      this.#world.settings.overflow === "track" &&
      Number.isFinite(this.#changes.dropBehind);
    return isForTable ? heldForTable : { code, message: holdMessages[code] };
  }

  /** The records of a change are durable: everything is closed, and opened on the table that the journal leads to. */
  async #openOnTable(): Promise<void> {
    const { log } = this.#world;
    const engine = this.#engine;
    // Anything else opens it again by itself, and then it is done.
    if (this.#phase.kind !== "serving" || engine === null || this.#state?.changing === null) return;
    this.#enter({ kind: "reopening", reason: changingTable });
    await this.#stopShipping();
    await this.#scans.closing();
    try {
      await engine.close((await engine.drain()) ? "clean" : "abandon");
    } catch (error) {
      // As after any failure: what is on disk decides.
      log.warn("ENGINE_CLOSE_FAILED", errorText(error), { reason: errorCode(error) });
    }
    await this.#openAgain();
  }

  /** Why a scan has to wait, whatever it waits for itself. */
  #noRoomForScan(): Reason | null {
    const paused = this.#state?.paused ?? null;
    if (paused !== null) return pausedReason(paused);
    const shipping = this.#shipper?.status();
    if (shipping?.state !== "attached") return { code: "NOT_ATTACHED", message: "no standby is attached" };
    if (!shipping.link.up) return { code: "LINK_DOWN", message: "the standby does not answer" };
    return this.#hold;
  }

  #ship(state: AgentGroupState, engine: Engine, overflow: Overflow, trail: LagTrail): void {
    const { link, compress, clock, random, log } = this.#world;
    if (state.standby === null || link === null) return;
    const lineage = lineageBytes(state);
    const founding = foundingTable(state.volumes);
    this.#shipper = new Shipper({
      source: {
        group: this.name,
        lineage,
        token: state.token,
        volumes: () => this.#changes.tableAt(engine.log.durable.sequence),
        founding: state.volumes.some(({ changedAt }) => changedAt > 0) ? founding : undefined,
        imagesHeldData: state.initial === "data",
        genesis: genesisChain(lineage, founding),
        durable: () => engine.log.durable,
        headSequence: () => engine.log.head.sequence,
        floorSequence: () => engine.log.floor.sequence,
        pause: () => this.#state?.paused ?? null,
        answered: () => trail.newest,
        frames: (from, rawBytesMax) => engine.log.frames(from, rawBytesMax),
        chainAt: (sequence) => engine.log.chainAt(sequence),
        positionAt: (sequence) => engine.log.positionAt(sequence),
        declareGap: (first) => overflow.declare(first),
      },
      listener: {
        acknowledged: (durable, applied) => this.#standbyAdvanced(durable, applied),
        superseded: (token) => this.#superseded(token),
        attached: (lacks, held, partial) => {
          this.#stall.moved(clock.monotonicMs());
          this.#scans.attached(lacks, held);
          void this.#step(() => this.#notePartial(partial)).catch((error: unknown) => {
            // The next greeting tells it again.
            log.warn("PARTIAL_NOT_NOTED", errorText(error), { reason: errorCode(error), volumes: partial });
          });
          this.#changes.kick();
        },
        stopped: (code, message) => {
          // Two owners of one epoch: neither may go on answering until an operator has decided (I4).
          if (code === "EPOCH_CONFLICT") this.#stepAlone(() => this.#stopForConflict(message));
        },
        linkChanged: () => this.#scans.kick(),
      },
      link,
      compress,
      clock,
      random,
      log,
    });
    this.#shipper.start();
  }

  #standbyAdvanced(durable: Sequence, applied: Sequence): void {
    if (durable > this.#acknowledged) {
      this.#acknowledged = durable;
      this.#stall.moved(this.#world.clock.monotonicMs());
      this.#trail?.acknowledged(this.#safe);
      this.#engine?.standbyAdvanced();
    }
    this.#appliedAtStandby = applied;
    this.#acknowledgedWait.moved();
    this.#scans.standbyAdvanced(durable, applied);
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
    await this.#stopShipping();
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
    this.#reopens = this.#reopens.filter((atMs) => nowMs - atMs < reopenWindowMs);
    this.#reopens.push(nowMs);
    if (this.#reopens.length > reopensMax) {
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
    if (this.#state === undefined || this.#phase.kind === "closed" || this.#phase.kind === "retired") return;
    this.#fencedBy = by;
    this.#enter({ kind: "fenced", reason: fencedReason(by) });
    log.warn("FENCED", "a newer token owns this group: no write is answered any more", {
      epoch: by.epoch,
      owner: by.owner,
    });
    // Not waited for yet: its last requests may hang for seconds, and whoever is killed meanwhile must remember this.
    const stopped = this.#stopShipping();
    const engine = this.#engine;
    this.#refuseWaiting(shutdownError());
    const left =
      engine === null
        ? await this.#leftInJournal(this.#state)
        : this.#leftBehind(engine.log, this.#overflow?.note?.since ?? engine.log.floor);
    const fenced: AgentGroupState = {
      ...this.#state,
      role: "fenced",
      fenced: { by, atMs: clock.wallMs(), ...left },
    };
    await Promise.all([this.#save(fenced), stopped, this.#scans.closing()]);
    if (engine !== null) {
      this.#engine = null;
      // The unsent tail stays in this epoch's journal, durable, for whoever has to look at it.
      await engine.close((await engine.drain()) ? "clean" : "abandon");
      // What was on its way into the journal at the first refusal, and came back.
      engine.refuseUnsettled(shutdownError());
      this.#refuseWaiting(shutdownError());
    }
  }

  /** What of this journal the standby is not known to hold: the tail that the new owner's history lacks at most. */
  #leftBehind(log: FrameLog, since: { readonly sequence: Sequence; readonly dataBytesTotal: number }): Tail {
    const acknowledged = Math.max(this.#safe, since.sequence);
    const written = log.tail.sequence;
    const lag = this.#lag();
    return {
      written,
      acknowledged,
      tailBytes: lag?.bytes ?? log.tail.dataBytesTotal - since.dataBytesTotal,
    };
  }

  /** The same for an owner that learns of its successor before it has opened anything. */
  async #leftInJournal(state: AgentGroupState): Promise<Tail> {
    try {
      const { log } = await openLog(state, this.#world.files, "open");
      try {
        return this.#leftBehind(log, (await readNotes(log)).note?.since ?? log.floor);
      } finally {
        await log.close("abandon");
      }
    } catch (error) {
      // Fenced it is whatever the journal says; that its tail cannot be counted is told, and nothing is made up.
      this.#world.log.error("TAIL_UNKNOWN", "what this journal holds beyond the standby is not known", error);
      return { written: 0, acknowledged: 0, tailBytes: 0 };
    }
  }

  async #stopForConflict(message: string): Promise<void> {
    if (this.#phase.kind === "closed" || this.#phase.kind === "fenced") return;
    await this.#stopAndClose(new OperationalError({ code: "OWNER_CONFLICT", message, reaction: "stop" }));
  }

  async #stopAndClose(error: unknown): Promise<void> {
    this.#stop(error);
    await this.#stopShipping();
    await this.#scans.closing();
    const engine = this.#engine;
    await engine?.close("abandon");
    // What was on its way into the journal when the rest was refused.
    this.#refuseWaiting(new BlockError(BlockErrno.EIO, "the group is stopped"));
    this.#engine = null;
  }

  #stop(error: unknown): void {
    this.#world.log.error("GROUP_STOPPED", "the group is not served until this is mended", error);
    this.#enter({ kind: "stopped", reason: { code: errorCode(error), message: errorText(error) } });
    this.#refuseWaiting(new BlockError(BlockErrno.EIO, "the group is stopped", error));
  }

  #enter(phase: Phase): void {
    this.#phase = phase;
    const waiters = this.#phaseWaiters;
    this.#phaseWaiters = [];
    for (const resolve of waiters) resolve();
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

  async #stopShipping(): Promise<void> {
    const shipper = this.#shipper;
    this.#shipper = null;
    await shipper?.close();
  }

  #refuseWaiting(error: Error): void {
    this.#entrance.rejectWaiting(error);
    this.#engine?.refuseUnsettled(error);
    this.#pending.rejectAll(error);
    this.#gate.rejectAll(error);
  }

  /** Null while requests are taken; between two engines they wait. */
  #refusal(): BlockError | null {
    switch (this.#phase.kind) {
      case "serving":
      case "reopening":
        return this.#fencedBy === null ? null : shutdownError();
      case "stopped":
        return new BlockError(BlockErrno.EIO, "the group is stopped");
      default:
        return shutdownError();
    }
  }

  async #readable(): Promise<Engine> {
    // Reopening ends with an engine, or with a phase that refuses.
    while (this.#phase.kind === "reopening") {
      await new Promise<void>((resolve) => this.#phaseWaiters.push(resolve));
    }
    const refusal = this.#refusal();
    if (refusal !== null) throw refusal;
    if (this.#engine === null) throw new TypeError("a serving group has an engine");
    return this.#engine;
  }
}

/** What a fenced owner is left with. */
type Tail = Pick<NonNullable<AgentGroupState["fenced"]>, "written" | "acknowledged" | "tailBytes">;

function shutdownError(): BlockError {
  return new BlockError(BlockErrno.ESHUTDOWN, "this site does not serve the group");
}
