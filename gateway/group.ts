/**
 * The standby of one group at this site, from its first greeting to its hand-over: the shell that holds the durable
 * document and everything that is open on it. One group's trouble stays in its object. It never opens an image after
 * the hand-over record exists, and never changes the token except upwards, by failover.
 */
import { dirname } from "node:path";
import type { AppliedPosition } from "../image/marker.ts";
import type { Past } from "../image/past.ts";
import type { FailoverPlan, FailoverResult } from "../protocol/admin.ts";
import { type BatchHeader, batchHeaderBytes, decodeBatchHeader } from "../protocol/batch.ts";
import type {
  BatchAnswer,
  GroupKnowledge,
  Heartbeat,
  HeartbeatAnswer,
  Hello,
  HelloAnswer,
  Refusal,
  ScanAnswer,
  ScanAsk,
  WantedAnswer,
} from "../protocol/control.ts";
import type { Frame } from "../protocol/frame.ts";
import { standingOrder } from "../protocol/group-life.ts";
import type { AdoptedExport, HandoverRecord, HandoverTarget } from "../protocol/handover.ts";
import { parseHandoverRecord } from "../protocol/handover.ts";
import type { HistoryAsk, HistoryCheckAnswer } from "../protocol/history-check.ts";
import type { Lineage, Sequence, Token, VolumeEntry } from "../protocol/ids.ts";
import { bytesEqual, bytesFromHex, bytesToHex } from "../protocol/ids.ts";
import type { VolumeChangeRecord } from "../protocol/record.ts";
import type { RetiredStatus, RetirePlan, RetireRequest } from "../protocol/retirement.ts";
import type { StandbyPinAnswer, StandbyPinAsk } from "../protocol/standby-pin.ts";
import type { Reason, StandbyStatus, VolumeStatus } from "../protocol/status.ts";
import { isWholeAt } from "../protocol/table-volume.ts";
import type { Clock, Timer } from "../runtime/clock.ts";
import { rfc3339 } from "../runtime/clock.ts";
import type { Disk } from "../runtime/disk.ts";
import { syncDirectory } from "../runtime/disk.ts";
import { readDocument, writeDocument } from "../runtime/durable-document.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { HttpAnswer, HttpRequest } from "../runtime/http.ts";
import type { Log } from "../runtime/log.ts";
import {
  agentGroupPaths,
  evidencePath,
  type GatewayGroupPaths,
  gatewayGroupPaths,
} from "../runtime/paths.ts";
import { requireRetirable } from "../runtime/require-retirable.ts";
import type { GroupSettings } from "../runtime/settings/types.ts";
import { createStandby, imagePathOf } from "./create.ts";
import { handoverOf } from "./failover/handover.ts";
import { isRunning, phaseFromDisk } from "./failover/machine.ts";
import { leftOutAt, planFailover, stateLoss } from "./failover/plan.ts";
import { type FailoverGround, FailoverRunner, type StepTiming } from "./failover/runner.ts";
import { Heard } from "./heard.ts";
import { judgeHello, judgeWanted } from "./hello.ts";
import type { IntakeLimits } from "./intake-options.ts";
import { OpenStandby } from "./open-standby.ts";
import { refuseForeignToken } from "./receive/admission.ts";
import { judgeToken } from "./receive/machine.ts";
import { planRetire, retireAdvice, retiredRefusal, retiredStatus } from "./retire.ts";
import {
  afterFrames,
  describeIncomplete,
  type Incomplete,
  isOpenable,
  lackOf,
  sameCompleteness,
} from "./scan/completeness.ts";
import type { FailoverDocument, HeardRecord, Seal, StandbyDocument } from "./state.ts";
import { parseHeardRecord, parseStandbyDocument } from "./state.ts";
import { describeStandby, judgeCondition, type StatusFacts } from "./status.ts";
import type { StandbyStorage } from "./storage.ts";
import { judgeImages, makeImageOfChange } from "./volumes/image-of-change.ts";
import { decideChange, tableAfterContent, withVolume } from "./volumes/table.ts";

export interface StandbyGroupOptions {
  readonly site: string;
  readonly dataDir: string;
  readonly settings: GroupSettings;
  readonly limits: IntakeLimits;
  /** null: no agent at this site. */
  readonly target: HandoverTarget | null;
  readonly storage: StandbyStorage;
  readonly clock: Clock;
  readonly log: Log;
}

/** Points kept from before repairs, until an operator has looked at them: each may make the history longer. */
const repairPinsMax = 8;
/** Pause before the intake is opened again after it failed, ms; doubled up to the maximum. */
const reopenMsMin = 1_000;
const reopenMsMax = 30_000;
/** What opening again cannot mend: the log is not what was promised. */
const finalIntakeCodes: ReadonlySet<string> = new Set([
  "JOURNAL_DAMAGED",
  "JOURNAL_MISSING",
  "WATERMARK_MISSING",
  "WATERMARK_DAMAGED",
]);

