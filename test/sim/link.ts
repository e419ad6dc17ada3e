/**
 * The WAN of the simulation: what the agents of two sites see as `Line`, and what carries their requests to whatever
 * incarnation of the other site's gateway lives when they arrive. Calls are lost before or after they had their effect,
 * arrive twice, late, out of order or damaged, and are replayed from store long afterwards. It decides nothing about
 * what a request means: it is delivered to the product's own routes, and the answer is carried back.
 */

import type { StandbyGroup } from "../../gateway/group.ts";
import { wanRoutesOf } from "../../gateway/receive/routes.ts";
import { parseGroupKnowledge, peerSilenceMs, wanRoutes } from "../../protocol/control.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { HttpReply, HttpRequest, Route } from "../../runtime/http.ts";
import { answerOfError } from "../../runtime/http-server.ts";
import type { Log } from "../../runtime/log.ts";
import type { LineCodec } from "../../runtime/settings/types.ts";
import type { Line, LinkState, LinkUser } from "../../site-agent/ship/line.ts";
import type { SeededRandom } from "../support/seeded.ts";
import type { Life } from "./world/life.ts";
import type { Scheduler } from "./world/scheduler.ts";

/** The agent looks for silence this often, and gives up a batch that nobody answers after so long, ms: as the real line. */
const silenceCheckMs = 500;
const batchStallMs = 3 * peerSilenceMs;
/** Batches kept for replay. */
const storedBatchesMax = 64;
/** The gateway's server closes a connection whose body stands still for this long, ms. */
const bodySilenceMs = 30_000;

/** How the line behaves now; the fault plan changes it. */
export interface WanConditions {
  /** One way, ms. */
  latencyMs: number;
  /** Added to it at random, ms: requests on different connections overtake each other. */
  jitterMs: number;
  /** Both directions each, bytes a second. */
  bytesPerSecond: number;
  /** Chance that a request meets a broken connection or a long wait. */
  lossRate: number;
  duplicateRate: number;
  /** Chance that a batch arrives with one bit turned over. */
  damageRate: number;
}

/** Which messages get through between two sites, by the site that sends them. `refuse`: fails at once. */
export type Passage = "open" | "swallow" | "refuse";

export interface WanObserver {
  /** A batch leaves `from`; before anything can happen to it. */
  batchLeft(from: string, group: string, last: number): void;
  /** A heartbeat leaves `from`, with what its owner says it has answered. */
  heartbeatLeft(from: string, group: string, body: Uint8Array): void;
  /** The gateway of `site` has decided on an answer; the sender may never get it. */
  answered(
    site: string,
    group: string,
    what: RequestKind,
    sender: SenderToken | undefined,
    answer: unknown,
    body: Uint8Array,
  ): void;
  /** The answer reaches the agent of `site`. */
  delivered(site: string, group: string, what: RequestKind, answer: unknown): void;
  /** A route threw something that is nobody's expected failure. */
  unexpected(site: string, error: unknown): void;
}

export type RequestKind = "knowledge" | "hello" | "heartbeat" | "batch" | "scan";
export interface SenderToken {
  readonly epoch: number;
  readonly owner: string;
}

/** An AbortController made when its signal is asked for, which most routes never do: they are dear to make. */
class Gone {
  #controller: AbortController | undefined;
  #aborted = false;

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#aborted) this.#controller.abort();
    return this.#controller.signal;
  }

  abort(): void {
    this.#aborted = true;
    this.#controller?.abort();
  }
}

interface Listener {
  readonly life: Life;
  readonly routes: readonly Route[];
}

interface Exchange {
  readonly from: string;
  readonly to: string;
  readonly kind: RequestKind;
  readonly group: string;
  readonly sender: SenderToken | undefined;
  readonly body: Uint8Array;
  /** For the trace. */
  readonly label: string;
  /** Aborted at the receiver: the sender is gone. */
  readonly gone: Gone;
  /** Set while the receiver waits for more of the body. */
  breakBody: (() => void) | undefined;
  receiver: Life | undefined;
  /** Settles the sender's promise, once; false when nobody waits for it any more. */
  settle: (outcome: HttpReply | Error) => boolean;
}

interface StoredBatch {
  readonly from: string;
  readonly to: string;
  readonly group: string;
  readonly sender: SenderToken;
  readonly bytes: Uint8Array;
}

