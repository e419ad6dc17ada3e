/** Bounds of one NBD session's parser, each with its arithmetic. Limits of sockets and time are the server's. */

export interface NbdSessionLimits {
  /** Options before transmission, however they are answered. A client needs fewer than ten. */
  readonly optionsMax: number;
  /** Added to `optionsMax` per export named in an answered LIST: a lister may ask several things of each. */
  readonly optionsPerListedExport: number;
  /** Option data kept in memory, bytes: the longest legal name (4 KiB) and some hundred information requests. */
  readonly optionBytesMax: number;
  /** Option data skipped without keeping it, bytes; more is an attack, not a newer client. */
  readonly optionDrainBytesMax: number;
  /** READ and WRITE payload, bytes; what we advertise unless the device takes less. */
  readonly payloadBytesMax: number;
  /** WRITE payload skipped before it is refused, bytes. Above: disconnect, since skipping would be our cost alone. */
  readonly payloadDrainBytesMax: number;
}

export const nbdSessionLimits: NbdSessionLimits = {
  optionsMax: 64,
  optionsPerListedExport: 32,
  optionBytesMax: 16 * 1024,
  optionDrainBytesMax: 1024 * 1024,
  // The specification says that 32 MiB must not be taken for an attack, and that clients stay at or below it.
  payloadBytesMax: 32 * 1024 * 1024,
  payloadDrainBytesMax: 64 * 1024 * 1024,
};