export class StandbyGroup implements FailoverGround {
  readonly runner: FailoverRunner;
  /** Volumes as this site's configuration has them now. */
  #configured: GroupSettings["volumes"];
  readonly #options: StandbyGroupOptions;
  readonly #paths: GatewayGroupPaths;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #disk: Disk;
  #document: StandbyDocument | undefined;
  #open: OpenStandby | undefined;
  #heard: Heard;
  /** Stopped as a whole: damaged document, broken intake. */
  #trouble: Reason | null = null;
  /** The owner's history or table does not fit ours; cleared when it attaches. */
  #dispute: Reason | null = null;
  #remembered: { state: string; code: string | null; sinceMs: number } = {
    state: "",
    code: null,
    sinceMs: 0,
  };
  #reopenMs = reopenMsMin;
  #reopenTimer: Timer | undefined;
  #closing = false;
  /** An order to retire it is between its checks and the document. */
  #retiring = false;
  /** Greetings, reopening and closing, one at a time. */
  #turn: Promise<unknown> = Promise.resolve();
  #heardWriting: Promise<void> = Promise.resolve();
  /** Changes of the document, one at a time: apply and a failover both write it, each from what the other left. */
  #writing: Promise<unknown> = Promise.resolve();

  constructor(options: StandbyGroupOptions) {
    this.#options = options;
    this.#configured = options.settings.volumes;
    this.#paths = gatewayGroupPaths(options.dataDir, options.settings.name);
    this.#log = options.log;
    this.#clock = options.clock;
    this.#disk = options.storage.disk;
    this.#heard = new Heard(options.clock, null);
    this.runner = new FailoverRunner(this, options.clock, options.log);
  }

  /** The volumes of a changed configuration: what may join or grow. Everything else of it counts from the next start. */
  reload({ volumes }: GroupSettings): void {
    this.#configured = volumes;
  }

  get scanBytesPerSecond(): number | null {
    return this.#options.settings.scan.bytesPerSecond;
  }

  get name(): string {
    return this.#options.settings.name;
  }

  /** The site at the other end of this group. */
  get peer(): string {
    const { home, standby } = this.#options.settings;
    return home === this.#options.site ? standby : home;
  }

  /** True where a status line of a standby means something: there is one, or there should be. */
  get hasPart(): boolean {
    return (
      this.#document !== undefined ||
      this.#trouble !== null ||
      this.#options.settings.standby === this.#options.site
    );
  }

  /** Reads what is on disk and opens it. Trouble is kept and shown, never thrown. */
  async start(): Promise<void> {
    try {
      this.#heard = new Heard(this.#clock, await this.#readHeard());
      this.#document = await this.#readState();
    } catch (error) {
      this.#stopWith(error);
      return;
    }
    const document = this.#document;
    const progress = document?.failover?.progress ?? null;
    this.runner.startFrom(phaseFromDisk(document?.phase === "standing", progress));
    if (document?.phase === "standing" && progress !== "handed-over" && progress !== "adopted")
      await this.#exclusive(() => this.#reopen());
    this.runner.resume();
  }

  async #readHeard(): Promise<HeardRecord | null> {
    try {
      return (await readDocument(this.#disk, this.#paths.heard, parseHeardRecord)) ?? null;
    } catch (error) {
      this.#log.warn("HEARD_UNREADABLE", `what the owner last said is lost: ${errorText(error)}`);
      return null;
    }
  }

  /** The document; a hand-over record beside it counts even where a crash came before the document said so. */
  async #readState(): Promise<StandbyDocument | undefined> {
    const document = await readDocument(this.#disk, this.#paths.state, parseStandbyDocument);
    const { failover } = document ?? {};
    if (
      document === undefined ||
      failover == null ||
      failover.seal === null ||
      failover.progress !== "sealed"
    )
      return document;
    if ((await this.#readHandover()) === undefined) return document;
    return { ...document, failover: { ...failover, progress: "handed-over" } };
  }

  /** The hand-over record of the current token, if it was written. */
  async #readHandover(): Promise<HandoverRecord | undefined> {
    const record = await readDocument(this.#disk, this.#paths.handover, parseHandoverRecord);
    return record === undefined || record.token.epoch < (this.#document?.token.epoch ?? 0)
      ? undefined
      : record;
  }

  #stopWith(error: unknown): void {
    this.#trouble = { code: errorCode(error), message: errorText(error) };
    this.#log.error("STANDBY_STOPPED", "the standby is stopped", error);
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #reopen(): Promise<void> {
    const document = this.#document;
    if (document === undefined || this.#open !== undefined || this.#closing) return;
    try {
      // Whoever asks, and however late: images that were handed over are the agent's alone.
      if (document.failover?.seal != null && (await this.#readHandover()) !== undefined) return;
      this.#open = await OpenStandby.open({
        document,
        paths: this.#paths,
        limits: this.#options.limits,
        history: this.#options.settings.history,
        storage: this.#options.storage,
        clock: this.#clock,
        log: this.#log,
        incomplete: () => this.#document?.incomplete ?? null,
        volumes: () => this.#requireDocument().volumes,
        configuredBytes: (volume) => this.#configured.find(({ name }) => name === volume)?.sizeBytes,
        beforeStep: (frames, pin) => this.#declareContent(frames, pin),
        changeTable: (record, sequence, requireGoing) => this.#changeTable(record, sequence, requireGoing),
        onBroken: (error) => this.#break(error),
      });
      this.#trouble = null;
      this.#reopenMs = reopenMsMin;
    } catch (error) {
      this.#stopWith(error);
      if (!finalIntakeCodes.has(errorCode(error))) this.#reopenLater();
    }
  }

  /** The intake failed: nothing it says is believed until it was closed, opened and verified again. */
  #break(error: unknown): void {
    this.#stopWith(error);
    const why = { code: "INTAKE_REOPENING", message: "the intake log failed and is opened again" };
    // At once, so that no further answer rests on it.
    this.#open?.receiver.halt({ ...why, passing: true });
    this.#exclusive(async () => {
      await this.#closeOpen("abandon", why);
      this.#reopenLater();
    }).catch((cause: unknown) =>
      this.#log.error("STANDBY_CLOSE_FAILED", "closing the broken intake failed", cause),
    );
  }

  #reopenLater(): void {
    if (this.#closing) return;
    // Ends when it succeeds, finds the log damaged, or the gateway closes.
    this.#reopenTimer = this.#clock.after(this.#reopenMs, () => {
      this.#exclusive(() => this.#reopen()).catch((error: unknown) => this.#stopWith(error));
    });
    this.#reopenMs = Math.min(this.#reopenMs * 2, reopenMsMax);
  }

  async #closeOpen(how: "clean" | "abandon", why: Reason): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    await open?.close(how, why);
  }

  /** What this site knows, for an agent that has lost its memory: any trace counts as knowledge. */
  knowledge(): GroupKnowledge {
    const traces = [
      this.#paths.state,
      this.#paths.handover,
      agentGroupPaths(this.#options.dataDir, this.name).state,
    ];
    const known = this.#document !== undefined || traces.some((path) => this.#disk.exists(path));
    return { known, lineage: this.#document?.lineage ?? null, token: this.#document?.token ?? null };
  }

  hello(hello: Hello): Promise<HelloAnswer> {
    return this.#exclusive(() => this.#greet(hello));
  }

  async #greet(hello: Hello): Promise<HelloAnswer> {
    // A fenced owner must be told so whatever else is wrong here.
    if (this.#trouble !== null && this.#document?.failover == null) return this.#stoppedAnswer(this.#trouble);
    const verdict = judgeHello({
      hello,
      configured: this.#configured,
      document: this.#document,
      held: this.#open?.tableAtEnd,
      ownedHere:
        this.#disk.exists(agentGroupPaths(this.#options.dataDir, this.name).state) ||
        this.#disk.exists(this.#paths.handover),
      durable: this.#open?.intake.durable,
      applied: this.#open?.applier.appliedSequence ?? 0,
      lacks: lackOf(this.#incompleteAtEnd),
    });
    const answer = verdict.kind === "create" ? await this.#create(hello) : verdict.answer;
    if (verdict.kind === "answer" && answer !== retiredRefusal) this.#settleDispute(answer);
    if (answer.kind !== "attached" || hello.wanted === undefined) return answer;
    return { ...answer, wanted: await this.#judgeWanted(hello.wanted) };
  }

  /** Whether this standby could follow a change to the wanted table now. Changes nothing. */
  async #judgeWanted(wanted: readonly VolumeEntry[]): Promise<WantedAnswer> {
    const document = this.#requireDocument();
    const held = this.#open?.tableAtEnd ?? document.volumes;
    const judged = judgeWanted(wanted, this.#configured, held);
    if (judged !== "ready") return judged;
    const trouble = this.#trouble ?? this.#open?.applier.trouble ?? null;
    if (trouble !== null) return { code: trouble.code, message: trouble.message };
    return judgeImages(wanted, held, this.#options.storage.images, (volume) =>
      this.#imagePath(document, volume),
    );
  }

  /** Where the image of a volume lies, or will. */
  #imagePath(document: StandbyDocument, { number, name }: Pick<VolumeEntry, "number" | "name">): string {
    const held = document.volumes.find((each) => each.number === number);
    return held?.imagePath ?? imagePathOf(this.#group, document.token.owner, name, this.#paths);
  }

  /** The settings, with the volumes of the newest configuration. */
  get #group(): GroupSettings {
    return { ...this.#options.settings, volumes: this.#configured };
  }

  #settleDispute(answer: HelloAnswer | BatchAnswer): void {
    switch (answer.kind) {
      case "attached":
      case "acknowledged":
        this.#dispute = null;
        return;
      case "diverged": {
        const message = `the owner's history is not lineage ${answer.lineage} at sequence ${answer.durable.sequence}`;
        this.#dispute = { code: "DIVERGED", message };
        break;
      }
      case "conflict":
        this.#dispute = { code: "OWNER_CONFLICT", message: `two owners claim epoch ${answer.token.epoch}` };
        break;
      case "refused":
        this.#dispute = { code: answer.code, message: answer.message };
        break;
      default:
        return;
    }
    this.#log.error("OWNER_REFUSED", this.#dispute.message, undefined, { reason: this.#dispute.code });
  }

  async #create(hello: Hello): Promise<HelloAnswer> {
    const { limits, storage } = this.#options;
    try {
      const unfinished = this.#document;
      this.#document = await createStandby({
        group: this.#group,
        paths: this.#paths,
        hello,
        limits,
        unfinished,
        storage,
        clock: this.#clock,
        log: this.#log,
      });
    } catch (error) {
      // A half-made standby on disk is read back, so that the next greeting begins again from what is there.
      this.#document = await this.#readState();
      if (!(error instanceof OperationalError)) throw error;
      this.#log.error("STANDBY_CREATE_FAILED", "the standby could not be made", error);
      return { kind: "refused", code: error.code, message: errorText(error) };
    }
    this.#log.info("STANDBY_CREATED", "standby made", { lineage: hello.lineage, epoch: hello.token.epoch });
    this.runner.created();
    await this.#reopen();
    const { durable } = this.#open?.intake ?? {};
    if (durable === undefined) return this.#stoppedAnswer(this.#trouble);
    const lacks = lackOf(this.#incompleteAtEnd);
    return {
      kind: "attached",
      durable: { sequence: durable.sequence, chain: bytesToHex(durable.chain) },
      applied: this.#open?.applier.appliedSequence ?? 0,
      token: hello.token,
      ...(lacks === undefined ? {} : { lacks }),
    };
  }

  /** Once everything that was received is applied; what the document says where that is not known. */
  get #incompleteAtEnd(): Incomplete | null {
    return this.#open === undefined ? (this.#document?.incomplete ?? null) : this.#open.incompleteAtEnd;
  }

  /** What gaps and marks in a step say of the images as a whole, and of volumes whose content is still to come. */
  async #declareContent(frames: readonly Frame[], pin: () => Promise<void>): Promise<void> {
    const { incomplete: before, volumes: tableBefore } = this.#requireDocument();
    const incomplete = afterFrames(before, frames);
    const volumes = tableAfterContent(tableBefore, frames);
    if (sameCompleteness(before, incomplete) && volumes === tableBefore) return;
    // Survives a crash before the document says that it is needed: then there is a pin too many, which is given back.
    if (isOpenable(before, frames[0]!.first - 1) && incomplete?.until === null) await pin();
    await this.#writeAlone(async () => {
      const next: StandbyDocument = { ...this.#requireDocument(), incomplete, volumes };
      // Survives a crash before the step that makes it true touches the images: until then it and the old one both hold.
      await writeDocument(this.#disk, this.#paths.state, next);
      this.#document = next;
    });
    this.#log.info("COMPLETENESS", incomplete === null ? "complete" : "a scan has begun or is over", {
      ...incomplete,
    });
  }

  /** As in `ApplierOptions`. The order is the safety: image, document, and only then, elsewhere, the marker. */
  async #changeTable(
    record: VolumeChangeRecord,
    sequence: Sequence,
    requireGoing: () => void,
  ): Promise<boolean> {
    const document = this.#requireDocument();
    const change = decideChange(document.volumes, record, sequence);
    if (change.kind === "nothing") return false;
    if (change.kind === "refused") {
      throw new OperationalError({
        code: "VOLUME_CHANGE_REFUSED",
        message: `the change of the volume table at ${sequence} contradicts what is held: ${change.message}`,
        reaction: "stop",
        details: { sequence },
      });
    }
    const { name, sizeBytes } = change.volume;
    if (change.kind === "added") this.#requireConfigured(name, sizeBytes);
    const imagePath = this.#imagePath(document, change.volume);
    // Survives power loss before the document says that it is there; done again where a crash comes between.
    await makeImageOfChange(change, { images: this.#options.storage.images, path: imagePath, requireGoing });
    await this.#writeAlone(async () => {
      const now = this.#requireDocument();
      const next: StandbyDocument = {
        ...now,
        volumes: withVolume(now.volumes, { ...change.volume, imagePath }),
      };
      // Survives a crash before the marker passes the record: it is met again then, and says nothing new.
      await writeDocument(this.#disk, this.#paths.state, next);
      this.#document = next;
    });
    this.#log.info("VOLUME_CHANGED", `volume ${name} is ${change.kind}`, {
      ...{ volume: name, sequence, sizeBytes, wholeFrom: change.volume.wholeFrom },
    });
    return true;
  }

  /** An image at a path that nobody has chosen would be the wrong one for good. */
  #requireConfigured(name: string, sizeBytes: number): void {
    const configured = this.#configured.find((each) => each.name === name);
    if (configured !== undefined && configured.sizeBytes >= sizeBytes) return;
    throw new OperationalError({
      code: "VOLUME_NOT_CONFIGURED",
      message: `volume ${name} of ${sizeBytes} bytes joins the group, and is not in this site's configuration so`,
      reaction: "retry",
      hint: "Give this site the owner's configuration and reload it; applying goes on by itself.",
    });
  }

  #writeAlone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#writing.then(work);
    this.#writing = result.catch(() => undefined);
    return result;
  }

  #stoppedAnswer(trouble: Reason | null) {
    return {
      kind: "refused",
      code: trouble?.code ?? "STANDBY_STOPPED",
      message: trouble?.message ?? "the standby is not open",
    } as const;
  }

  /** One batch: what its header already decides is answered before the body is read. */
  async batch(request: HttpRequest, sender: string): Promise<HttpAnswer> {
    const header = decodeBatchHeader(await request.take(batchHeaderBytes));
    const foreign = refuseForeignToken(header.token, sender);
    if (foreign !== undefined) return foreign;
    const early = this.#answerWithoutIntake(header);
    if (early !== undefined) return { status: 200, json: early, early: true };
    const open = this.#open;
    if (open === undefined) {
      const busy: BatchAnswer = {
        kind: "busy",
        code: "STANDBY_OPENING",
        message: "the intake is being opened",
        retryAfterMs: reopenMsMin,
      };
      return { status: 200, json: busy, early: true };
    }
    return open.receiver.offer(request, header);
  }

  /** For a standby that is not there, handed over or stopped. */
  #answerWithoutIntake(header: BatchHeader): BatchAnswer | undefined {
    const document = this.#document;
    const token = document?.failover == null ? undefined : judgeToken(header.token, document.token);
    if (token !== undefined && this.#open === undefined) return token;
    if (document?.retired != null) return judgeToken(header.token, document.token) ?? retiredRefusal;
    if (this.#trouble !== null) return this.#stoppedAnswer(this.#trouble);
    if (document?.phase !== "standing")
      return { kind: "refused", code: "STANDBY_UNKNOWN", message: "no standby here; greet first" };
    return undefined;
  }

  /** The answer to who is not the owner of this standby's history; undefined: it is. */
  #answerForeign(lineage: Lineage, sent: Token) {
    const document = this.#document;
    if (document === undefined || document.phase === "creating") {
      return this.#trouble === null ? ({ kind: "unknown" } as const) : this.#stoppedAnswer(this.#trouble);
    }
    const token = judgeToken(sent, document.token);
    if (token !== undefined) return token;
    if (lineage === document.lineage) return document.retired === null ? undefined : retiredRefusal;
    const message = `lineage ${document.lineage} is held here`;
    return { kind: "refused", code: "LINEAGE_FOREIGN", message } satisfies Refusal;
  }

  /** What a scan's digests have shown. The owner relies on nothing else, and asks again after any refusal. */
  scan(ask: ScanAsk): ScanAnswer {
    const foreign = this.#answerForeign(ask.lineage, ask.token);
    if (foreign !== undefined) return foreign;
    const applier = this.#open?.applier;
    return (
      applier?.findings?.collect(ask.after) ?? this.#stoppedAnswer(this.#trouble ?? applier?.trouble ?? null)
    );
  }

  /** The check of our before-images that belongs to a verify of the owner; begins it, and is asked until it has ended. */
  historyCheck(ask: HistoryAsk): Promise<HistoryCheckAnswer> {
    const digest = ask.digestAt === undefined ? undefined : { group: this.name, end: ask.digestAt };
    return this.#askedOfPast(ask, (past) => past.checkFor(ask.after, this.scanBytesPerSecond, digest));
  }

  /** What the open past answers to the owner; a refusal where there is none, or it fails. */
  async #askedOfPast<Answer>(ask: ScanAsk, answer: (past: Past) => Promise<Answer>) {
    const foreign = this.#answerForeign(ask.lineage, ask.token);
    if (foreign !== undefined) return foreign;
    const past = this.past;
    if (past === undefined) return this.#stoppedAnswer(this.#trouble ?? this.#open?.applier.trouble ?? null);
    try {
      return await answer(past);
    } catch (error) {
      return { kind: "refused", code: errorCode(error), message: errorText(error) } satisfies Refusal;
    }
  }

  /** Keeps the newest point before the owner's repair replaces what we hold; named by the verify, so once for each. */
  pinBeforeRepair(ask: StandbyPinAsk): Promise<StandbyPinAnswer> {
    return this.#askedOfPast(ask, (past) => this.#pinFor(ask, past));
  }

  async #pinFor(ask: StandbyPinAsk, past: Past): Promise<StandbyPinAnswer> {
    const pins = past.status?.pins ?? [];
    const id = `repair-${ask.after}`;
    const known = pins.find((pin) => pin.id === id);
    if (known !== undefined) return { kind: "pinned", id, sequence: known.sequence };
    if (pins.filter((pin) => pin.id.startsWith("repair-")).length >= repairPinsMax) {
      const message = `${repairPinsMax} points from before repairs are pinned already; unpin them first`;
      return { kind: "refused", code: "PINS_FULL", message };
    }
    try {
      const { sequence } = await past.pin(() => id, { kind: "latest" }, "before a repair");
      return { kind: "pinned", id, sequence };
    } catch (error) {
      if (errorCode(error) === "POINTS_NONE") return { kind: "none" };
      throw error;
    }
  }

  heartbeat(heartbeat: Heartbeat): HeartbeatAnswer {
    const foreign = this.#answerForeign(heartbeat.lineage, heartbeat.token);
    if (foreign !== undefined) return foreign;
    const open = this.#open;
    if (open === undefined) return this.#stoppedAnswer(this.#trouble);
    const applied = open.applier.appliedSequence;
    this.#heard.take(heartbeat, applied);
    if (this.#heard.dueToPersist()) this.#persistHeard();
    const stopped = this.#trouble?.code ?? open.applier.trouble?.code ?? null;
    return { kind: "alive", durable: open.intake.durable.sequence, applied, stopped };
  }

  #persistHeard(): void {
    // One after the other: two writings of one document would take each other's new file away.
    this.#heardWriting = this.#heardWriting
      .then(() => writeDocument(this.#disk, this.#paths.heard, this.#heard.record))
      .catch((error: unknown) => {
        this.#log.warn("HEARD_NOT_WRITTEN", `what the owner said is not on disk: ${errorText(error)}`);
      });
  }

  /** What the images hold for certain while they are closed: before the hand-over they may lack what is sealed. */
  get #handedOver(): Seal | undefined {
    const failover = this.#document?.failover;
    const over = failover?.progress === "handed-over" || failover?.progress === "adopted";
    return over ? (failover.seal ?? undefined) : undefined;
  }

  /** What the standby can go back to; undefined while its images are closed, and for ever once they are handed over. */
  get past(): Past | undefined {
    return this.#open?.past;
  }

  status(): StandbyStatus {
    const { settings, limits } = this.#options;
    const open = this.#open;
    const applied = open === undefined ? this.#handedOver : open.applier.applied;
    const facts: StatusFacts = {
      group: this.name,
      owner: this.#document?.token.owner ?? this.peer,
      document: this.#document,
      phase: this.runner.phase,
      trouble:
        this.#trouble ?? open?.applier.trouble ?? (this.#document?.retired == null ? this.#dispute : null),
      heard: this.#heard.record,
      paused: this.#heard.paused,
      retired: retiredStatus(this.#document, this.#paths),
      silenceMs: this.#heard.silenceMs(),
      isBehind: this.#heard.isBehind(open?.applier.appliedSequence ?? 0),
      intake: open && {
        received: open.intake.tail.sequence,
        durable: open.intake.durable.sequence,
        bytes: open.intake.bytes,
      },
      intakeBytesMax: limits.bytesMax,
      applied: applied ?? undefined,
      before: open?.before,
      history: open?.past?.status ?? null,
      historyBytesMax: settings.history.bytesMax,
      volumes: this.#volumeStatus(applied?.sequence ?? 0),
    };
    const condition = judgeCondition(facts);
    const code = condition.reason?.code ?? null;
    if (this.#remembered.state !== condition.state || this.#remembered.code !== code) {
      this.#remembered = { state: condition.state, code, sinceMs: this.#clock.wallMs() };
      this.#log.info("STANDBY_STATE", `standby is ${condition.state}`, {
        state: condition.state,
        reason: code,
      });
    }
    return describeStandby(facts, condition, this.#remembered.sinceMs);
  }

  /** As the table has them; before there is one, as they are configured. */
  #volumeStatus(applied: Sequence): VolumeStatus[] {
    const document = this.#document;
    if (document === undefined)
      return this.#configured.map(({ name, sizeBytes }) => ({ volume: name, sizeBytes, wholeFrom: 0 }));
    return document.volumes.map((volume) => ({
      volume: volume.name,
      sizeBytes: volume.sizeBytes,
      // Known from when its end was seen; true from when that is applied.
      wholeFrom: isWholeAt(volume, applied) ? volume.wholeFrom : null,
    }));
  }

  plan(): FailoverPlan {
    const open = this.#open;
    return planFailover({
      group: this.name,
      site: this.#options.site,
      oldOwner: this.peer,
      document: this.#document,
      phase: this.runner.phase,
      end: open?.end,
      before: open?.before && sealAt(open.before),
      applied: open?.applier.applied ?? this.#handedOver,
      incomplete: this.#incompleteAtEnd,
      table: open?.tableAtEnd ?? this.#document?.volumes ?? [],
      trouble: this.#trouble ?? open?.applier.trouble ?? null,
      heard: this.#heard.record,
      silenceMs: this.#heard.silenceMs(),
      retired: this.#retiring || this.#document?.retired != null,
      agent: this.#options.target !== null,
    });
  }

  /** What `retire` would do, and what stands against it. */
  get retirePlan(): RetirePlan {
    const open = this.#open;
    return planRetire({
      group: this.name,
      site: this.#options.site,
      document: this.#document,
      paths: this.#paths,
      end: open?.end,
      before: open?.before && sealAt(open.before),
      incomplete: this.#incompleteAtEnd,
      trouble: this.#trouble ?? open?.applier.trouble ?? null,
      silenceMs: this.#heard.silenceMs(),
      isFailoverRunning: isRunning(this.runner.phase),
    });
  }

  /**
   * Operator's order to end the standby's life (docs/group-life.md). Settles when the images are where they end; what is
   * retired already is brought there. OperationalErrors (`refuse`) of the checks; those of the intake and of apply.
   */
  async retire(order: RetireRequest): Promise<RetiredStatus> {
    if (this.#document?.retired == null) await this.#exclusive(() => this.#sealForEver(order));
    const { seal } = this.#document?.retired ?? {};
    const chain = seal === undefined ? undefined : bytesFromHex(seal.chain);
    const status = retiredStatus(this.#document, this.#paths);
    if (seal === undefined || chain === undefined || status === null)
      throw new TypeError("retired at a seal");
    const { sequence } = seal;
    await (await this.#requireOpen()).applier.bringTo({ sequence, chain });
    return status;
  }

  async #sealForEver({ by, reason, force }: RetireRequest): Promise<void> {
    const open = this.#open;
    requireRetirable(this.retirePlan, force, retireAdvice);
    if (open === undefined) throw new TypeError("checked as open");
    // Between this look and the document no failover begins.
    this.#retiring = true;
    try {
      const { code, message } = retiredRefusal;
      open.receiver.halt({ code, message, passing: true });
      await open.receiver.appendEnded();
      await open.intake.sync();
      // The last batch may have brought the begin of a scan, or a gap.
      requireRetirable(this.retirePlan, force, retireAdvice);
      const { seal } = await this.#sealedEnd(open);
      if (seal === null) throw notConsistent(this.#incompleteAtEnd);
      const loss = this.retirePlan.loss;
      await this.#writeAlone(async () => {
        const order = standingOrder({ by, reason }, this.#clock.wallMs());
        const next = { ...this.#requireDocument(), retired: { ...order, seal, loss } };
        // Survives a crash from here on: nothing is taken from anybody, and the images end exactly there.
        await writeDocument(this.#disk, this.#paths.state, next);
        this.#document = next;
      });
      this.#log.warn("STANDBY_RETIRED", "the standby takes nothing any more; nothing is deleted", {
        by,
        reason,
      });
    } catch (error) {
      // What was halted takes no batch any more: opened anew, the standby goes on as if nothing had been ordered.
      await this.#closeOpen("abandon", { code: "RETIRE_FAILED", message: errorText(error) });
      await this.#reopen();
      throw error;
    } finally {
      this.#retiring = false;
    }
  }

  raiseToken(reason: string): Promise<void> {
    return this.#writeAlone(() => this.#raiseToken(reason));
  }

  async #raiseToken(reason: string): Promise<void> {
    const before = this.#requireDocument();
    const failover: FailoverDocument = {
      progress: "fenced",
      previous: before.token,
      reason,
      startedAtMs: this.#clock.wallMs(),
      heard: this.#heard.record,
      seal: null,
      received: null,
    };
    const document: StandbyDocument = {
      ...before,
      token: { epoch: before.token.epoch + 1, owner: this.#options.site },
      failover,
    };
    try {
      // Survives a crash from here on: the old owner is fenced for ever and the run can only be finished.
      await writeDocument(this.#disk, this.#paths.state, document);
    } catch (error) {
      // It may or may not be on disk. The old document is put back, so that a restart does not finish what was
      // reported as not begun; where that fails too, what was acknowledged meanwhile is still before any seal.
      await writeDocument(this.#disk, this.#paths.state, before).catch((cause: unknown) =>
        this.#log.error("STATE_NOT_RESTORED", "the old state could not be written back", cause),
      );
      throw error;
    }
    // While it was written the owner was still listened to: what it said until now belongs to the loss (promise 3). The
    // seal takes it to disk; a crash before that states the loss since the older contact, which is as true.
    this.#document = { ...document, failover: { ...failover, heard: this.#heard.record } };
  }

  async drainAndSeal(): Promise<void> {
    const open = await this.#requireOpen();
    await open.receiver.fence(this.#requireDocument().token);
    // Everything acknowledged is in the log; what was only appended joins it. Nothing can be appended any more.
    const durable = await open.intake.sync();
    if (durable.sequence !== open.intake.tail.sequence)
      throw new RangeError("the intake grew behind the fence");
    const end = await this.#sealedEnd(open);
    // Survives a crash: the same seal is applied, or taken back to, and handed over, whatever happens in between.
    await this.#writeFailover({ progress: "sealed", ...end });
  }

  /** The end of what was received; the last point before it where the images could not be opened there. */
  async #sealedEnd(open: OpenStandby): Promise<Pick<FailoverDocument, "seal" | "received">> {
    const { end, incompleteAtEnd } = open;
    if (isOpenable(incompleteAtEnd, end.sequence)) return { seal: end, received: null };
    const { trouble } = open.applier;
    // While the images are closed it is not known what they can be taken back to.
    if (trouble !== null)
      throw new OperationalError({ code: trouble.code, message: trouble.message, reaction: "refuse" });
    const target = open.before;
    // A step under way may go beyond it; behind it nothing is decided by what is still going on.
    if (target !== undefined) await open.applier.holdAt(target.sequence);
    const point = open.before;
    if (point === undefined || point.sequence !== target?.sequence) throw notConsistent(incompleteAtEnd);
    const { sequence, dataBytesTotal } = end;
    return { seal: sealAt(point), received: { sequence, dataBytesTotal } };
  }

  async applyToSeal(progress: (done: number, total: number) => void): Promise<void> {
    const seal = this.#requireSeal();
    // An earlier attempt wrote the record without learning that it had: the images are not ours any more.
    if ((await this.#readHandover()) !== undefined) return;
    const open = await this.#requireOpen();
    const chain = bytesFromHex(seal.chain);
    if (chain === undefined) throw new TypeError("a seal has a chain value");
    const records = Math.max(0, seal.sequence - open.applier.appliedSequence);
    await open.applier.bringTo({ sequence: seal.sequence, chain });
    progress(records, records);
    const { applied } = open.applier;
    if (applied?.sequence !== seal.sequence || !bytesEqual(applied.chain, chain)) {
      throw new OperationalError({
        code: "IMAGE_DIVERGED",
        message: "the images are not at the seal",
        reaction: "stop",
      });
    }
  }

  async recordHandover(): Promise<void> {
    const document = this.#requireDocument();
    const seal = this.#requireSeal();
    const why = { code: "FAILOVER_RUNNING", message: "the group is handed over" };
    const record = handoverOf(document, seal, this.#paths.history);
    await this.#exclusive(async () => {
      // Closed before the record exists, and not opened in between: from then on the images are the agent's alone.
      await this.#closeOpen("clean", why);
      // Survives a crash: whoever starts next finds that the agent owns images and history from here on.
      await writeDocument(this.#disk, this.#paths.handover, record);
    });
    await this.#writeFailover({ progress: "handed-over" });
  }

  async adopt(): Promise<readonly AdoptedExport[]> {
    const { target } = this.#options;
    const record = await this.#readHandover();
    if (target === null || record === undefined) {
      throw new OperationalError({
        code: target === null ? "AGENT_MISSING" : "HANDOVER_MISSING",
        message: target === null ? "there is no agent at this site" : "the hand-over record is gone",
        reaction: "refuse",
        hint: "Start the agent role of this site, then run the failover again.",
      });
    }
    return target.adopt(record);
  }

  async report(run: {
    readonly plan: FailoverPlan;
    readonly steps: readonly StepTiming[];
    readonly durationMs: number;
    readonly exports: readonly AdoptedExport[];
  }): Promise<FailoverResult> {
    const { token, lineage, failover, volumes } = this.#requireDocument();
    const seal = this.#requireSeal();
    const evidence = evidencePath(this.#options.dataDir, `failover-${this.name}-${token.epoch}`);
    const result: FailoverResult = {
      group: this.name,
      epoch: token.epoch,
      point: { sequence: seal.sequence, time: rfc3339(seal.timeMs) },
      loss: stateLoss(failover?.heard ?? null, seal, failover?.received ?? null),
      durationMs: run.durationMs,
      exports: run.exports,
      leftOut: leftOutAt(volumes, seal),
      evidence,
    };
    await this.#disk.makeDirectory(dirname(evidence));
    await syncDirectory(this.#disk, dirname(dirname(evidence)));
    await writeDocument(this.#disk, evidence, {
      kind: "failover",
      site: this.#options.site,
      lineage,
      fenced: failover?.previous ?? null,
      token,
      reason: failover?.reason ?? "",
      startedAt: rfc3339(failover?.startedAtMs ?? 0),
      finishedAt: rfc3339(this.#clock.wallMs()),
      seal: { ...seal, time: rfc3339(seal.timeMs) },
      received: failover?.received ?? null,
      lastHeard: failover?.heard ?? null,
      checks: run.plan.checks,
      steps: run.steps,
      result,
    });
    await this.#writeFailover({ progress: "adopted" });
    return result;
  }

  #writeFailover(change: FailoverChange): Promise<void> {
    return this.#writeAlone(() => this.#writeProgress(change));
  }

  async #writeProgress(change: FailoverChange): Promise<void> {
    const document = this.#requireDocument();
    if (document.failover === null) throw new TypeError("no failover under way");
    const next: StandbyDocument = { ...document, failover: { ...document.failover, ...change } };
    await writeDocument(this.#disk, this.#paths.state, next);
    this.#document = next;
  }

  #requireDocument(): StandbyDocument {
    if (this.#document === undefined) throw new TypeError(`no standby of ${this.name}`);
    return this.#document;
  }

  #requireSeal(): Seal {
    const seal = this.#requireDocument().failover?.seal;
    if (seal == null) throw new TypeError("not sealed");
    return seal;
  }

  /** The open standby; opens it when an earlier attempt left it closed. */
  async #requireOpen(): Promise<OpenStandby> {
    await this.#exclusive(() => this.#reopen());
    if (this.#open !== undefined) return this.#open;
    const why = this.#trouble ?? { code: "STANDBY_STOPPED", message: "the standby is closed" };
    throw new OperationalError({ code: why.code, message: why.message, reaction: "refuse" });
  }

  /** Lets a failover step under way end, then closes what is open. What was not finished resumes at the next start. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#reopenTimer?.cancel();
    const why = { code: "GATEWAY_CLOSING", message: "the gateway is stopping" };
    await this.#exclusive(() => this.#closeOpen(this.#trouble === null ? "clean" : "abandon", why));
    await this.runner.idle();
    await this.#heardWriting;
    if (this.#heard.silenceMs() !== null && this.#document !== undefined)
      await writeDocument(this.#disk, this.#paths.heard, this.#heard.record);
  }
}

type FailoverChange = Pick<FailoverDocument, "progress"> &
  Partial<Pick<FailoverDocument, "seal" | "received">>;

function sealAt({ sequence, chain, dataBytesTotal, timeMs }: AppliedPosition): Seal {
  return { sequence, chain: bytesToHex(chain), dataBytesTotal, timeMs };
}

function notConsistent(incomplete: Incomplete | null): OperationalError {
  return new OperationalError({
    code: "NOT_CONSISTENT",
    message: incomplete === null ? "nothing can be opened" : describeIncomplete(incomplete),
    reaction: "refuse",
    hint: "The images lack content that only the old owner's site has; take it from there.",
  });
}
