/**
 * The line to one peer site, shared by all groups that ship there: connections, throttle, and whether the peer lives.
 * Batches and control messages have connections of their own, so that a heartbeat never queues behind a batch. It knows
 * nothing of sequences; what an answer means is the shipper's business.
 *
 * Alive is who answers, or takes bytes after having pushed back. No sign of that for `peerSilenceMs` and the connections
 * are dropped and every shipper is told; what is in flight then was never acknowledged, so nothing is lost but time.
 */
import { readFile } from "node:fs/promises";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { GroupKnowledge } from "../../protocol/control.ts";
import { controlBytesMax, parseGroupKnowledge, peerSilenceMs, wanRoutes } from "../../protocol/control.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import type { Cron } from "../../runtime/cron.ts";
import { systemCron } from "../../runtime/cron.ts";
import { errorCode, OperationalError } from "../../runtime/errors.ts";
import type { HttpReply } from "../../runtime/http.ts";
import type { HttpClient } from "../../runtime/http-client.ts";
import { createHttpClient } from "../../runtime/http-client.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { LinkSettings, SiteSettings } from "../../runtime/settings/types.ts";
import type { Line, LinkState, LinkUser } from "./line.ts";
import { ThrottleControl } from "./throttle-control.ts";
import { BottleneckThrottle, lineBytes } from "./wan-throttle.ts";

/** Silence is looked for this often, ms: with peerSilenceMs it is noticed within 8.5 s, below the promised 10. */
const silenceCheckMs = 500;
/**
 * A batch whose bytes nobody takes and nobody answers for this long is given up, although the peer lives on other
 * connections, ms: three silences, since the gateway may rightly hold it until its predecessor is there.
 */
const batchStallMs = 3 * peerSilenceMs;
/** Part of a body given to an unlimited line at once, bytes: 1 ms at 2 Gbit/s; more would block the event loop in TLS. */
const chunkBytesMax = 256 * 1024;
/** The connection took bytes after making us wait this long: it was full, so the peer must have taken some, ms. */
const pushedBackMs = 100;
/** Batches in flight of all groups on this link, bytes of memory; 16 MiB cover 1 Gbit/s x 100 ms. */
const linkBudgetBytes = 48 * 1024 * 1024;
/** Control connections at most: one does unless dozens of groups share a long line. */
const controlConnectionsMax = 4;
/** What a request's head takes besides path and host, bytes. */
const headBytes = 130;

export interface LinkOptions {
  readonly self: SiteSettings;
  readonly peer: SiteSettings;
  readonly settings: LinkSettings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Where to connect instead of the peer's url: a relay. Who must be there does not change. */
  readonly connectOverride?: { readonly host: string; readonly port: number };
  readonly cron?: Cron;
}

interface Clients {
  readonly batches: HttpClient;
  readonly control: HttpClient;
}

/** One upload under way, for the watchdog. */
interface Upload {
  movedMs: number;
  /** Waiting for the throttle, or for a free connection: nobody else's fault. */
  idle: boolean;
  readonly abort: AbortController;
}

export class Link implements Line {
  readonly throttle: ThrottleControl;
  readonly peerSite: string;
  readonly settings: LinkSettings;
  readonly #options: LinkOptions;
  readonly #origin: string;
  readonly #users = new Set<LinkUser>();
  readonly #uploads = new Set<Upload>();
  #clients: Promise<Clients> | undefined;
  #checking: Timer | undefined;
  #up = false;
  #lifeMs = Number.NEGATIVE_INFINITY;
  #lastContactWallMs: number | null = null;
  #wireBytes = 0;
  #closed = false;

  constructor(options: LinkOptions) {
    const { peer, settings, clock, log } = options;
    this.#options = options;
    this.settings = settings;
    this.peerSite = peer.name;
    const override = options.connectOverride;
    this.#origin =
      override === undefined
        ? new URL(peer.gateway?.url ?? "https://invalid").origin
        : `https://${override.host}:${override.port}`;
    const cron = options.cron ?? systemCron(log);
    this.throttle = new ThrottleControl({
      throttle: new BottleneckThrottle(settings.limitBytesPerSecond, clock),
      settings,
      clock,
      cron,
      log,
    });
  }

  get status(): LinkState {
    return {
      up: this.#up,
      limitBytesPerSecond: this.throttle.throttle.limitBytesPerSecond,
      wireBytes: this.#wireBytes,
      lastContact: this.#lastContactWallMs === null ? null : rfc3339(this.#lastContactWallMs),
    };
  }

