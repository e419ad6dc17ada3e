/**
 * A private copy of the work tree to plant bugs in: the tracked and not ignored files, with the installed packages
 * linked. Owns its temporary folder, and a folder for what the tests leave behind; removes both. Never writes to the
 * tree it was made from.
 */
import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

export class TreeCopy {
  readonly root: string;
  /** Temporary folder for the tests that run in the copy. */
  readonly scratch: string;
  readonly #folder: string;

  constructor(original: string) {
    this.#folder = mkdtempSync(join(tmpdir(), "splitsite-planted-"));
    this.root = join(this.#folder, "tree");
    this.scratch = join(this.#folder, "t");
    mkdirSync(this.scratch);
    const listed = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "-z"], {
      cwd: original,
      maxBuffer: 64 * 1024 * 1024,
    });
    for (const path of listed.toString().split("\0")) {
      // A tracked file that was removed and not committed is listed, too.
      if (path === "" || !existsSync(join(original, path))) continue;
      const target = join(this.root, path);
      mkdirSync(dirname(target), { recursive: true });
      cpSync(join(original, path), target);
    }
    symlinkSync(join(original, "node_modules"), join(this.root, "node_modules"));
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), "utf8");
  }

  write(path: string, text: string): void {
    writeFileSync(join(this.root, path), text);
  }

  has(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  /** What the last tests left in their temporary folder goes. */
  clearScratch(): void {
    rmSync(this.scratch, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    mkdirSync(this.scratch);
  }

  remove(): void {
    // A process that was just ended may still be leaving.
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  }
}
