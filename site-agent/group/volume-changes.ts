/**
 * The life of a change of a group's volume table at its owner: asked for by the configuration, waits until it may be made,
 * makes the files ready beside the running group, and puts its records into the write order (docs/volumes.md). One at a time.
 * What it has written down is brought to its end by the next opening, which reads the journal; so a crash and the ordinary
 * way end alike. Must never let a table be served whose records are not durable.
 */
import type { FrameLog } from "../../journal/frame-log.ts";
import type { WantedAnswer } from "../../protocol/control.ts";
import { volumeChangeOf } from "../../protocol/frame.ts";
import type { Sequence, VolumeEntry } from "../../protocol/ids.ts";
import type { Reason, VolumeChangeStatus } from "../../protocol/status.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { ToldTable } from "../ship/shipper.ts";
import type { Entrance } from "../write-path/entrance.ts";
import type { FilesSettings } from "./files.ts";
import type { AgentGroupState } from "./state.ts";
import { toldTable } from "./told-table.ts";
import type { RefusalCode, VolumeDecision, VolumeStep, WantedVolume } from "./volume-decision.ts";
import { decideVolumes } from "./volume-decision.ts";
import { readyFiles } from "./volume-files.ts";
import type { ChangingVolume, FoundChange, VolumeIntent } from "./volume-intent.ts";
import { recordsOf, tableWith } from "./volume-intent.ts";

/** What a change waits for is looked at again this often, ms: the standby is prepared by hand, a resync ends. */
const lookAgainMs = 5_000;
/** After images that could not be made ready, ms: looking into a device may be long, and an operator mends it. */
const failedAgainMs = 30_000;
/** One read of the journal while the records of a change are looked for, body bytes. */
const searchBytes = 4 * 1024 * 1024;

export interface VolumeChangesWorld {
  readonly group: string;
  readonly files: Pick<FilesSettings, "disk" | "images" | "log">;
  readonly entrance: Entrance;
  readonly clock: Clock;
  readonly log: Log;
  /** Queues a life-cycle step of the group. */
  readonly step: (run: () => Promise<void>) => Promise<void>;
  readonly state: () => AgentGroupState | undefined;
  /** Survives power loss when it settles. */
  readonly save: (state: AgentGroupState) => Promise<void>;
  /** The journal while the group is served; null: it is not. */
  readonly journal: () => FrameLog | null;
  readonly acknowledged: () => Sequence;
  /** Something was dropped that the standby does not have. */
  readonly overflowing: () => boolean;
  /** See `Shipper.askForTable`. */
  readonly ask: (table: readonly VolumeEntry[]) => Promise<WantedAnswer | null>;
  /** A life-cycle step: closes clean and opens again, on the table that the journal leads to. */
  readonly reopen: () => Promise<void>;
}

/** The records of an intent on their way: known to this life of the process alone. */
interface UnderWay {
  readonly intent: VolumeIntent;
  /** Of each record its number, once it is in the journal; they come in order. */
  readonly sequences: Sequence[];
}

export class VolumeChanges {
  readonly #world: VolumeChangesWorld;
  #wanted: readonly WantedVolume[];
  #status: VolumeChangeStatus | null = null;
  #underWay: UnderWay | null = null;
  #running: Promise<void> | null = null;
  #again = false;
  #timer: Timer | null = null;
  #stopped = false;

  constructor(world: VolumeChangesWorld, wanted: readonly WantedVolume[]) {
    this.#world = world;
    this.#wanted = wanted;
  }

  /** Null: the table is what the configuration says, or is no longer this site's to change. */
  get status(): VolumeChangeStatus | null {
    return this.#world.state()?.role === "owner" ? this.#status : null;
  }

  /** Size of a volume in the configuration. */
  configuredBytes(name: string): number | undefined {
    return this.#wanted.find((volume) => volume.name === name)?.sizeBytes;
  }

  /** The configuration was read again. */
  order(wanted: readonly WantedVolume[]): void {
    this.#wanted = wanted;
    this.kick();
  }

  /** What a change waits for may have come: the group is served, the standby was met. */
  kick(): void {
    if (this.#stopped) return;
    this.#timer?.cancel();
    this.#timer = null;
    if (this.#running !== null) {
      this.#again = true;
      return;
    }
    this.#running = this.#run().finally(() => {
      this.#running = null;
      if (!this.#again) return;
      this.#again = false;
      this.kick();
    });
  }

  /** Nothing is begun any more. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  /** Settles when no file is touched any more. */
  async idle(): Promise<void> {
    await this.#running;
  }

