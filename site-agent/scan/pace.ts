/** How fast a scan reads. Pure. Knows purposes and the configured rate; when there is room at all is for others to say. */
import type { ScanPurpose } from "../../protocol/record.ts";

/**
 * Part of its rate that a `verify` keeps while clients write. Both sites' digests and reads cost some 6 ms of a core for each
 * MiB where the writers need it too; at a quarter of 64 MiB/s that is less than a tenth of one core (bench/verify.ts).
 */
const verifyBesideClients = 1 / 4;

/**
 * Bytes/s for what is read next; infinite: as fast as it may. `clientsWrite`: a request came since the last chunk. Only a
 * `verify` gives way, nobody waits for its end; what brings a standby what it lacks goes on at the full rate.
 */
export function paceOf(purpose: ScanPurpose, bytesPerSecond: number | null, clientsWrite: boolean): number {
  if (bytesPerSecond === null) return Number.POSITIVE_INFINITY;
  return purpose === "verify" && clientsWrite ? bytesPerSecond * verifyBesideClients : bytesPerSecond;
}
