/**
 * Runs fio and reads its JSON. All benchmarks use the same options, so that figures compare: fresh half-compressible
 * buffers for every write, as data of a real disk, never the zeroes that make everything fast.
 */
import { mustRun } from "../test/support/child.ts";

export interface FioJob {
  /** nbd: a URI; file: a path. */
  readonly target: { readonly uri: string } | { readonly path: string };
  readonly rw: "randwrite" | "randread" | "write";
  /** Bytes. */
  readonly blockBytes: number;
  readonly depth: number;
  readonly seconds: number;
  /** Bytes of the target that are used. */
  readonly sizeBytes: number;
  /** Further options. */
  readonly extra?: readonly string[];
}

export interface FioResult {
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Completion latency, microseconds. */
  readonly p50Us: number;
  readonly p99Us: number;
  /** Latency of FLUSH or fdatasync, microseconds; NaN without any. */
  readonly syncP50Us: number;
  readonly syncP99Us: number;
}

interface Percentiles {
  readonly percentile?: Readonly<Record<string, number>>;
}
interface FioOutput {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: FioSide;
    readonly write: FioSide;
    readonly sync?: { readonly lat_ns?: Percentiles };
  }[];
}
interface FioSide {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: Percentiles;
}

export async function runFio(job: FioJob): Promise<FioResult> {
  const where =
    "uri" in job.target
      ? ["--ioengine=nbd", `--uri=${job.target.uri}`]
      : ["--ioengine=psync", `--filename=${job.target.path}`];
  const text = await mustRun("fio", [
    "--name=bench",
    ...where,
    `--rw=${job.rw}`,
    `--bs=${job.blockBytes}`,
    `--iodepth=${job.depth}`,
    `--size=${job.sizeBytes}`,
    "--time_based",
    `--runtime=${job.seconds}`,
    "--ramp_time=1",
    "--refill_buffers",
    "--buffer_compress_percentage=50",
    "--buffer_compress_chunk=512",
    "--randrepeat=0",
    "--norandommap",
    "--thread",
    "--output-format=json",
    ...(job.extra ?? []),
  ]);
  const output = JSON.parse(text.slice(text.indexOf("{"))) as FioOutput;
  const [one] = output.jobs;
  if (one === undefined || one.error !== 0) throw new Error(`fio reports error ${one?.error}`);
  const side = job.rw === "randread" ? one.read : one.write;
  return {
    iops: side.iops,
    bytesPerSecond: side.bw_bytes,
    p50Us: percentileUs(side.clat_ns, "50.000000"),
    p99Us: percentileUs(side.clat_ns, "99.000000"),
    syncP50Us: percentileUs(one.sync?.lat_ns, "50.000000"),
    syncP99Us: percentileUs(one.sync?.lat_ns, "99.000000"),
  };
}

function percentileUs(from: Percentiles | undefined, key: string): number {
  return (from?.percentile?.[key] ?? Number.NaN) / 1000;
}
