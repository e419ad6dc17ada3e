/**
 * Where this server answers otherwise than nbdkit or qemu-nbd, each looked at and found right. A difference that is not
 * here, and an entry that is no difference any more, fail the comparison.
 */

export type PeerName = "nbdkit" | "qemu-nbd";

export interface Difference {
  /** Name of the script. */
  readonly script: string;
  readonly peer: PeerName;
  readonly ours: string;
  /** What the peer said when this was reviewed: nbdkit 1.32, QEMU 7.2. Another release may say something else. */
  readonly theirs: string;
  /** The peer's answer is a matter of its timing: agreeing is no news. */
  readonly sometimes?: true;
  /** Why ours is right. */
  readonly reason: string;
}

const anyName = "its memory plugin serves any name; here only volumes of the configuration exist";
const onceOnly =
  "the specification lets a server refuse the repetition; agreeing again changes nothing and harms nobody";
const emptyRange =
  "the specification leaves empty ranges open and asks not to disconnect; nothing to do is done at once, without a record";
const endOfDisk =
  "the specification asks for ENOSPC where a write leaves the export, and clients tell a full disk from their own fault by it";
const wholeSectors =
  "the least block advertised is a sector of 512 bytes, since the promise of atomic sectors holds for whole ones only";
const notOurMagic =
  "it reads on and closes later; without the magic nothing behind it can be believed, not even a cookie";

export const differences: readonly Difference[] = [
  {
    script: "T20 DISC with other fields",
    peer: "qemu-nbd",
    ours: "1:0 closed",
    theirs: "closed",
    sometimes: true,
    reason:
      "a DISC may overtake the reply to a request in flight there; here what is in flight is answered first",
  },
  {
    script: "H02 LIST without fixed newstyle",
    peer: "qemu-nbd",
    ours: "3:INVALID waits",
    theirs: "closed",
    reason: "either is allowed; a refusal in the options' own language tells an old client more than an end",
  },
  {
    script: "H15 INFO with a name of 4,096 bytes",
    peer: "nbdkit",
    ours: "6:UNKNOWN in step",
    theirs: "6:ACK in step",
    reason: anyName,
  },
  {
    script: "H16 INFO of an unknown export",
    peer: "nbdkit",
    ours: "6:UNKNOWN in step",
    theirs: "6:ACK in step",
    reason: anyName,
  },
  {
    script: "H22 STRUCTURED_REPLY twice",
    peer: "qemu-nbd",
    ours: "8:ACK x2 in step",
    theirs: "8:ACK 8:INVALID in step",
    reason: onceOnly,
  },
  {
    script: "H25 100 unknown options",
    peer: "nbdkit",
    ours: "77:UNSUP x64 closed",
    theirs: "77:UNSUP x32 closed",
    reason: "both have a bound; ours leaves room for clients that ask much before they list",
  },
  {
    script: "H25 100 unknown options",
    peer: "qemu-nbd",
    ours: "77:UNSUP x64 closed",
    theirs: "77:UNSUP x100 in step",
    reason: "without a bound a client can haggle until the deadline",
  },
  {
    script: "H26 EXPORT_NAME of an unknown export",
    peer: "nbdkit",
    ours: "closed",
    theirs: "waits",
    reason: anyName,
  },
  {
    script: "H30 an option after GO",
    peer: "qemu-nbd",
    ours: "closed",
    theirs: "1:22 closed",
    reason: notOurMagic,
  },
  {
    script: "T01 bad request magic",
    peer: "qemu-nbd",
    ours: "closed",
    theirs: "1:22 closed",
    reason: notOurMagic,
  },
  {
    script: "T08 READ of 0 bytes",
    peer: "nbdkit",
    ours: "1:0 in step",
    theirs: "1:22 in step",
    reason: emptyRange,
  },
  {
    script: "T08 WRITE of 0 bytes",
    peer: "nbdkit",
    ours: "1:0 in step",
    theirs: "1:28 in step",
    reason: emptyRange,
  },
  {
    script: "T08 TRIM of 0 bytes",
    peer: "nbdkit",
    ours: "1:0 in step",
    theirs: "1:22 in step",
    reason: emptyRange,
  },
  {
    script: "T08 WRITE_ZEROES of 0 bytes",
    peer: "nbdkit",
    ours: "1:0 in step",
    theirs: "1:28 in step",
    reason: emptyRange,
  },
  {
    script: "T10 WRITE behind the end",
    peer: "qemu-nbd",
    ours: "1:28 in step",
    theirs: "1:22 in step",
    reason: endOfDisk,
  },
  {
    script: "T10 WRITE at 2^64 - 512",
    peer: "qemu-nbd",
    ours: "1:28 in step",
    theirs: "1:22 in step",
    reason: endOfDisk,
  },
  {
    script: "T10 WRITE_ZEROES behind the end",
    peer: "qemu-nbd",
    ours: "1:28 in step",
    theirs: "1:22 in step",
    reason: endOfDisk,
  },
  {
    script: "T31 WRITE_ZEROES of 4 GiB - 512",
    peer: "qemu-nbd",
    ours: "1:28 in step",
    theirs: "1:22 in step",
    reason: endOfDisk,
  },
  {
    script: "T12 FLUSH with offset",
    peer: "qemu-nbd",
    ours: "1:22 in step",
    theirs: "1:0 in step",
    reason: "a client must send zero; one that means a range would be told that only its range is flushed",
  },
  {
    script: "T12 FLUSH with length",
    peer: "qemu-nbd",
    ours: "1:22 in step",
    theirs: "1:0 in step",
    reason: "as with an offset",
  },
  {
    script: "T14 WRITE header of 4 GiB - 1",
    peer: "qemu-nbd",
    ours: "closed",
    theirs: "1:22 closed",
    reason: "an answer to a payload that is not awaited helps nobody; both close",
  },
  {
    script: "T16 unaligned READ",
    peer: "nbdkit",
    ours: "1:22 in step",
    theirs: "1:0 in step",
    reason: wholeSectors,
  },
  {
    script: "T16 unaligned READ",
    peer: "qemu-nbd",
    ours: "1:22 in step",
    theirs: "1:0 in step",
    reason: wholeSectors,
  },
  {
    script: "T16 unaligned WRITE",
    peer: "nbdkit",
    ours: "1:22 in step",
    theirs: "1:0 in step",
    reason: wholeSectors,
  },
  {
    script: "T16 unaligned WRITE",
    peer: "qemu-nbd",
    ours: "1:22 in step",
    theirs: "1:0 in step",
    reason: wholeSectors,
  },
];
