/**
 * The standby of one group at this site, from its first greeting to its hand-over: puts its parts together, and answers for
 * it. One group's trouble stays in its object. What is durable is the parts' (`kept-document.ts`, `opening.ts`, `greeting.ts`,
 * `failover/steps.ts`, `retirement.ts`); this decides nothing that they decide, and writes nothing.
 */
import type { Past } from "../image/past.ts";
import type { FailoverPlan } from "../protocol/admin.ts";
import { batchHeaderBytes, decodeBatchHeader } from "../protocol/batch.ts";
import type {
  GroupKnowledge,
  Heartbeat,
  HeartbeatAnswer,
  Hello,
  HelloAnswer,
  Refusal,
  ScanAnswer,
  ScanAsk,
} from "../protocol/control.ts";
import type { HandoverTarget } from "../protocol/handover.ts";
import type { HistoryAsk, HistoryCheckAnswer } from "../protocol/history-check.ts";
import type { Sequence } from "../protocol/ids.ts";
import type { RetiredStatus, RetirePlan, RetireRequest } from "../protocol/retirement.ts";
import type { StandbyPinAnswer, StandbyPinAsk } from "../protocol/standby-pin.ts";
import type { StandbyStatus, VolumeStatus } from "../protocol/status.ts";
import { isWholeAt } from "../protocol/table-volume.ts";
import type { Clock } from "../runtime/clock.ts";
import { errorCode, errorText } from "../runtime/errors.ts";
import type { HttpAnswer, HttpRequest } from "../runtime/http.ts";
import type { Log } from "../runtime/log.ts";
import { agentGroupPaths, type GatewayGroupPaths, gatewayGroupPaths } from "../runtime/paths.ts";
import type { GroupSettings } from "../runtime/settings/types.ts";
import { isRunning, phaseFromDisk } from "./failover/machine.ts";
import { planFailover } from "./failover/plan.ts";
import { FailoverRunner } from "./failover/runner.ts";
import { FailoverSteps } from "./failover/steps.ts";
import { Greeting } from "./greeting.ts";
import { HeardFile } from "./heard-file.ts";
import type { IntakeLimits } from "./intake-options.ts";
import { KeptDocument } from "./kept-document.ts";
import { Opening } from "./opening.ts";
import { refuseForeignToken } from "./receive/admission.ts";
import { answerForeign, answerWithoutIntake, stoppedAnswer } from "./receive/answers.ts";
import { pinBeforeRepair } from "./repair-pin.ts";
import { planRetire } from "./retire.ts";
import { Retirement } from "./retirement.ts";
import { declareContent } from "./scan/declare-content.ts";
import { sealAt } from "./seal.ts";
import type { Seal } from "./state.ts";
import { describeStandby, judgeCondition, type StatusFacts } from "./status.ts";
import type { StandbyStorage } from "./storage.ts";
import { changeTable } from "./volumes/change-table.ts";

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

