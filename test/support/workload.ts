/**
 * A seeded mixed block workload over the volumes of one group: overlapping and separate writes of 512 B to 256 KiB,
 * trims, zeroes, FLUSH and FUA, many in flight, each noted in the ExpectedRecord before it is sent and after it is
 * answered. The request with a given index is the same in every run of a seed; how they interleave is not. It never
 * retries: what a dead connection leaves open is unknown.
 */
import { setMaxListeners } from "node:events";
import type { ExpectedRecord, MutationKind } from "./expected.ts";
import type { NbdClient, NbdReply } from "./nbd-client.ts";
import { SeededRandom } from "./seeded.ts";
import { stampBytes, stampData } from "./stamp.ts";
import { until } from "./wait.ts";

export interface WorkloadOptions {
  readonly record: ExpectedRecord;
  /** Per volume one or more connections; a request takes one of them by lot. */
  readonly clients: readonly (readonly NbdClient[])[];
  /** Requests in flight over all volumes. */
  readonly depth: number;
  /** Requests after which it ends by itself; default never. */
  readonly requestsMax?: number;
  /** Upper bound on data sent, bytes per second; default none. */
  readonly bytesPerSecond?: number;
  /** Ends it: no new request is sent. */
  readonly signal?: AbortSignal;
  /** Called after each answered request with how many were answered so far. */
  readonly onAnswered?: (answered: number) => void;
}

export interface WorkloadResult {
  readonly sent: number;
  readonly answered: number;
  readonly refused: number;
  readonly unknown: number;
  /** Errno values of refused requests, each once. */
  readonly errnos: readonly number[];
  /** A read-back of an answered write gave something that no allowed order explains; empty is good. */
  readonly problems: readonly string[];
}

interface Drawn {
  readonly volume: number;
  readonly connection: number;
  readonly kind: MutationKind | "flush" | "read";
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
}

const sizes = [512, 512, 1024, 4096, 4096, 4096, 4096, 8192, 16384, 65536, 131072, 262144];

/** Request `index` of a run. A tenth of the disk is hot, so that requests in flight overlap. */
function draw(record: ExpectedRecord, connections: readonly number[], index: number): Drawn {
  const random = new SeededRandom(record.seed, index);
  const volume = random.below(record.volumeBytes.length);
  const volumeBytes = record.volumeBytes[volume]!;
  const kindDraw = random.fraction();
  const kind =
    kindDraw < 0.82
      ? "write"
      : kindDraw < 0.87
        ? "zeroes"
        : kindDraw < 0.92
          ? "trim"
          : kindDraw < 0.97
            ? "flush"
            : "read";
  const length = Math.min(random.pick(sizes), volumeBytes);
  const spanBytes = random.chance(0.3) ? Math.max(length, Math.floor(volumeBytes / 10)) : volumeBytes;
  // Databases write whole blocks, boot loaders single sectors: both happen.
  const unit = random.chance(0.7) && length >= 4096 ? 4096 : stampBytes;
  const offset = random.below(Math.floor((spanBytes - length) / unit) + 1) * unit;
  return {
    volume,
    connection: random.below(connections[volume]!),
    kind,
    offset,
    length,
    fua: random.chance(0.03),
  };
}

/** Runs until a bound, the signal, or the death of a connection. Rejects only for an error of its own. */
export async function runWorkload(options: WorkloadOptions): Promise<WorkloadResult> {
  const {
    record,
    clients,
    depth,
    requestsMax = Number.POSITIVE_INFINITY,
    bytesPerSecond,
    signal,
    onAnswered,
  } = options;
  // Every waiting worker listens.
  if (signal !== undefined) setMaxListeners(depth + 10, signal);
  const connections = clients.map((of) => of.length);
  const startedMs = performance.now();
  const firstIndex = record.mutations.length + record.flushes + 1;
  const counts = { sent: 0, answered: 0, refused: 0, unknown: 0 };
  const errnos = new Set<number>();
  const problems: string[] = [];
  let bytes = 0;
  let ended = false;

  const send = async (drawn: Drawn): Promise<NbdReply> => {
    const client = clients[drawn.volume]![drawn.connection]!;
    const { volume, kind, offset, length, fua } = drawn;
    if (kind === "read") {
      const reply = await client.read(offset, length);
      if (reply.outcome === "answered" && reply.data.length !== length)
        problems.push(`short read at ${offset}`);
      return reply;
    }
    if (kind === "flush") {
      const start = record.flushBegin();
      const reply = await client.flush();
      if (reply.outcome === "answered") record.flushAnswered(volume, start);
      return reply;
    }
    // The record takes the request before the first byte leaves, else an answer could be older than its sending.
    const data =
      kind === "write" ? stampData(record.seed, record.nextNumber, volume, offset, length) : undefined;
    const mutation = record.begin(volume, kind, offset, length, fua);
    const reply = await (data !== undefined
      ? client.write(offset, data, fua)
      : kind === "trim"
        ? client.trim(offset, length, fua)
        : client.zeroes(offset, length, { fua, noHole: mutation.number % 2 === 0 }));
    if (reply.outcome === "answered") record.answered(mutation);
    else if (reply.outcome === "refused") record.refused(mutation);
    else record.unknown(mutation);
    return reply;
  };

  const worker = async () => {
    while (!ended && signal?.aborted !== true && counts.sent < requestsMax) {
      const drawn = draw(record, connections, firstIndex + counts.sent);
      counts.sent += 1;
      bytes += drawn.kind === "write" ? drawn.length : 0;
      const reply = await send(drawn);
      counts[reply.outcome] += 1;
      if (reply.outcome === "answered") onAnswered?.(counts.answered);
      else ended = true;
      if (reply.outcome === "refused") errnos.add(reply.errno);
      if (bytesPerSecond !== undefined) await pace(bytes / bytesPerSecond, startedMs, signal);
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
  return { ...counts, errnos: [...errnos], problems };
}

/** What a run with faults must have done at least to prove anything. */
export interface WorkWanted {
  readonly writes: number;
  readonly flushes: number;
}

export const workWanted: WorkWanted = { writes: 200, flushes: 10 };

/** Waits until a load that is running has done enough to count, however slow the machine is. */
export async function enoughWork(record: ExpectedRecord, wanted: WorkWanted = workWanted): Promise<void> {
  const { writes, flushes } = wanted;
  await until(
    `${writes} writes and ${flushes} FLUSHes to be answered`,
    () => (record.count("answered") >= writes && record.flushes >= flushes ? true : undefined),
    60_000,
  );
}

/** Holds the worker until `dueSeconds` after the start: a rate is a matter of time, so this one does wait on the clock. */
async function pace(dueSeconds: number, startedMs: number, signal: AbortSignal | undefined): Promise<void> {
  const waitMs = startedMs + dueSeconds * 1000 - performance.now();
  if (waitMs < 1 || signal?.aborted === true) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, waitMs);
    signal?.addEventListener("abort", done);
  });
}
