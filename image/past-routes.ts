/**
 * The admin routes to a group's past, the same at both roles: which points there are, the content of a volume at
 * one of them, and all before-images read through. A thin translation; it reads only, and holds a point for as long as somebody listens.
 */
import { createHash } from "node:crypto";
import type {
  AdminLine,
  ExportedPoint,
  HistoryVerdict,
  PastRole,
  PinReport,
  PinRequest,
  PointList,
  UnpinRequest,
} from "../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../protocol/admin.ts";
import type { VolumeEntry } from "../protocol/ids.ts";
import { bytesToHex } from "../protocol/ids.ts";
import type { PointChoice } from "../protocol/point.ts";
import { parsePoint, pointForm } from "../protocol/point.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { PinStatus } from "../protocol/status.ts";
import type { Clock } from "../runtime/clock.ts";
import { rfc3339 } from "../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { HttpRequest, Route } from "../runtime/http.ts";
import { LineQueue } from "../runtime/line-queue.ts";
import type { CheckProgress } from "./history-check.ts";
import type { Past } from "./past.ts";
import { labelOf } from "./past.ts";

const limitDefault = 20;
/** Points of one answer: some 150 bytes each. */
const limitMax = 10_000;
/** Read at once and, in Base64, at most one line: below the reader's limit of 1 MiB. */
const readBytes = 512 * 1024;
/** Zeroes are left out in pieces of this length: holes of the file that is made from it. */
const pieceBytes = 64 * 1024;
/** Progress is told this often, bytes read. */
const progressBytes = 16 * 1024 * 1024;
/** An order is a few fields. */
const orderBytesMax = 16 * 1024;
/** Ids of pins that an operator makes: behind it the sequence. */
const operatorsPin = "pin-";
/** Ids of pins that an operator may give back: his own, and what a repair kept for him to look at. */
const releasable = [operatorsPin, "repair-"];
const zeroes = Buffer.alloc(pieceBytes);

/** What a role knows of a group whose past is asked for. */
export interface PastHolder {
  /** Undefined while its images are closed. */
  readonly past: Past | undefined;
  /** What is read at most by what may take long, bytes/s; null: no limit. */
  readonly scanBytesPerSecond: number | null;
}

