/**
 * Lets a process believe that its host was started anew: it runs in a mount namespace of its own, in which the kernel's
 * boot identity is another file. Needs root and `unshare`. The namespace holds no mount of any other test: a copy of
 * one would keep that test's disk busy after its own unmount.
 */
import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";

/** Gives the boot identity, leaves other mounts below the scratch folder, and becomes the command. */
const script = `
boot=$1 keep=$2 scratch=$3; shift 3
mount --bind "$boot" /proc/sys/kernel/random/boot_id || exit 97
while read -r _ _ _ _ point _; do
  case "$point" in
    "$keep" | "$keep"/*) ;;
    "$scratch"/*) umount -l "$point" 2>/dev/null || true ;;
  esac
done < /proc/self/mountinfo
exec "$@"`;

export class OwnBoot {
  readonly #file: string;
  readonly #keep: string;

  /** `file` holds the identity and is made here; `keep` is the one mount below the scratch folder that stays visible. */
  constructor(file: string, keep: string) {
    this.#file = file;
    this.#keep = keep;
    this.reboot();
  }

  /** Every process launched from now on sees another boot. Call while none runs. */
  reboot(): void {
    writeFileSync(this.#file, `${randomUUID()}\n`);
  }

  /** Words that go before a command. */
  launch(): readonly string[] {
    const own = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"];
    return [...own, this.#file, this.#keep, tmpdir()];
  }
}