  get up(): boolean {
    return this.#up;
  }

  /** Bytes in flight that one group may hold: an equal share of the link's memory. */
  get budgetBytes(): number {
    return Math.floor(linkBudgetBytes / Math.max(1, this.#users.size));
  }

  /** Tells `user` of silence and changes until the returned function is called. */
  join(user: LinkUser): () => void {
    this.#users.add(user);
    this.#check();
    return () => this.#users.delete(user);
  }

  /** What the peer knows of a group; OperationalError `PEER_*` when it cannot be asked. */
  async knowledge(group: string): Promise<GroupKnowledge> {
    const reply = await this.control("GET", wanRoutes.group(group));
    if (reply.status !== 200) {
      throw new OperationalError({
        code: "PEER_REFUSED",
        message: `site ${this.peerSite} answered ${reply.status} about group ${group}`,
        reaction: "retry",
        hint: "Look at the log of the gateway there.",
      });
    }
    return parseGroupKnowledge(reply.body);
  }

  /** One control message, outside the limit; its bytes are charged. Settles within `peerSilenceMs`. */
  async control(method: "GET" | "POST", path: string, message?: unknown): Promise<HttpReply> {
    const body = message === undefined ? undefined : Buffer.from(JSON.stringify(message));
    const abort = new AbortController();
    const timer = this.#options.clock.after(peerSilenceMs, () => abort.abort());
    try {
      const { control } = await this.#connect();
      this.#count(
        lineBytes(headBytes + path.length + this.#origin.length + (body?.byteLength ?? 0)),
        "charge",
      );
      const reply = await control.request({
        method,
        path,
        ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }),
        signal: abort.signal,
        headersTimeoutMs: peerSilenceMs,
        answerBytesMax: controlBytesMax,
      });
      this.#alive();
      return reply;
    } catch (error) {
      throw this.#failed(error, abort.signal);
    } finally {
      timer.cancel();
    }
  }

  /**
   * Posts one batch in pieces as the throttle admits them. `bytes` must not change until it settles. `count` is told of
   * bytes on the line as they leave. OperationalError `PEER_*`, or `REQUEST_ABORTED` when `signal` aborts.
   */
  async upload(
    path: string,
    bytes: Uint8Array,
    signal: AbortSignal,
    count: (wireBytes: number) => void,
  ): Promise<HttpReply> {
    const { clock } = this.#options;
    const upload: Upload = { movedMs: clock.monotonicMs(), idle: true, abort: new AbortController() };
    const ended = AbortSignal.any([signal, upload.abort.signal]);
    this.#uploads.add(upload);
    try {
      const { batches } = await this.#connect();
      const reply = await batches.request({
        method: "POST",
        path,
        headers: { "content-type": "application/octet-stream" },
        body: this.#pieces(path, bytes, upload, ended, count),
        contentLength: bytes.byteLength,
        signal: ended,
        // Progress is watched by `#check`; a fixed time would kill a long batch on a slow line again and again.
        headersTimeoutMs: 0,
        answerBytesMax: controlBytesMax,
      });
      this.#alive();
      return reply;
    } catch (error) {
      throw signal.aborted ? error : this.#failed(error, ended);
    } finally {
      this.#uploads.delete(upload);
      // An answer may come before the body was sent; whoever still waits for the throttle then is not wanted any more.
      upload.abort.abort();
    }
  }