export class StandbyGroup {
  /** What the runner orders; each step may be done again. */
  readonly failover: FailoverSteps;
  readonly runner: FailoverRunner;
  readonly #options: StandbyGroupOptions;
  readonly #paths: GatewayGroupPaths;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #kept: KeptDocument;
  readonly #opening: Opening;
  readonly #heard: HeardFile;
  readonly #greeting: Greeting;
  readonly #retirement: Retirement;
  /** Volumes as this site's configuration has them now. */
  #configured: GroupSettings["volumes"];
  #remembered: { state: string; code: string | null; sinceMs: number } = {
    state: "",
    code: null,
    sinceMs: 0,
  };

  constructor(options: StandbyGroupOptions) {
    const { site, dataDir, settings, limits, target, storage, clock, log } = options;
    const paths = gatewayGroupPaths(dataDir, settings.name);
    this.#options = options;
    this.#configured = settings.volumes;
    this.#paths = paths;
    this.#log = log;
    this.#clock = clock;
    const kept = new KeptDocument(storage.disk, paths, log);
    const heard = new HeardFile(storage.disk, paths.heard, clock, log);
    const opening = new Opening(kept, {
      ...{ paths, limits, history: settings.history, storage, clock, log },
      configuredBytes: (volume) => this.#configured.find(({ name }) => name === volume)?.sizeBytes,
      beforeStep: (frames, pin) => declareContent(kept, frames, pin, log),
      changeTable: (record, sequence, requireGoing) => {
        const world = { kept, images: storage.images, paths, group: this.#group, log };
        return changeTable(world, record, sequence, requireGoing);
      },
    });
    this.#kept = kept;
    this.#heard = heard;
    this.#opening = opening;
    this.#greeting = new Greeting({
      ...{ paths, limits, storage, clock, log, kept, opening },
      group: () => this.#group,
      agentState: agentGroupPaths(dataDir, settings.name).state,
      created: () => this.runner.created(),
    });
    this.#retirement = new Retirement({
      ...{ paths, clock, log, kept, opening },
      plan: () => this.retirePlan,
    });
    this.failover = new FailoverSteps({
      ...{ group: settings.name, site, dataDir, paths, disk: storage.disk, clock, target },
      ...{ kept, opening, heard },
      plan: () => this.plan(),
    });
    this.runner = new FailoverRunner(this.failover, clock, log);
  }

  /** The volumes of a changed configuration: what may join or grow. Everything else of it counts from the next start. */
  reload({ volumes }: GroupSettings): void {
    this.#configured = volumes;
  }

  /** The settings, with the volumes of the newest configuration. */
  get #group(): GroupSettings {
    return { ...this.#options.settings, volumes: this.#configured };
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
      this.#kept.now !== undefined ||
      this.#opening.trouble !== null ||
      this.#options.settings.standby === this.#options.site
    );
  }

  /** Reads what is on disk and opens it. Trouble is kept and shown, never thrown. */
  async start(): Promise<void> {
    const opening = this.#opening;
    try {
      await this.#heard.read();
      await this.#kept.read();
    } catch (error) {
      opening.stopWith(error);
      return;
    }
    const document = this.#kept.now;
    const progress = document?.failover?.progress ?? null;
    this.runner.startFrom(phaseFromDisk(document?.phase === "standing", progress));
    if (document?.phase === "standing" && progress !== "handed-over" && progress !== "adopted")
      await opening.exclusive(() => opening.open());
    this.runner.resume();
  }

  /** Lets a failover step under way end, then closes what is open. What was not finished resumes at the next start. */
  async close(): Promise<void> {
    await this.#opening.end();
    await this.runner.idle();
    await this.#heard.end(this.#kept.now !== undefined);
  }

  /** What this site knows, for an agent that has lost its memory: any trace counts as knowledge. */
  knowledge(): GroupKnowledge {
    const { disk } = this.#options.storage;
    const document = this.#kept.now;
    const traces = [
      this.#paths.state,
      this.#paths.handover,
      agentGroupPaths(this.#options.dataDir, this.name).state,
    ];
    const known = document !== undefined || traces.some((path) => disk.exists(path));
    return { known, lineage: document?.lineage ?? null, token: document?.token ?? null };
  }

  hello(hello: Hello): Promise<HelloAnswer> {
    return this.#greeting.answer(hello);
  }

  /** One batch: what its header already decides is answered before the body is read. */
  async batch(request: HttpRequest, sender: string): Promise<HttpAnswer> {
    const header = decodeBatchHeader(await request.take(batchHeaderBytes));
    const foreign = refuseForeignToken(header.token, sender);
    if (foreign !== undefined) return foreign;
    const open = this.#opening.now;
    const early = answerWithoutIntake(header, this.#answerFacts, open !== undefined);
    if (early !== undefined) return { status: 200, json: early, early: true };
    if (open === undefined) throw new TypeError("answered without it");
    return open.receiver.offer(request, header);
  }

  get #answerFacts() {
    return { document: this.#kept.now, trouble: this.#opening.trouble };
  }

  /** What a scan's digests have shown. The owner relies on nothing else, and asks again after any refusal. */
  scan(ask: ScanAsk): ScanAnswer {
    const foreign = answerForeign(ask.lineage, ask.token, this.#answerFacts);
    if (foreign !== undefined) return foreign;
    return this.#opening.now?.applier.findings?.collect(ask.after) ?? stoppedAnswer(this.#opening.anyTrouble);
  }

  /** The check of our before-images that belongs to a verify of the owner; begins it, and is asked until it has ended. */
  historyCheck(ask: HistoryAsk): Promise<HistoryCheckAnswer> {
    const digest = ask.digestAt === undefined ? undefined : { group: this.name, end: ask.digestAt };
    return this.#askedOfPast(ask, (past) => past.checkFor(ask.after, this.scanBytesPerSecond, digest));
  }

  pinBeforeRepair(ask: StandbyPinAsk): Promise<StandbyPinAnswer> {
    return this.#askedOfPast(ask, (past) => pinBeforeRepair(past, ask.after));
  }

  /** What the open past answers to the owner; a refusal where there is none, or it fails. */
  async #askedOfPast<Answer>(ask: ScanAsk, answer: (past: Past) => Promise<Answer>) {
    const foreign = answerForeign(ask.lineage, ask.token, this.#answerFacts);
    if (foreign !== undefined) return foreign;
    const past = this.past;
    if (past === undefined) return stoppedAnswer(this.#opening.anyTrouble);
    try {
      const answered = await answer(past);
      // A failover may have fenced the sender meanwhile, and told it so: nothing is taken from it any more (X2).
      return answerForeign(ask.lineage, ask.token, this.#answerFacts) ?? answered;
    } catch (error) {
      return { kind: "refused", code: errorCode(error), message: errorText(error) } satisfies Refusal;
    }
  }

  heartbeat(heartbeat: Heartbeat): HeartbeatAnswer {
    const foreign = answerForeign(heartbeat.lineage, heartbeat.token, this.#answerFacts);
    if (foreign !== undefined) return foreign;
    const open = this.#opening.now;
    if (open === undefined) return stoppedAnswer(this.#opening.trouble);
    const applied = open.applier.appliedSequence;
    this.#heard.take(heartbeat, applied);
    const stopped = this.#opening.anyTrouble?.code ?? null;
    return { kind: "alive", durable: open.intake.durable.sequence, applied, stopped };
  }

  /** What the standby can go back to; undefined while its images are closed, and for ever once they are handed over. */
  get past(): Past | undefined {
    return this.#opening.now?.past;
  }

  /** What `retire` would do, and what stands against it. */
  get retirePlan(): RetirePlan {
    const open = this.#opening.now;
    return planRetire({
      group: this.name,
      site: this.#options.site,
      document: this.#kept.now,
      paths: this.#paths,
      end: open?.end,
      before: open?.before && sealAt(open.before),
      incomplete: this.#opening.incompleteAtEnd,
      trouble: this.#opening.anyTrouble,
      silenceMs: this.#heard.now.silenceMs(),
      isFailoverRunning: isRunning(this.runner.phase),
    });
  }

  /** Operator's order to end the standby's life. See `Retirement.retire`. */
  retire(order: RetireRequest): Promise<RetiredStatus> {
    return this.#retirement.retire(order);
  }

  /** What a failover would do, and what stands against it. */
  plan(): FailoverPlan {
    const open = this.#opening.now;
    return planFailover({
      group: this.name,
      site: this.#options.site,
      oldOwner: this.peer,
      document: this.#kept.now,
      phase: this.runner.phase,
      end: open?.end,
      before: open?.before && sealAt(open.before),
      applied: open?.applier.applied ?? this.#handedOver,
      incomplete: this.#opening.incompleteAtEnd,
      table: open?.tableAtEnd ?? this.#kept.now?.volumes ?? [],
      trouble: this.#opening.anyTrouble,
      heard: this.#heard.now.record,
      silenceMs: this.#heard.now.silenceMs(),
      retired: this.#retirement.hasBegun,
      agent: this.#options.target !== null,
    });
  }

  /** What the images hold for certain while they are closed: before the hand-over they may lack what is sealed. */
  get #handedOver(): Seal | undefined {
    const failover = this.#kept.now?.failover;
    const over = failover?.progress === "handed-over" || failover?.progress === "adopted";
    return over ? (failover.seal ?? undefined) : undefined;
  }

  status(): StandbyStatus {
    const { settings, limits } = this.#options;
    const document = this.#kept.now;
    const open = this.#opening.now;
    const heard = this.#heard.now;
    const applied = open === undefined ? this.#handedOver : open.applier.applied;
    const facts: StatusFacts = {
      group: this.name,
      owner: document?.token.owner ?? this.peer,
      document,
      phase: this.runner.phase,
      trouble: this.#opening.anyTrouble ?? (document?.retired == null ? this.#greeting.dispute : null),
      heard: heard.record,
      paused: heard.paused,
      retired: this.#retirement.status,
      silenceMs: heard.silenceMs(),
      isBehind: heard.isBehind(open?.applier.appliedSequence ?? 0),
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
    const document = this.#kept.now;
    if (document === undefined)
      return this.#configured.map(({ name, sizeBytes }) => ({ volume: name, sizeBytes, wholeFrom: 0 }));
    return document.volumes.map((volume) => ({
      volume: volume.name,
      sizeBytes: volume.sizeBytes,
      // Known from when its end was seen; true from when that is applied.
      wholeFrom: isWholeAt(volume, applied) ? volume.wholeFrom : null,
    }));
  }
}
