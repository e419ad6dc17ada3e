/** Where a command writes and asks: stdout for answers, stderr for progress and errors. Tests put their own in place. */
import { createInterface } from "node:readline/promises";
import { styleText } from "node:util";

export type Style = "bold" | "dim" | "green" | "yellow" | "red";

export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Answers go to a person, not to a pipe. */
  readonly interactive: boolean;
  /** Progress may be redrawn. */
  readonly progressRedraws: boolean;
  readonly columns: number;
  readonly rows: number;
  out(text: string): void;
  err(text: string): void;
  /** Text in a style where the terminal shows it and NO_COLOR does not forbid it. */
  style(style: Style, text: string): string;
  /** One line typed by a person; undefined when there is nobody to ask. */
  ask(question: string): Promise<string | undefined>;
  /** Calls `pressed` with each key until the returned function is called; nothing without a terminal. */
  keys(pressed: (key: string) => void): () => void;
}

export function processTerminal(env: NodeJS.ProcessEnv): Terminal {
  return {
    env,
    interactive: process.stdout.isTTY === true,
    progressRedraws: process.stderr.isTTY === true && env["TERM"] !== "dumb",
    get columns() {
      return process.stdout.columns ?? 100;
    },
    get rows() {
      return process.stdout.rows ?? 24;
    },
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    style: (style, text) => styleText(style, text, { stream: process.stdout, validateStream: true }),
    async ask(question) {
      if (process.stdin.isTTY !== true) return undefined;
      const lines = createInterface({ input: process.stdin, output: process.stderr });
      try {
        return await lines.question(question);
      } finally {
        lines.close();
      }
    },
    keys(pressed) {
      if (process.stdin.isTTY !== true) return () => undefined;
      const listen = (bytes: Buffer) => pressed(bytes.toString("latin1"));
      process.stdin.setRawMode(true);
      process.stdin.on("data", listen);
      return () => {
        process.stdin.off("data", listen);
        process.stdin.setRawMode(false);
        process.stdin.pause();
      };
    },
  };
}