export class Wan {
  readonly conditions: WanConditions;
  readonly stored: StoredBatch[] = [];
  readonly counts = { requests: 0, lost: 0, duplicated: 0, damaged: 0, replayed: 0, swallowed: 0 };
  readonly #scheduler: Scheduler;
  readonly #random: SeededRandom;
  readonly #observer: WanObserver;
  readonly #listeners = new Map<string, Listener>();
  readonly #passages = new Map<string, Passage>();
  readonly #busyUntilMs = new Map<string, number>();
  readonly #exchanges = new Set<Exchange>();
  #swallowed: { readonly site: string; readonly atMs: number; readonly again: () => void }[] = [];

  constructor(scheduler: Scheduler, random: SeededRandom, conditions: WanConditions, observer: WanObserver) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.conditions = conditions;
    this.#observer = observer;
  }

  get nowMs(): number {
    return this.#scheduler.nowMs;
  }

  /** The gateway of `site` listens. */
  serve(site: string, life: Life, groups: ReadonlyMap<string, StandbyGroup>, log: Log): void {
    this.#listeners.set(site, { life, routes: wanRoutesOf(groups, log) });
  }

  /** What becomes of what `site` sends from now on. Once open, most of what was swallowed is sent again by the network. */
  pass(site: string, passage: Passage): void {
    this.#passages.set(site, passage);
    if (passage !== "open") return;
    for (const held of this.#swallowed.splice(0)) {
      if (held.site !== site) {
        this.#swallowed.push(held);
        continue;
      }
      // Some boxes on the way have forgotten the connection by then.
      const forgotten = this.#random.chance(0.2);
      const delayMs = this.#random.fraction() * (this.nowMs - held.atMs);
      if (!forgotten) this.#later(site, delayMs, "network sends again", held.again);
    }
  }

  #swallow(site: string, again: () => void): void {
    this.counts.swallowed += 1;
    this.#swallowed.push({ site, atMs: this.nowMs, again });
  }

  line(from: string, to: string, life: Life, codec: LineCodec): SimLine {
    return new SimLine(this, this.#scheduler, from, to, life, codec);
  }

  /**
   * Connections that end in this process are gone. The kernel of a killed process says so at once; a machine without
   * power says nothing, until it is back and is asked about a connection that it does not know.
   */
  died(site: string, role: "agent" | "gateway", silentMs: number): void {
    for (const exchange of [...this.#exchanges]) {
      if (role === "gateway" && exchange.to === site && exchange.receiver !== undefined) {
        this.#exchanges.delete(exchange);
        this.#later(exchange.from, silentMs + this.#delay(), "reset", () =>
          exchange.settle(unreachable("reset")),
        );
      }
      if (role === "agent" && exchange.from === site) {
        exchange.settle = () => false;
        this.#hangUp(exchange, silentMs === 0 ? this.#delay() : bodySilenceMs);
      }
    }
  }

  /** The sender closes its connection. */
  hangUp(exchange: Exchange): void {
    this.#hangUp(exchange, this.#delay());
  }

  #hangUp(exchange: Exchange, delayMs: number): void {
    if (exchange.receiver === undefined) this.#exchanges.delete(exchange);
    this.#scheduler.at(delayMs, "line: peer gone", () => {
      if (exchange.receiver?.alive === false) return;
      exchange.gone.abort();
      exchange.breakBody?.();
    });
  }

  #delay(): number {
    const { latencyMs, jitterMs } = this.conditions;
    return latencyMs + this.#random.fraction() * jitterMs;
  }

  #later(_from: string, delayMs: number, what: string, run: () => void): void {
    this.#scheduler.at(delayMs, `line: ${what}`, run);
  }

  /** Ms until the last of `bytes` is through the line from `site`, others before it included. */
  #transferMs(site: string, bytes: number): number {
    const startMs = Math.max(this.nowMs, this.#busyUntilMs.get(site) ?? 0);
    const endMs = startMs + (bytes / this.conditions.bytesPerSecond) * 1000;
    this.#busyUntilMs.set(site, endMs);
    return endMs - this.nowMs;
  }

  /** Sends one request; `settle` gets the reply or an error, or is never called. */
  send(
    from: string,
    to: string,
    kind: RequestKind,
    group: string,
    sender: SenderToken | undefined,
    body: Uint8Array,
    settle: (outcome: HttpReply | Error) => boolean,
  ): Exchange {
    this.counts.requests += 1;
    if (kind === "heartbeat") this.#observer.heartbeatLeft(from, group, body);
    const exchange: Exchange = {
      from,
      to,
      kind,
      group,
      sender,
      body,
      label: labelOf(kind, body),
      gone: new Gone(),
      breakBody: undefined,
      receiver: undefined,
      settle,
    };
    this.#exchanges.add(exchange);
    if (kind === "batch" && sender !== undefined) this.#store({ from, to, group, sender, bytes: body });
    const passage = this.#passages.get(from) ?? "open";
    if (passage === "refuse") {
      this.#fail(exchange, 1 + this.#random.fraction() * 5, "no route");
      return exchange;
    }
    if (passage === "swallow") {
      this.#swallow(from, () => {
        if (this.#exchanges.has(exchange)) this.#deliver(exchange, 0, body, undefined, false);
      });
      return exchange;
    }
    let delayMs = this.#delay();
    let answerLost = false;
    if (this.#random.chance(this.conditions.lossRate)) {
      this.counts.lost += 1;
      switch (this.#random.below(4)) {
        case 0:
          this.#fail(exchange, delayMs, "reset before delivery");
          return exchange;
        case 1:
          answerLost = true;
          break;
        case 2:
          // Lost segments are sent again by the network: late is all that one sees of it.
          delayMs += 200 + this.#random.fraction() * 3_000;
          break;
        default:
          this.#deliver(
            exchange,
            delayMs,
            body,
            this.#random.below(Math.max(1, body.byteLength)),
            answerLost,
          );
          return exchange;
      }
    }
    if (kind === "batch" && this.#random.chance(this.conditions.damageRate)) {
      this.counts.damaged += 1;
      const bytes = body.slice();
      const at = this.#random.below(bytes.byteLength);
      bytes[at] = bytes[at]! ^ (1 << this.#random.below(8));
      this.#deliver(exchange, delayMs, bytes, undefined, answerLost);
      return exchange;
    }
    this.#deliver(exchange, delayMs, body, undefined, answerLost);
    if (kind === "batch" && this.#random.chance(this.conditions.duplicateRate)) {
      this.counts.duplicated += 1;
      this.#replay(
        { from, to, group, sender: sender!, bytes: body },
        this.#delay() + this.#random.fraction() * 500,
      );
    }
    // A question of long ago that arrives again: the answer goes nowhere, but findings are freed by it.
    if (kind === "scan" && sender !== undefined && this.#random.chance(this.conditions.duplicateRate)) {
      this.counts.duplicated += 1;
      this.#replay(
        { from, to, group, sender, bytes: body },
        this.#delay() + this.#random.fraction() * 3_000,
        kind,
      );
    }
    return exchange;
  }

  #store(batch: StoredBatch): void {
    // Some of every age: the oldest are dropped at random, so that a replay may reach far back.
    if (this.stored.length >= storedBatchesMax) this.stored.splice(this.#random.below(storedBatchesMax), 1);
    this.stored.push({ ...batch, bytes: batch.bytes.slice() });
  }

  /** Delivers `count` batches of the past once more, whoever lives at the other end by now. */
  replayStored(count: number): void {
    for (let index = 0; index < count && this.stored.length > 0; index += 1) {
      this.counts.replayed += 1;
      this.#replay(this.#random.pick(this.stored), this.#random.fraction() * 200);
    }
  }

  #replay(batch: StoredBatch, delayMs: number, kind: "batch" | "scan" = "batch"): void {
    const exchange: Exchange = {
      from: batch.from,
      to: batch.to,
      kind,
      group: batch.group,
      sender: batch.sender,
      body: batch.bytes,
      label: `${labelOf(kind, batch.bytes)} replayed`,
      gone: new Gone(),
      breakBody: undefined,
      receiver: undefined,
      settle: () => false,
    };
    this.#exchanges.add(exchange);
    this.#deliver(exchange, delayMs, batch.bytes, undefined, true);
  }

  #fail(exchange: Exchange, delayMs: number, why: string): void {
    this.#exchanges.delete(exchange);
    this.#later(
      exchange.from,
      delayMs,
      `${exchange.label} fails: ${why}`,
      () => void exchange.settle(unreachable(why)),
    );
  }

  /** `cutAt`: the connection breaks when so many bytes of the body are through. */
  #deliver(
    exchange: Exchange,
    delayMs: number,
    bytes: Uint8Array,
    cutAt: number | undefined,
    answerLost: boolean,
  ): void {
    const { from, to, kind, group } = exchange;
    const wholeMs = delayMs + this.#transferMs(from, bytes.byteLength + 300);
    // A long body begins to arrive before its end: routes may read its first part and answer.
    const firstMs = kind === "batch" ? delayMs : wholeMs;
    this.#scheduler.at(firstMs, `line: ${exchange.label} ${group} ${from}>${to}`, () => {
      const listener = this.#listeners.get(to);
      if (listener === undefined || !listener.life.alive) {
        this.#fail(exchange, this.#delay(), "connection refused");
        return;
      }
      exchange.receiver = listener.life;
      const endsAtMs = this.nowMs + (wholeMs - firstMs);
      // In a turn of the receiver's own: one that is paused does not see it yet.
      const run = () => this.#run(exchange, listener, bytes, endsAtMs, cutAt, answerLost);
      this.#scheduler.at(0, "", run, listener.life);
    });
  }

  #run(
    exchange: Exchange,
    listener: Listener,
    bytes: Uint8Array,
    endsAtMs: number,
    cutAt: number | undefined,
    answerLost: boolean,
  ): void {
    const { from, to, kind, group } = exchange;
    const { method, path } = requestLine(kind, group);
    const route = listener.routes.find(
      (each) => each.method === method && each.pattern.replace(":group", group) === path,
    );
    if (route === undefined) throw new RangeError(`no route ${method} ${path}`);
    let taken = 0;
    const truncated = () => new RemoteProtocolError("BODY_TRUNCATED", "body ended early");
    const take = (length: number): Promise<Uint8Array> => {
      const part = bytes.subarray(taken, taken + length);
      taken += length;
      if (part.byteLength < length) return Promise.reject(truncated());
      if (taken <= 512 && cutAt === undefined) return Promise.resolve(part);
      return new Promise((resolve, reject) => {
        exchange.breakBody = () => reject(truncated());
        const cut = cutAt !== undefined && cutAt < taken;
        const share = bytes.byteLength === 0 ? 1 : Math.min(1, taken / bytes.byteLength);
        const dueMs = Math.max(0, (endsAtMs - this.nowMs) * share);
        this.#scheduler.at(
          dueMs,
          `line: body of ${exchange.label} ${cut ? "cut" : "read"}`,
          () => {
            exchange.breakBody = undefined;
            if (!cut) {
              resolve(part);
              return;
            }
            exchange.gone.abort();
            reject(truncated());
            this.#fail(exchange, this.#delay(), "reset while sending");
          },
          listener.life,
        );
      });
    };
    const request: HttpRequest = {
      method,
      path,
      params: { group },
      query: new URLSearchParams(),
      sites: [from],
      contentLength: bytes.byteLength,
      take,
      body: () => take(bytes.byteLength),
      get signal() {
        return exchange.gone.signal;
      },
    };
    const finish = (status: number, json: unknown): void => {
      this.#exchanges.delete(exchange);
      if (status === 200) this.#observer.answered(to, group, kind, exchange.sender, json, exchange.body);
      this.#carryBack(exchange, { status, body: Buffer.from(JSON.stringify(json)) }, answerLost);
    };
    route.run(request).then(
      (answer) => {
        if (!("json" in answer)) throw new TypeError("WAN routes answer with JSON");
        finish(answer.status, answer.json);
      },
      (error: unknown) => {
        const known = answerOfError(error);
        if (known === undefined) this.#observer.unexpected(to, error);
        finish(known?.status ?? 500, known?.json ?? { id: errorCode(error), message: errorText(error) });
      },
    );
  }

  #carryBack(exchange: Exchange, reply: HttpReply, lost: boolean): void {
    const { from, to, kind, group } = exchange;
    const passage = this.#passages.get(to) ?? "open";
    if (passage === "swallow") {
      this.#swallow(to, () => this.#carryBack(exchange, reply, lost));
      return;
    }
    const delayMs = this.#delay() + this.#transferMs(to, reply.body.byteLength + 200);
    if (lost || passage === "refuse" || this.#random.chance(this.conditions.lossRate / 4)) {
      this.#fail(exchange, delayMs, "reset before the answer");
      return;
    }
    this.#later(
      to,
      delayMs,
      `answer to ${exchange.label} ${group} ${to}>${from}: ${reply.status} ${Buffer.from(reply.body).toString("utf8").slice(0, 120)}`,
      () => {
        if (!exchange.settle(reply) || reply.status !== 200) return;
        this.#observer.delivered(from, group, kind, JSON.parse(Buffer.from(reply.body).toString("utf8")));
      },
    );
  }

  batchLeft(from: string, group: string, last: number): void {
    this.#observer.batchLeft(from, group, last);
  }
}