/** `find` throws for a group that is not there. */
export function pastRoutes(
  role: PastRole,
  find: (request: HttpRequest) => PastHolder,
  clock: Clock,
): Route[] {
  return [
    {
      method: "GET",
      pattern: adminRoutes.points(role, ":group"),
      run: async (request) => ({
        status: 200,
        json: await listPoints(request, openPast(find(request).past)),
      }),
    },
    {
      method: "GET",
      pattern: adminRoutes.pointContent(role, ":group"),
      run: async (request) => {
        const past = openPast(find(request).past);
        const choice = choiceOf(request);
        const volume = volumeOf(request, past);
        const group = request.params["group"] ?? "";
        return { status: 200, lines: contentLines({ group, volume, past, choice, clock }) };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.pointPin(role, ":group"),
      run: async (request) => {
        const past = openPast(find(request).past);
        const { point, label } = (await orderOf(request)) as Partial<PinRequest>;
        const choice = typeof point === "string" ? parsePoint(point) : undefined;
        if (choice === undefined || typeof label !== "string")
          throw new RemoteProtocolError("REQUEST_MALFORMED", `point must be ${pointForm}, label a text`);
        const pin = await past.pin((sequence) => `${operatorsPin}${sequence}`, choice, label);
        return { status: 200, json: pinReport(request, past, pin) };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.pointUnpin(role, ":group"),
      run: async (request) => {
        const past = openPast(find(request).past);
        const { pin: named } = (await orderOf(request)) as Partial<UnpinRequest>;
        const pin = past.status?.pins.find(({ id }) => id === named || id === `${operatorsPin}${named}`);
        if (pin === undefined) throw pinRefused("PIN_UNKNOWN", `there is no pin ${named}`);
        if (!releasable.some((prefix) => pin.id.startsWith(prefix)))
          throw pinRefused("PIN_IN_USE", `the pin ${pin.id} is needed here, and given back by itself`);
        await past.unpin(pin.id);
        return { status: 200, json: pinReport(request, past, pin) };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.pointDigest(role, ":group"),
      run: async (request) => {
        const { past, scanBytesPerSecond } = find(request);
        const [open, choice] = [openPast(past), choiceOf(request)];
        const group = request.params["group"] ?? "";
        const lines = longLines("digest", clock, (onProgress) =>
          open.digest(group, choice, scanBytesPerSecond, onProgress),
        );
        return { status: 200, lines };
      },
    },
    {
      method: "POST",
      pattern: adminRoutes.historyVerify(role, ":group"),
      run: async (request) => {
        const { past, scanBytesPerSecond } = find(request);
        const group = request.params["group"] ?? "";
        const open = openPast(past);
        const lines = longLines("history", clock, async (onProgress): Promise<HistoryVerdict> => {
          const told = ({ doneBytes, totalBytes }: CheckProgress) => onProgress(doneBytes, totalBytes);
          return { group, ...(await open.check(scanBytesPerSecond, told)) };
        });
        return { status: 200, lines };
      },
    },
  ];
}

function openPast(past: Past | undefined): Past {
  if (past !== undefined) return past;
  throw new OperationalError({
    code: "POINTS_NONE",
    message: "the images are not open here, or no history is kept of them",
    reaction: "refuse",
    hint: "See `splitsite status` at the site that stands by, or that has taken the group over.",
  });
}

function volumeOf(request: HttpRequest, past: Past): VolumeEntry {
  const name = request.query.get("volume");
  const volume = past.volumes.find((each) => each.name === name);
  if (volume !== undefined) return volume;
  throw new OperationalError({
    code: "VOLUME_UNKNOWN",
    message: `the group has no volume ${name}`,
    reaction: "refuse",
  });
}

function countIn(request: HttpRequest, name: string): number | undefined {
  const text = request.query.get(name);
  if (text === null) return undefined;
  const count = Number(text);
  if (/^\d{1,15}$/.test(text)) return count;
  throw new RemoteProtocolError("REQUEST_MALFORMED", `${name} must be a whole number`);
}

async function orderOf(request: HttpRequest): Promise<object> {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(await request.body(orderBytesMax)).toString("utf8"));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  if (typeof value === "object" && value !== null) return value;
  throw new RemoteProtocolError("REQUEST_MALFORMED", "the order is no JSON object");
}

function pinRefused(code: string, message: string): OperationalError {
  return new OperationalError({ code, message, reaction: "refuse", hint: "See: splitsite points GROUP." });
}

function pinReport(request: HttpRequest, past: Past, pin: PinStatus): PinReport {
  const { bytes, maxBytes } = past.status ?? { bytes: 0, maxBytes: 0 };
  return {
    group: request.params["group"] ?? "",
    ...pin,
    historyBytes: bytes,
    historyBytesMax: maxBytes,
  };
}

function choiceOf(request: HttpRequest): PointChoice {
  const choice = parsePoint(request.query.get("point") ?? "latest");
  if (choice !== undefined) return choice;
  throw new RemoteProtocolError("REQUEST_MALFORMED", `point must be ${pointForm}`);
}

async function listPoints(request: HttpRequest, past: Past): Promise<PointList> {
  const limit = Math.min(countIn(request, "limit") ?? limitDefault, limitMax);
  const points = await past.points(countIn(request, "from"), limit);
  const pins = past.status?.pins ?? [];
  const rows: PointList["points"][number][] = [];
  for (const [index, point] of points.entries()) {
    const { sequence, dataBytesTotal, chain } = point;
    const before = points[index - 1];
    rows.push({
      sequence,
      time: labelOf(point),
      bytes: before === undefined ? null : dataBytesTotal - before.dataBytesTotal,
      pins: pins.filter((pin) => pin.sequence === sequence).map(({ id }) => id),
      chain: bytesToHex(chain),
      leftOut: past.leftOutAt(point),
      digest: (await past.digestOf(point)) ?? null,
    });
  }
  return { group: request.params["group"] ?? "", pins, points: rows };
}

interface Content {
  readonly group: string;
  readonly volume: VolumeEntry;
  readonly past: Past;
  readonly choice: PointChoice;
  readonly clock: Clock;
}

/** Asked for line by line, as the listener takes them: never more than one read is held. */
async function* contentLines({ group, volume, past, choice, clock }: Content): AsyncGenerator<AdminLine> {
  const point = await past.find(choice);
  // Held only once somebody listens, and let go when nobody does any more.
  const view = await past.openView(volume.number, point.sequence);
  try {
    const hash = createHash("sha256");
    const time = labelOf(point);
    for (let offset = 0; offset < view.sizeBytes; offset += readBytes) {
      if (offset % progressBytes === 0) {
        const message = `volume ${volume.name} at ${point.sequence}`;
        const now = rfc3339(clock.wallMs());
        yield { type: "progress", step: "export", message, time: now, done: offset, total: view.sizeBytes };
      }
      const bytes = await view.read(offset, Math.min(readBytes, view.sizeBytes - offset));
      hash.update(bytes);
      yield* dataLines(offset, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    }
    const { name, sizeBytes } = volume;
    const result: ExportedPoint = {
      ...{ group, volume: name, sequence: point.sequence, time, sizeBytes },
      sha256: hash.digest("hex"),
    };
    yield { type: "result", result };
  } finally {
    await view.close();
  }
}

/** Long reading as lines: progress, then the result. It goes on when the listener goes away; it only reads. */
function longLines(
  step: string,
  clock: Clock,
  run: (onProgress: (done: number, total: number) => void) => Promise<unknown>,
): AsyncIterable<AdminLine> {
  const lines = new LineQueue();
  let told = Number.NEGATIVE_INFINITY;
  const onProgress = (done: number, total: number): void => {
    if (done - told < progressBytes) return;
    told = done;
    lines.push({ type: "progress", step, message: "reading", time: rfc3339(clock.wallMs()), done, total });
  };
  const follow = async (): Promise<void> => {
    try {
      lines.push({ type: "result", result: await run(onProgress) });
    } catch (error) {
      const refused = error instanceof OperationalError && error.reaction === "refuse";
      lines.push({
        type: "error",
        code: refused ? ExitCode.refused : ExitCode.failed,
        id: errorCode(error),
        message: errorText(error),
        try: "Look at `splitsite status` and the disk that holds the history; then try again.",
      });
    }
    lines.end();
  };
  void follow();
  return lines;
}

function* dataLines(offset: number, bytes: Buffer): Generator<AdminLine> {
  for (let start = 0; start < bytes.byteLength; ) {
    let end = start;
    while (end < bytes.byteLength && !isZero(bytes.subarray(end, end + pieceBytes))) end += pieceBytes;
    if (end > start)
      yield { type: "data", offset: offset + start, base64: bytes.toString("base64", start, end) };
    start = end + pieceBytes;
  }
}

function isZero(bytes: Buffer): boolean {
  return bytes.equals(zeroes.subarray(0, bytes.byteLength));
}
