/** Who gives an order, as far as this host knows: a name for the record, never a proof. */
import { hostname } from "node:os";

/** `carol@berlin-1`. */
export function operatorName(env: Readonly<Record<string, string | undefined>>): string {
  const user = env["SUDO_USER"] ?? env["USER"] ?? env["LOGNAME"] ?? `uid ${process.getuid?.() ?? "unknown"}`;
  return `${user}@${hostname()}`;
}
