/**
 * A gateway with real certificates, journal and images on loopback, and the sending end opposite: builds a history of
 * frames and posts batches, greetings and heartbeats as any program could.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type GatewayRole, startGateway } from "../../gateway/main.ts";
import { encodeBatch } from "../../protocol/batch.ts";
import { genesisChain } from "../../protocol/chain.ts";
import { type Hello, wanRoutes } from "../../protocol/control.ts";
import { buildFrame, buildGapFrame, type Frame } from "../../protocol/frame.ts";
import type { AdoptedExport, HandoverRecord, HandoverTarget } from "../../protocol/handover.ts";
import { bytesToHex, lineageToText, type Token } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { systemClock } from "../../runtime/clock.ts";
import type { HttpAnswer, HttpRequest } from "../../runtime/http.ts";
import { createHttpClient, type HttpClient } from "../../runtime/http-client.ts";
import { silentLog } from "../../runtime/log.ts";
import { gatewayGroupPaths } from "../../runtime/paths.ts";
import { systemRandom } from "../../runtime/random.ts";
import type { GroupSettings, Settings, SiteSettings, TlsFiles } from "../../runtime/settings/types.ts";
import { groupSettings } from "../support/group-settings.ts";
import { scriptArguments } from "../support/tree.ts";
import { testCa } from "./certificates.ts";

export const mebibyte = 1024 * 1024;
export const volumes = [
  { number: 0, name: "data", sizeBytes: 4 * mebibyte },
  { number: 1, name: "log", sizeBytes: mebibyte },
];

/** A small deterministic generator: the same seed gives the same history. */
export function generator(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}

/** The source: its frames, and what its volumes hold after any frame. */
export class Source {
  readonly lineage = systemRandom.uuidBytes();
  readonly frames: Frame[] = [];
  /** Contents after frame n; index 0 is empty disks. */
  readonly contents: Buffer[][] = [volumes.map((volume) => Buffer.alloc(volume.sizeBytes))];
  readonly keepContents: boolean;
  token: Token = { epoch: 1, owner: "primary" };
  readonly #random: () => number;

  constructor(seed: number, keepContents = true) {
    this.#random = generator(seed);
    this.keepContents = keepContents;
  }

  get last(): number {
    return this.frames.at(-1)?.last ?? 0;
  }

  get chain(): Uint8Array {
    return this.frames.at(-1)?.chainAfter ?? genesisChain(this.lineage, volumes);
  }

  write(frameCount: number, recordsPerFrame = 3, recordBytesMax = 16 * 1024): Frame[] {
    const made: Frame[] = [];
    for (let index = 0; index < frameCount; index += 1)
      made.push(this.put(Array.from({ length: recordsPerFrame }, () => this.record(recordBytesMax))));
    return made;
  }

