/**
 * Two sites under load over a relay, for tests in which only the line is bad: what the kill rig knows, and besides a
 * write probe of its own, because no trouble of the line may ever be felt by a writer (P4).
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { KillRig } from "../crash/rig.ts";
import { NbdClient } from "../support/nbd-client.ts";
import type { Relay, RelayOptions } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { SeededRandom } from "../support/seeded.ts";
import type { TwoSitesOptions } from "../support/sites.ts";
import { stampData } from "../support/stamp.ts";
import { until } from "../support/wait.ts";

/**
 * A write that waits for a line that is down waits 8 s at least: that is when silence is noticed. Half of it is far more
 * than a busy disk needs.
 */
export const writeMsMax = 4_000;
const probeIntervalMs = 20;
/** One FLUSH for so many probe writes. */
const writesPerFlush = 10;

export interface LineRigOptions {
  readonly seed: number;
  readonly bytesPerSecond?: number;
  /** Without the load there are only the probe's writes of 512 bytes, one in so many ms. */
  readonly onlyProbeEveryMs?: number;
  readonly relay?: Partial<RelayOptions>;
  /** Something between relay and gateway: as `line` of the sites. */
  readonly behindRelay?: TwoSitesOptions["line"];
  readonly sites?: Partial<TwoSitesOptions>;
}

export class LineRig {
  readonly pair: KillRig;
  readonly relay: Relay;
  /** Worst write since `resetWorst`, ms, and how many there were. */
  worstMs = 0;
  probes = 0;
  #probing = true;
  readonly #loaded: boolean;
  readonly #probe: Promise<void>;

  private constructor(pair: KillRig, relay: Relay, probe: NbdClient, onlyProbeEveryMs?: number) {
    this.#loaded = onlyProbeEveryMs === undefined;
    this.pair = pair;
    this.relay = relay;
    this.#probe = this.#probeWrites(probe, onlyProbeEveryMs ?? probeIntervalMs);
  }

  /** Both sites serving, the load running, and something acknowledged. */
  static async start(options: LineRigOptions): Promise<LineRig> {
    let relay: Relay | undefined;
    const pair = await KillRig.start({
      seed: options.seed,
      random: new SeededRandom(options.seed, 9),
      bytesPerSecond: options.bytesPerSecond ?? 4e6,
      sites: {
        ...options.sites,
        line: async (port, folder) => {
          const behind = (await options.behindRelay?.(port, folder)) ?? port;
          relay = await startRelay({
            listenPort: 0,
            target: { host: "127.0.0.1", port: behind },
            seed: options.seed,
            ...options.relay,
          });
          return relay.port;
        },
      },
    });
    const { sites } = pair;
    const probe = await NbdClient.connect(sites.nbdSocket("primary"), sites.exportOf(sites.volumes[0]!.name));
    const rig = new LineRig(pair, relay!, probe, options.onlyProbeEveryMs);
    if (rig.#loaded) await pair.startLoad();
    await rig.advance(20);
    return rig;
  }

  async dispose(): Promise<void> {
    this.#probing = false;
    await this.#probe;
    await this.pair.dispose();
    await this.relay.close();
  }

  /** One small write after another, each timed; they are part of the record like any other. */
  async #probeWrites(client: NbdClient, intervalMs: number): Promise<void> {
    const { record } = this.pair;
    while (this.#probing) {
      const offset = (record.nextNumber % 64) * 512;
      const data = stampData(record.seed, record.nextNumber, 0, offset, 512);
      const mutation = record.begin(0, "write", offset, 512, false);
      const startedMs = performance.now();
      const reply = await client.write(offset, data);
      if (reply.outcome !== "answered") {
        if (reply.outcome === "refused") record.refused(mutation);
        else record.unknown(mutation);
        break;
      }
      record.answered(mutation);
      this.worstMs = Math.max(this.worstMs, performance.now() - startedMs);
      this.probes += 1;
      if (this.probes % writesPerFlush === 0) {
        const start = record.flushBegin();
        if ((await client.flush()).outcome === "answered") record.flushAnswered(0, start);
      }
      await new Promise((resolve) => setTimeout(resolve, intervalMs));
    }
    await client.destroy();
  }

  resetWorst(): void {
    this.worstMs = 0;
    this.probes = 0;
  }

  /** What `resetWorst` began: writes went on and none waited for the line. */
  assertWritesUnfelt(context: string): void {
    assert.ok(this.probes >= 10, `invalid run, ${context}: only ${this.probes} writes were timed`);
    assert.ok(this.worstMs < writeMsMax, `${context}: a write took ${Math.round(this.worstMs)} ms`);
  }

  async acknowledged(): Promise<number> {
    return (await this.pair.sites.owner("primary")).position.acknowledged;
  }

  /** Waits until the standby has acknowledged `records` more. Gives how long that took, ms. */
  async advance(records: number, timeoutMs = 30_000): Promise<number> {
    const target = (await this.acknowledged()) + records;
    const startedMs = performance.now();
    await until(
      `${records} more records to be acknowledged`,
      async () => ((await this.acknowledged()) >= target ? true : undefined),
      timeoutMs,
    );
    return performance.now() - startedMs;
  }

  /** Every request answered, both sites the same and the prefix they claim; then the pair's validity guard. */
  async finish(faults: number): Promise<string> {
    this.#probing = false;
    await this.#probe;
    if (this.#loaded) await this.pair.stopLoad();
    const { sites } = this.pair;
    const figures = await this.pair.finish(faults);
    for (const { name } of sites.volumes) {
      const standby = readFileSync(await sites.standbyImage("dr", name));
      await until(`${name} to be the same at home`, async () =>
        standby.equals(readFileSync(await sites.homeImage("primary", name))) ? true : undefined,
      );
    }
    return figures;
  }
}