function requestLine(kind: RequestKind, group: string): { method: "GET" | "POST"; path: string } {
  switch (kind) {
    case "knowledge":
      return { method: "GET", path: wanRoutes.group(group) };
    case "hello":
      return { method: "POST", path: wanRoutes.hello(group) };
    case "heartbeat":
      return { method: "POST", path: wanRoutes.heartbeat(group) };
    case "batch":
      return { method: "POST", path: wanRoutes.batches(group) };
    case "scan":
      return { method: "POST", path: wanRoutes.scan(group) };
  }
}

function kindOfPath(path: string): RequestKind {
  const name = path.slice(path.lastIndexOf("/") + 1);
  if (name === "hello" || name === "heartbeat" || name === "scan") return name;
  throw new RangeError(`no control message goes to ${path}`);
}

function labelOf(kind: RequestKind, body: Uint8Array): string {
  if (kind !== "batch") return kind;
  const view = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  return `batch ${view.readBigUInt64BE(96)}..${view.readBigUInt64BE(104)}`;
}

function unreachable(why: string): OperationalError {
  return new OperationalError({ code: "PEER_UNREACHABLE", message: why, reaction: "reconnect" });
}

function timedOut(): OperationalError {
  return new OperationalError({ code: "PEER_TIMEOUT", message: "no answer in time", reaction: "reconnect" });
}