  async *#pieces(
    path: string,
    bytes: Uint8Array,
    upload: Upload,
    ended: AbortSignal,
    count: (wireBytes: number) => void,
  ) {
    const { clock } = this.#options;
    const { throttle } = this.throttle;
    const head = lineBytes(headBytes + path.length + this.#origin.length);
    this.#count(head, "charge");
    count(head);
    for (let at = 0; at < bytes.byteLength; ) {
      upload.idle = true;
      // Requests of clients that came meanwhile are served between two pieces: encrypting holds the main thread.
      await nextTurn();
      const length = await throttle.take(Math.min(bytes.byteLength - at, this.#pieceBytesMax()), ended);
      const piece = bytes.subarray(at, at + length);
      at += length;
      this.#count(lineBytes(length), "taken");
      count(lineBytes(length));
      const givenMs = clock.monotonicMs();
      upload.idle = false;
      upload.movedMs = givenMs;
      yield piece;
      upload.movedMs = clock.monotonicMs();
      if (upload.movedMs - givenMs >= pushedBackMs) this.#lifeMs = upload.movedMs;
    }
  }

  #pieceBytesMax(): number {
    return this.throttle.throttle.limitBytesPerSecond === null ? chunkBytesMax : Number.MAX_SAFE_INTEGER;
  }

  /** The next request reads the certificates again: they may have been renewed. Requests in flight go on. */
  renew(): void {
    const clients = this.#clients;
    this.#clients = undefined;
    if (clients !== undefined) this.#retire(clients, (client) => client.close());
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#checking?.cancel();
    this.throttle.close();
    const clients = this.#clients;
    this.#clients = undefined;
    for (const upload of this.#uploads) upload.abort.abort();
    const made = await clients?.catch(() => undefined);
    await made?.batches.destroy();
    await made?.control.destroy();
  }

  #connect(): Promise<Clients> {
    if (this.#closed) {
      throw new OperationalError({
        code: "CLIENT_CLOSED",
        message: "the link is closed",
        reaction: "refuse",
      });
    }
    if (this.#clients !== undefined) return this.#clients;
    const made = this.#makeClients();
    this.#clients = made;
    made.catch(() => {
      if (this.#clients === made) this.#clients = undefined;
    });
    return made;
  }

  async #makeClients(): Promise<Clients> {
    const { self, settings, peer } = this.#options;
    try {
      const [ca, cert, key] = await Promise.all([
        readFile(self.tls.ca),
        readFile(self.tls.cert),
        readFile(self.tls.key),
      ]);
      const common = { origin: this.#origin, tls: { ca, cert, key, serverSite: peer.name } };
      return {
        batches: createHttpClient({ ...common, connections: settings.connections }),
        control: createHttpClient({ ...common, connections: controlConnectionsMax }),
      };
    } catch (cause) {
      throw new OperationalError({
        code: "TLS_FILES",
        message: "the certificates of this site cannot be read",
        reaction: "retry",
        hint: "Check the paths under sites.*.tls and their permissions.",
        cause,
      });
    }
  }

  #retire(clients: Promise<Clients>, how: (client: HttpClient) => Promise<void>): void {
    clients
      .then(async ({ batches, control }) => {
        await how(control);
        await how(batches);
      })
      .catch((error: unknown) =>
        this.#options.log.debug("LINK_RETIRE", "old connections did not close", { code: errorCode(error) }),
      );
  }

  #count(bytes: number, how: "charge" | "taken"): void {
    this.#wireBytes += bytes;
    if (how === "charge") this.throttle.throttle.charge(bytes);
  }

  #alive(): void {
    const { clock } = this.#options;
    this.#lifeMs = clock.monotonicMs();
    this.#lastContactWallMs = clock.wallMs();
    this.#change(true);
  }

  #change(up: boolean): void {
    if (this.#up === up || this.#closed) return;
    this.#up = up;
    const { log } = this.#options;
    if (up) log.info("LINK_UP", `site ${this.peerSite} answers`);
    else log.warn("LINK_DOWN", `site ${this.peerSite} does not answer`);
    for (const user of [...this.#users]) user.linkChanged(up);
  }

  #failed(error: unknown, ended: AbortSignal): unknown {
    const code = errorCode(error);
    if (code === "PEER_UNREACHABLE" || code === "PEER_CERTIFICATE" || code === "TLS_FILES")
      this.#change(false);
    if (code === "PEER_CERTIFICATE") this.renew();
    if (code !== "REQUEST_ABORTED" || !ended.aborted) return error;
    return new OperationalError({
      code: "PEER_TIMEOUT",
      message: `site ${this.peerSite} did not answer in time`,
      reaction: "reconnect",
      cause: error,
    });
  }

  /** Looks for silence and for stuck uploads while anybody ships. */
  #check(): void {
    if (this.#checking !== undefined || this.#closed) return;
    this.#checking = this.#options.clock.after(silenceCheckMs, () => {
      this.#checking = undefined;
      const nowMs = this.#options.clock.monotonicMs();
      for (const upload of this.#uploads) {
        if (!upload.idle && nowMs - upload.movedMs > batchStallMs) upload.abort.abort();
      }
      if (this.#up && nowMs - this.#lifeMs > peerSilenceMs) this.#silence();
      if (this.#users.size > 0) this.#check();
    });
  }

  #silence(): void {
    const clients = this.#clients;
    this.#clients = undefined;
    for (const upload of this.#uploads) upload.abort.abort();
    if (clients !== undefined) this.#retire(clients, (client) => client.destroy());
    this.#change(false);
    for (const user of [...this.#users]) user.silence();
  }
}
