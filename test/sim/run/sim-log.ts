/**
 * The product's log in a simulated run: each line goes to the trace, and a line that carries a failed assertion or an
 * error of the program's own making ends the run, since the real product would have to die of it.
 */

import { errorCode, errorText } from "../../../runtime/errors.ts";
import type { Log } from "../../../runtime/log.ts";
import type { Life } from "../world/life.ts";
import type { Trace } from "../world/trace.ts";

/** Errors that no failing world explains. */
export function isOwnFault(error: unknown): boolean {
  let current: unknown = error;
  for (let depth = 0; depth < 8 && current instanceof Error; depth += 1) {
    if (current.name === "AssertionError" || current instanceof TypeError || current instanceof RangeError)
      return true;
    if (current instanceof ReferenceError || current.name === "Violation") return true;
    current = current.cause;
  }
  return false;
}

export class SimLog implements Log {
  readonly #life: Life;
  readonly #trace: Trace;
  readonly #now: () => number;
  readonly #blame: (error: unknown, line: string) => void;
  readonly #prefix: string;

  constructor(
    life: Life,
    trace: Trace,
    now: () => number,
    blame: (error: unknown, line: string) => void,
    prefix = "",
  ) {
    this.#life = life;
    this.#trace = trace;
    this.#now = now;
    this.#blame = blame;
    this.#prefix = prefix;
  }

  child(fields: Readonly<Record<string, unknown>>): Log {
    const group = typeof fields["group"] === "string" ? `${fields["group"]} ` : this.#prefix;
    return new SimLog(this.#life, this.#trace, this.#now, this.#blame, group);
  }

  #line(level: string, code: string, message: string, fields?: Readonly<Record<string, unknown>>): string {
    if (!this.#life.alive) return "";
    const extra = fields === undefined ? "" : ` ${JSON.stringify(fields)}`;
    const text = `${Math.round(this.#now() * 1_000)} ${this.#life.name} ${this.#prefix}${level} ${code}: ${message}${extra}`;
    this.#trace.add(text);
    return text;
  }

  debug(code: string, message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#line("debug", code, message, fields);
  }

  info(code: string, message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#line("info", code, message, fields);
  }

  warn(code: string, message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#line("warn", code, message, fields);
  }

  error(code: string, message: string, error?: unknown, fields?: Readonly<Record<string, unknown>>): void {
    const why = error === undefined ? "" : ` [${errorCode(error)} ${errorText(error)}]`;
    const line = this.#line("error", code, message + why, fields);
    if (this.#life.alive && isOwnFault(error)) this.#blame(error, line);
  }
}