interface Call {
  /** True when somebody waited for it. */
  settle(outcome: HttpReply | Error): boolean;
  readonly upload: boolean;
  readonly sinceMs: number;
}

/** The line as one incarnation of an agent has it. Its watch over silence is that of the real line, in short. */
export class SimLine implements Line {
  readonly settings: { readonly codec: LineCodec; readonly connections: number; readonly collectMs: number };
  readonly budgetBytes = 1024 * 1024;
  readonly #wan: Wan;
  readonly #scheduler: Scheduler;
  readonly #from: string;
  readonly #to: string;
  readonly #life: Life;
  readonly #users = new Set<LinkUser>();
  readonly #calls = new Set<Call>();
  #up = false;
  #lifeMs = Number.NEGATIVE_INFINITY;
  #heardWallMs: number | null = null;
  #wireBytes = 0;
  #checking = false;

  constructor(wan: Wan, scheduler: Scheduler, from: string, to: string, life: Life, codec: LineCodec) {
    this.settings = { codec, connections: 4, collectMs: 60 };
    this.#wan = wan;
    this.#scheduler = scheduler;
    this.#from = from;
    this.#to = to;
    this.#life = life;
  }

  get status(): LinkState {
    return {
      up: this.#up,
      limitBytesPerSecond: null,
      wireBytes: this.#wireBytes,
      lastContact: this.#heardWallMs === null ? null : new Date(this.#heardWallMs).toISOString(),
    };
  }

