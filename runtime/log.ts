/**
 * Structured logging; the only importer of pino. Fixed keys: `component`, `group`, `volume`, `epoch`,
 * `sequence`, `code`. Never a secret, never block contents. Repeated lines are limited per code.
 */
import pino from "pino";
import { errorCode, errorText } from "./errors.ts";

export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
  child(fields: LogFields): Log;
  debug(code: string, message: string, fields?: LogFields): void;
  info(code: string, message: string, fields?: LogFields): void;
  warn(code: string, message: string, fields?: LogFields): void;
  error(code: string, message: string, error?: unknown, fields?: LogFields): void;
}

/** At most this many lines of one code in one window; the rest are counted and told with the next line. */
const linesPerWindowMax = 20;
const windowMs = 10_000;
/** Distinct codes remembered; codes are a closed set in our sources, so this is never reached by peers. */
const codesMax = 1_000;

class LineLimiter {
  readonly #windows = new Map<string, { startedMs: number; lines: number; dropped: number }>();

  /** Undefined when the line must be dropped, else how many were dropped before it. */
  admit(code: string, nowMs: number): number | undefined {
    let window = this.#windows.get(code);
    if (window === undefined || nowMs - window.startedMs >= windowMs) {
      const dropped = window?.dropped ?? 0;
      if (window === undefined && this.#windows.size >= codesMax) this.#windows.clear();
      window = { startedMs: nowMs, lines: 1, dropped: 0 };
      this.#windows.set(code, window);
      return dropped;
    }
    if (window.lines >= linesPerWindowMax) {
      window.dropped += 1;
      return undefined;
    }
    window.lines += 1;
    return 0;
  }
}

class PinoLog implements Log {
  readonly #pino: pino.Logger;
  readonly #limiter: LineLimiter;

  constructor(logger: pino.Logger, limiter: LineLimiter) {
    this.#pino = logger;
    this.#limiter = limiter;
  }

  child(fields: LogFields): Log {
    return new PinoLog(this.#pino.child(fields), this.#limiter);
  }

  #write(level: "debug" | "info" | "warn" | "error", code: string, message: string, fields: LogFields): void {
    if (!this.#pino.isLevelEnabled(level)) return;
    const dropped = this.#limiter.admit(code, performance.now());
    if (dropped === undefined) return;
    this.#pino[level](dropped > 0 ? { code, dropped, ...fields } : { code, ...fields }, message);
  }

  debug(code: string, message: string, fields: LogFields = {}): void {
    this.#write("debug", code, message, fields);
  }

  info(code: string, message: string, fields: LogFields = {}): void {
    this.#write("info", code, message, fields);
  }

  warn(code: string, message: string, fields: LogFields = {}): void {
    this.#write("warn", code, message, fields);
  }

  error(code: string, message: string, error?: unknown, fields: LogFields = {}): void {
    const why = error === undefined ? {} : { error: errorText(error), errorCode: errorCode(error) };
    this.#write("error", code, message, { ...why, ...fields });
  }
}

/** Logger that writes JSON lines to stdout, where journald takes them as they are. */
export function createLog(level: "debug" | "info" | "warn" | "error" | "silent" = "info"): Log {
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.destination({ dest: 1, sync: true }),
  );
  return new PinoLog(logger, new LineLimiter());
}

/** Logger that drops everything, for tests and one-shot commands. */
export const silentLog: Log = createLog("silent");