  /** The next frame, of these records. */
  put(records: readonly BlockRecord[]): Frame {
    const frame = buildFrame({
      lineage: this.lineage,
      first: this.last + 1,
      chainBefore: this.chain,
      dataBytesBefore: this.frames.at(-1)?.dataBytesTotal ?? 0,
      openedAtMs: 1_700_000_000_000 + this.last,
      closedAtMs: 1_700_000_000_001 + this.last,
      records,
    });
    this.frames.push(frame);
    if (this.keepContents) this.contents.push(this.#after(records));
    return frame;
  }

  /** A gap of `span` sequences with `dataBytes` in them; its chain value is as good as any. */
  gap(span: number, dataBytes: number): Frame {
    const dataBytesTotal = this.frames.at(-1)?.dataBytesTotal ?? 0;
    const after = { sequence: this.last, chain: this.chain, dataBytesTotal };
    const chain = this.chain.map((byte) => byte ^ 0x5a);
    const to = { sequence: this.last + span, chain, dataBytesTotal: dataBytesTotal + dataBytes };
    const frame = buildGapFrame({
      lineage: this.lineage,
      after,
      to,
      closedAtMs: 1_700_000_000_001 + this.last,
    });
    this.frames.push(frame);
    if (this.keepContents) this.contents.push(this.contents.at(-1)!);
    return frame;
  }

  /** A client's record, as the seed has it. */
  record(bytesMax: number): BlockRecord {
    const volume = volumes[this.#random() < 0.8 ? 0 : 1]!;
    const length = 512 * (1 + Math.floor(this.#random() * (bytesMax / 512)));
    const offset = 512 * Math.floor(this.#random() * ((volume.sizeBytes - length) / 512));
    if (this.#random() < 0.1) return { kind: "zeroes", volume: volume.number, offset, length };
    const data = Buffer.alloc(length, 1 + Math.floor(this.#random() * 255));
    data.writeUInt32BE(Math.floor(this.#random() * 2 ** 32), 0);
    return { kind: "write", volume: volume.number, offset, length, data };
  }

  #after(records: readonly BlockRecord[]): Buffer[] {
    const next = this.contents.at(-1)!.map((volume) => Buffer.from(volume));
    for (const record of records) {
      const { volume, offset, length } = record;
      if (record.kind === "write") next[volume]!.set(record.data, offset);
      else if (record.kind === "zeroes") next[volume]!.fill(0, offset, offset + length);
    }
    return next;
  }

  hello(change: Partial<Hello> = {}): Hello {
    return {
      lineage: lineageToText(this.lineage),
      token: this.token,
      volumes,
      durable: { sequence: this.last, chain: bytesToHex(this.chain) },
      genesis: bytesToHex(genesisChain(this.lineage, change.volumes ?? volumes)),
      create: true,
      ...change,
    };
  }

  heartbeat() {
    return {
      lineage: lineageToText(this.lineage),
      token: this.token,
      answered: this.last,
      dataBytesTotal: this.frames.at(-1)?.dataBytesTotal ?? 0,
      wallMs: Date.now(),
    };
  }
}

export class FakeAgent implements HandoverTarget {
  readonly adopted: HandoverRecord[] = [];
  fail: Error | undefined;

  async adopt(record: HandoverRecord): Promise<readonly AdoptedExport[]> {
    if (this.fail !== undefined) throw this.fail;
    this.adopted.push(record);
    return record.volumes.map((volume) => ({
      volume: volume.name,
      uri: `nbd://127.0.0.1:1/erp/${volume.name}`,
    }));
  }
}

export interface Reply {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked at field by field.
  readonly json: any;
}

export class StandbySite {
  readonly directory: string;
  readonly dataDir: string;
  readonly agent = new FakeAgent();
  readonly paths: ReturnType<typeof gatewayGroupPaths>;
  readonly tls: Record<string, TlsFiles>;
  intakeBytesMax = 256 * mebibyte;
  reserveBytes = 0;
  /** How long before-images are kept, ms: the labels of the frames made here are years old. */
  windowMs = 86_400_000;
  withAgent = true;
  role: GatewayRole | undefined;
  client: HttpClient | undefined;
  port = 0;

  private constructor(directory: string, tls: Record<string, TlsFiles>) {
    this.directory = directory;
    this.dataDir = join(directory, "dr");
    this.paths = gatewayGroupPaths(this.dataDir, "erp");
    this.tls = tls;
  }

  static async make(): Promise<StandbySite> {
    const directory = mkdtempSync(join(tmpdir(), "splitsite-gateway-"));
    const ca = await testCa();
    const tls: Record<string, TlsFiles> = {};
    for (const name of ["primary", "dr", "third"]) tls[name] = await ca.issue(directory, name, [name]);
    return new StandbySite(directory, tls);
  }

  settings(): { settings: Settings; site: SiteSettings } {
    const site: SiteSettings = {
      name: "dr",
      dataDir: this.dataDir,
      tls: this.tls["dr"]!,
      admin: { kind: "unix", path: join(this.dataDir, "admin.sock") },
      agent: null,
      gateway: {
        listen: { kind: "tcp", host: "127.0.0.1", port: 0 },
        url: "https://127.0.0.1:1",
        intake: { maxBytes: this.intakeBytesMax, reserveBytes: this.reserveBytes },
      },
    };
    const group: GroupSettings = groupSettings({
      volumes,
      history: { windowMs: this.windowMs, bytesMax: 1 << 30 },
    });
    return { settings: { file: "test", sites: [site], groups: [group], links: [] }, site };
  }

  async start(): Promise<GatewayRole> {
    const { settings, site } = this.settings();
    this.role = await startGateway({
      settings,
      site,
      clock: systemClock,
      random: systemRandom,
      log: silentLog,
      target: this.withAgent ? this.agent : null,
    });
    const address = this.role.wanAddress;
    this.port = address.kind === "tcp" ? address.port : 0;
    this.client = this.connect("primary");
    return this.role;
  }

  connect(as: string): HttpClient {
    const files = this.tls[as]!;
    return createHttpClient({
      origin: `https://127.0.0.1:${this.port}`,
      tls: {
        ca: readFileSync(files.ca),
        cert: readFileSync(files.cert),
        key: readFileSync(files.key),
        serverSite: "dr",
      },
      connections: 8,
    });
  }

  /** Starts the gateway in a process of its own; `killAt`: it kills itself when that failover step begins. */
  async startChild(killAt = ""): Promise<ChildProcess> {
    const argument = JSON.stringify({ ...this.settings(), killAt });
    const script = scriptArguments("./gateway-child", import.meta.url);
    const child = spawn(process.execPath, [...script, argument], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const [line] = await once(child.stdout!, "data");
    this.port = Number(String(line));
    this.client = this.connect("primary");
    return child;
  }

  async stop(): Promise<void> {
    await this.client?.destroy();
    await this.role?.close();
    this.role = undefined;
    this.client = undefined;
  }

  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async send(path: string, body: unknown, client = this.client!): Promise<Reply> {
    const bytes = body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body ?? null));
    const reply = await client.request({
      method: body === undefined ? "GET" : "POST",
      path,
      ...(body === undefined ? {} : { body: bytes }),
      headersTimeoutMs: 60_000,
      answerBytesMax: 65_536,
    });
    return { status: reply.status, json: JSON.parse(Buffer.from(reply.body).toString()) };
  }

  hello(source: Source, change: Partial<Hello> = {}, client = this.client!): Promise<Reply> {
    return this.send(wanRoutes.hello("erp"), source.hello(change), client);
  }

  async batch(
    source: Source,
    frames: readonly Frame[],
    token = source.token,
    codec: "none" | "lz4" | "brotli" = "lz4",
  ): Promise<Reply> {
    return this.send(wanRoutes.batches("erp"), await encodeBatch(frames, token, codec));
  }

  heartbeat(source: Source): Promise<Reply> {
    return this.send(wanRoutes.heartbeat("erp"), source.heartbeat());
  }

  /** Calls an admin route in process, as the endpoint would. */
  async admin(method: string, path: string, body: unknown = {}): Promise<HttpAnswer> {
    for (const route of this.role!.adminRoutes) {
      const match = new RegExp(`^${route.pattern.replace(":group", "([^/]+)")}$`).exec(path);
      if (match === null || route.method !== method) continue;
      const bytes = Buffer.from(JSON.stringify(body));
      const request: HttpRequest = {
        method,
        path,
        params: { group: match[1] ?? "" },
        query: new URLSearchParams(),
        sites: [],
        contentLength: bytes.length,
        take: async () => bytes,
        body: async () => bytes,
        signal: new AbortController().signal,
      };
      return route.run(request);
    }
    throw new Error(`no route ${method} ${path}`);
  }

  // biome-ignore lint/suspicious/noExplicitAny: lines are looked at field by field.
  async failover(): Promise<any[]> {
    const answer = await this.admin("POST", "/v1/groups/erp/failover/run", { reason: "test" });
    // biome-ignore lint/suspicious/noExplicitAny: as above.
    const lines: any[] = [];
    if ("lines" in answer) for await (const line of answer.lines) lines.push(line);
    return lines;
  }

  /** Waits, by heartbeats, until everything the source has is applied; bounded by the test's own timeout. */
  async applied(source: Source): Promise<void> {
    for (;;) {
      const { json } = await this.heartbeat(source);
      if (json.kind === "alive" && json.applied >= source.last) return;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  images(): Buffer[] {
    return volumes.map((volume) => readFileSync(this.paths.image(volume.name)));
  }
}