  join(user: LinkUser): () => void {
    this.#users.add(user);
    this.#check();
    return () => this.#users.delete(user);
  }

  async knowledge(group: string) {
    const reply = await this.control("GET", wanRoutes.group(group));
    if (reply.status !== 200) {
      throw new OperationalError({
        code: "PEER_REFUSED",
        message: `answered ${reply.status}`,
        reaction: "retry",
      });
    }
    return parseGroupKnowledge(reply.body);
  }

  control(method: "GET" | "POST", path: string, message?: unknown): Promise<HttpReply> {
    const body = message === undefined ? new Uint8Array(0) : Buffer.from(JSON.stringify(message));
    const group = path.split("/")[3] ?? "";
    return this.#call(
      method === "GET" ? "knowledge" : kindOfPath(path),
      group,
      tokenOf(message),
      body,
      undefined,
      false,
    );
  }

  upload(
    path: string,
    bytes: Uint8Array,
    signal: AbortSignal,
    count: (wireBytes: number) => void,
  ): Promise<HttpReply> {
    count(bytes.byteLength);
    this.#wireBytes += bytes.byteLength;
    const group = path.split("/")[3] ?? "";
    const header = batchFacts(bytes);
    this.#wan.batchLeft(this.#from, group, header.last);
    return this.#call("batch", group, header.token, bytes, signal, true);
  }

  #call(
    kind: RequestKind,
    group: string,
    sender: SenderToken | undefined,
    body: Uint8Array,
    signal: AbortSignal | undefined,
    upload: boolean,
  ): Promise<HttpReply> {
    return new Promise((resolve, reject) => {
      let open = true;
      const end = (): boolean => {
        const was = open && this.#life.alive;
        open = false;
        this.#calls.delete(call);
        timer?.cancel();
        return was;
      };
      const call: Call = {
        upload,
        sinceMs: this.#scheduler.nowMs,
        settle: (outcome) => {
          if (this.#life.paused) {
            this.#scheduler.at(0, "", () => void call.settle(outcome), this.#life);
            return false;
          }
          if (!end()) return false;
          if (outcome instanceof Error) {
            if (errorCode(outcome) === "PEER_UNREACHABLE") this.#change(false);
            reject(outcome);
          } else {
            this.#alive();
            resolve(outcome);
          }
          return true;
        },
      };
      this.#calls.add(call);
      const exchange = this.#wan.send(this.#from, this.#to, kind, group, sender, body, (outcome) =>
        call.settle(outcome),
      );
      const giveUp = (error: Error): void => {
        if (!end()) return;
        this.#wan.hangUp(exchange);
        reject(error);
      };
      const aborted = (): void =>
        giveUp(new OperationalError({ code: "REQUEST_ABORTED", message: "given up", reaction: "refuse" }));
      const timer = upload
        ? undefined
        : this.#scheduler.at(peerSilenceMs, `line: ${kind} times out`, () => giveUp(timedOut()), this.#life);
      signal?.addEventListener("abort", aborted);
    });
  }

  renew(): void {}

  #alive(): void {
    this.#lifeMs = this.#scheduler.nowMs;
    this.#heardWallMs = Math.floor(this.#scheduler.nowMs);
    this.#change(true);
  }

  #change(up: boolean): void {
    if (this.#up === up) return;
    this.#up = up;
    for (const user of [...this.#users]) user.linkChanged(up);
  }

  #check(): void {
    if (this.#checking) return;
    this.#checking = true;
    this.#scheduler.at(
      silenceCheckMs,
      "line: look for silence",
      () => {
        this.#checking = false;
        const nowMs = this.#scheduler.nowMs;
        for (const call of [...this.#calls]) {
          if (call.upload && nowMs - call.sinceMs > batchStallMs) call.settle(timedOut());
        }
        if (this.#up && nowMs - this.#lifeMs > peerSilenceMs) {
          for (const call of [...this.#calls]) if (call.upload) call.settle(timedOut());
          this.#change(false);
          for (const user of [...this.#users]) user.silence();
        }
        if (this.#users.size > 0) this.#check();
      },
      this.#life,
    );
  }
}

function tokenOf(message: unknown): SenderToken | undefined {
  if (typeof message !== "object" || message === null || !("token" in message)) return undefined;
  const { token } = message;
  if (typeof token !== "object" || token === null || !("epoch" in token) || !("owner" in token))
    return undefined;
  return { epoch: Number(token.epoch), owner: String(token.owner) };
}

/** Token and last sequence of a batch, read with no help of the product (layout: docs/formats/batch.md). */
function batchFacts(bytes: Uint8Array): { readonly token: SenderToken; readonly last: number } {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const owner = view.toString("latin1", 32, 96).replace(/\0+$/, "");
  return {
    token: { epoch: Number(view.readBigUInt64BE(24)), owner },
    last: Number(view.readBigUInt64BE(104)),
  };
}