  /** Frames behind this stay in the journal: a record that has not yet made its table may be among them. */
  get keepBehind(): Sequence {
    const intent = this.#world.state()?.changing ?? null;
    if (intent === null) return Number.POSITIVE_INFINITY;
    // Nobody knows any more where they would be.
    if (this.#underWay === null) return intent.after;
    const first = this.#underWay.sequences[0];
    return first === undefined ? Number.POSITIVE_INFINITY : first - 1;
  }

  /**
   * Frames behind this are not dropped unacknowledged: a standby that misses a change of the table cannot take what follows,
   * and no resync brings it.
   */
  get dropBehind(): Sequence {
    const acknowledged = this.#world.acknowledged();
    let limit = this.keepBehind;
    for (const { changedAt } of this.#world.state()?.volumes ?? [])
      if (changedAt > acknowledged) limit = Math.min(limit, changedAt - 1);
    return limit;
  }

  /** The table with what is durable of the change under way: what the other site is told. */
  toldAt(durable: Sequence): ToldTable {
    const state = this.#world.state();
    if (state === undefined) return { volumes: [], founding: undefined, imagesHeldData: false };
    const { intent, sequences } = this.#underWay ?? { intent: null, sequences: [] };
    const isDurable = (_: ChangingVolume, index: number): boolean =>
      (sequences[index] ?? Number.POSITIVE_INFINITY) <= durable;
    return toldTable(state, state.changing === null ? [] : (intent?.volumes ?? []).filter(isDurable));
  }

  /**
   * The state as the journal has it, durably. To be asked whenever the journal was opened, before anything is appended. A
   * change whose records still stand in this process's queue stays as it is. `VOLUME_CHANGE_UNKNOWN`, and errors of the journal
   * and of the document.
   */
  async settle(state: AgentGroupState, journal: FrameLog): Promise<AgentGroupState> {
    const { log, save } = this.#world;
    const { changing: intent } = state;
    if (intent === null) return state;
    const found = await changesBehind(journal, intent.after);
    if (found.length < intent.volumes.length && this.#underWay !== null) {
      for (const [index, { sequence }] of found.entries()) this.#underWay.sequences[index] = sequence;
      return state;
    }
    const hasStandby = state.standby !== null;
    const added = intent.volumes.slice(0, found.length).some(({ holdsData }) => holdsData);
    const settled: AgentGroupState = {
      ...state,
      volumes: tableWith(state.volumes, intent, found, hasStandby),
      changing: null,
      // A standby that is made anew gets the records, and nothing of what the image held before them.
      initial: added ? "data" : state.initial,
    };
    await save(settled);
    for (const { sequence, record } of found)
      log.info("VOLUME_CHANGED", `volume ${record.name} has ${record.sizeBytes} bytes from ${sequence} on`, {
        volume: record.name,
        sizeBytes: record.sizeBytes,
        sequence,
        holdsData: record.holdsData,
      });
    if (found.length < intent.volumes.length)
      log.warn("VOLUME_CHANGE_DROPPED", "a change of the volume table was not in the journal: begun anew", {
        after: intent.after,
        found: found.length,
      });
    return settled;
  }

  async #run(): Promise<void> {
    const { state: stateOf, journal, log } = this.#world;
    const state = stateOf();
    if (this.#stopped || state === undefined || journal() === null || state.changing !== null) return;
    const decision = decideVolumes(state.volumes, this.#wanted, state.origin.sequence === 0);
    if (decision.kind === "same") {
      this.#status = null;
      return;
    }
    if (decision.kind === "refused") {
      this.#say("refused", refusals[decision.code](decision.volume, this.#world.group), []);
      return;
    }
    try {
      await this.#change(state, decision);
    } catch (error) {
      if (this.#stopped) return;
      log.warn("VOLUME_CHANGE_FAILED", errorText(error), { reason: errorCode(error) });
      // What an operator has to mend, he may mend without telling: it is looked at again like everything else.
      const how = error instanceof OperationalError && error.reaction === "retry" ? "waiting" : "refused";
      this.#say(how, { code: errorCode(error), message: errorText(error) }, decision.steps);
      this.#later(failedAgainMs);
    }
  }

  async #change(
    state: AgentGroupState,
    { steps, table }: Extract<VolumeDecision, { kind: "change" }>,
  ): Promise<void> {
    const waits = async (): Promise<boolean> => {
      const reason = await this.#reasonToWait(state, table);
      if (reason === null) return false;
      this.#say("waiting", reason, steps);
      this.#later();
      return true;
    };
    if (await waits()) return;
    this.#say("preparing", { code: "VOLUME_FILES", message: "images are being made ready" }, steps);
    const rows = await readyFiles(steps, {
      files: this.#world.files,
      held: state.volumes,
      goOn: () => {
        if (this.#stopped) throw new Error("the group is being closed");
      },
    });
    // That may have taken hours.
    if (await waits()) return;
    this.#say(
      "changing",
      { code: "VOLUME_RECORDS", message: "the change is put into the write order" },
      steps,
    );
    await this.#commit(state, rows);
  }

  async #reasonToWait(state: AgentGroupState, table: readonly VolumeEntry[]): Promise<Reason | null> {
    const { overflowing, acknowledged, ask } = this.#world;
    if (state.standby === null) return null;
    // Unshipped, its record would only keep a full journal from being dropped.
    if (this.#world.state()?.paused != null)
      return { code: "PAUSED", message: "replication is paused by an order" };
    if (overflowing())
      return { code: "OVERFLOW", message: "the standby lacks what was dropped: resync first" };
    if (state.volumes.some(({ changedAt }) => changedAt > acknowledged()))
      return {
        code: "VOLUME_CHANGE_UNACKNOWLEDGED",
        message: "the standby has not yet taken the change before",
      };
    let answer: WantedAnswer | null;
    try {
      answer = await ask(table);
    } catch (error) {
      return { code: errorCode(error), message: errorText(error) };
    }
    if (answer === null)
      return { code: "NOT_ATTACHED", message: "no standby is attached that could be asked" };
    return answer === "ready" ? null : { code: answer.code, message: answer.message };
  }

  /** The intent, durably; then its records; then everything is opened again, which is where the table changes. */
  async #commit(before: AgentGroupState, volumes: readonly ChangingVolume[]): Promise<void> {
    const { step, state: stateOf, save, journal, overflowing, entrance, reopen } = this.#world;
    let placed: Promise<unknown> | null = null;
    await step(async () => {
      const state = stateOf();
      const log = journal();
      // The group was fenced or closed meanwhile, or frames were dropped: nothing is begun.
      if (this.#stopped || log === null || state === undefined || state.role !== "owner") return;
      if (state.volumes !== before.volumes || state.changing !== null) return;
      if (state.standby !== null && overflowing()) return;
      const intent: VolumeIntent = { after: log.tail.sequence, volumes };
      // Survives power loss before the first of the records can be in the journal.
      await save({ ...state, changing: intent });
      const underWay: UnderWay = { intent, sequences: [] };
      this.#underWay = underWay;
      const placing = recordsOf(intent).map((record, index) =>
        entrance.putDurably(record, (sequence) => {
          underWay.sequences[index] = sequence;
        }),
      );
      placed = Promise.all(placing);
      // Heard below; a queue that is emptied first must not be an unhandled rejection meanwhile.
      placed.catch(() => {});
    });
    if (placed === null) {
      this.#later();
      return;
    }
    try {
      await (placed as Promise<unknown>);
    } catch (error) {
      // The queue was emptied: the group is on its way out, and its next opening finds in the journal what became of it.
      this.#underWay = null;
      this.#world.log.info("VOLUME_CHANGE_CUT", errorText(error), { reason: errorCode(error) });
      return;
    }
    await step(reopen);
    this.#underWay = null;
  }

  #say(state: VolumeChangeStatus["state"], { code, message }: Reason, steps: readonly VolumeStep[]): void {
    const { log } = this.#world;
    const volumes = steps.map(({ name, fromBytes, sizeBytes }) => ({
      volume: name,
      fromBytes,
      toBytes: sizeBytes,
    }));
    const before = this.#status;
    this.#status = { state, code, message, volumes };
    if (before?.state === state && before.code === code) return;
    if (state === "refused") log.warn("VOLUME_CHANGE_REFUSED", message, { reason: code });
    else log.info("VOLUME_CHANGE", message, { state, reason: code, volumes });
  }

  #later(delayMs = lookAgainMs): void {
    if (this.#stopped) return;
    this.#timer?.cancel();
    this.#timer = this.#world.clock.after(delayMs, () => this.kick());
  }
}

/** The changes of the table in a journal behind a position. */
async function changesBehind(journal: FrameLog, after: Sequence): Promise<FoundChange[]> {
  const found: FoundChange[] = [];
  let next = Math.max(after, journal.head.sequence) + 1;
  while (next <= journal.tail.sequence) {
    const frames = await journal.frames(next, searchBytes);
    for (const frame of frames) {
      const record = volumeChangeOf(frame);
      if (record !== undefined) found.push({ sequence: frame.first, record });
      next = frame.last + 1;
    }
  }
  return found;
}

const refusals: Readonly<Record<RefusalCode, (volume: string, group: string) => Reason>> = {
  VOLUME_SMALLER: (volume) => ({
    code: "VOLUME_SMALLER",
    message: `volume ${volume} is smaller in the configuration than it is; a volume is never made smaller`,
  }),
  VOLUME_REMOVED: (volume) => ({
    code: "VOLUME_REMOVED",
    message: `volume ${volume} is not in the configuration any more; a volume is never taken away`,
  }),
  VOLUME_NOT_HANDED_OVER: (volume) => ({
    code: "VOLUME_NOT_HANDED_OVER",
    message: `volume ${volume} was not part of what this site took over; it is not made anew here`,
  }),
};
