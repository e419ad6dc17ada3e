/**
 * The libc calls that Node core does not have: on files find data and holes, punch, zero, read without waiting; and
 * two settings of the allocator. The only importer of koffi. Every call takes a descriptor number and is synchronous; those that may be long
 * belong on the write thread (write-thread.ts). Where koffi or a call is missing the answer is "unsupported",
 * never a wrong one, so that every caller keeps a plain way to do the same.
 */
import koffi from "koffi";

const falloc = { keepSize: 0x01, punchHole: 0x02, zeroRange: 0x10 } as const;
const seek = { end: 2, data: 3, hole: 4 } as const;
/** preadv2 flag: fail with EAGAIN rather than wait for the disk. */
const rwfNowait = 0x8;

const errno = koffi.os.errno;

/** A libc call failed; `code` is the errno name as Node spells it. */
export class LibcError extends Error {
  readonly code: string;
  readonly errno: number;

  constructor(call: string, number: number) {
    const code = Object.keys(errno).find((name) => errno[name] === number) ?? "EIO";
    super(`${call}: ${code}`);
    this.name = "LibcError";
    this.code = code;
    this.errno = number;
  }
}

interface Libc {
  readonly mallopt: (parameter: number, value: number) => number;
  readonly fallocate64: (fd: number, mode: number, offset: number, length: number) => number;
  readonly lseek64: (fd: number, offset: number, whence: number) => number;
  readonly preadv64v2: (
    fd: number,
    vector: { base: Uint8Array; length: number },
    count: number,
    offset: number,
    flags: number,
  ) => number;
}

/** Undefined where there is no such libc (another platform): every function here then says "unsupported". */
function load(): Libc | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    const library = koffi.load("libc.so.6");
    const vector = koffi.struct({ base: "void *", length: "size_t" });
    return {
      mallopt: library.func("int mallopt(int parameter, int value)"),
      fallocate64: library.func("int fallocate64(int fd, int mode, int64_t offset, int64_t length)"),
      lseek64: library.func("int64_t lseek64(int fd, int64_t offset, int whence)"),
      preadv64v2: library.func("preadv64v2", "int64_t", [
        "int",
        koffi.pointer(vector),
        "int",
        "int64_t",
        "int",
      ]),
    };
  } catch {
    // An old or different libc: what cannot be loaded is not there, and every caller has a way without it.
    return undefined;
  }
}

const libc = load();

/** mallopt parameters of glibc's malloc.h. */
const mallopts = { mmapThreshold: -3, arenaMax: -8 } as const;
/** Heaps that threads allocate from; one for each of 16 pool threads holds on to what its busiest moment took. */
const mallocArenasMax = 2;
/** Frame bodies, batches and table blocks from this size on go back to the system when they are freed, bytes. */
const mallocMmapThresholdBytes = 256 * 1024;

/**
 * Keeps the process's memory near what it uses: buffers come and go by the hundred megabytes a second, and glibc's
 * own settings kept 150 MiB more than was in use (bench s11). Call once, early. False where there is no such call.
 */
export function boundAllocator(): boolean {
  if (libc === undefined) return false;
  const arenas = libc.mallopt(mallopts.arenaMax, mallocArenasMax);
  const threshold = libc.mallopt(mallopts.mmapThreshold, mallocMmapThresholdBytes);
  return arenas === 1 && threshold === 1;
}

/** Errno values that say "this file cannot do that", not "it failed": the caller then has a plain way. */
const unsupported = new Set(
  ["EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL", "EPERM", "ENODEV"].map((name) => errno[name]),
);

function meansUnsupported(number: number): boolean {
  return unsupported.has(number);
}

function fallocate(fd: number, mode: number, offset: number, length: number): boolean {
  if (libc === undefined) return false;
  for (;;) {
    if (libc.fallocate64(fd, mode, offset, length) === 0) return true;
    const number = koffi.errno();
    if (number === errno["EINTR"]) continue;
    if (meansUnsupported(number)) return false;
    throw new LibcError("fallocate64", number);
  }
}

/**
 * Frees the range, which reads as zeroes afterwards. False when the file cannot do it and nothing was changed.
 * On a block device the kernel does this only where a discard is known to read as zeroes, so BLKDISCARD, which
 * promises nothing, is never needed.
 */
export function punchHole(fd: number, offset: number, length: number): boolean {
  return fallocate(fd, falloc.punchHole | falloc.keepSize, offset, length);
}

/** Makes the range read as zeroes and keeps it allocated. False when the file cannot do it. */
export function zeroRange(fd: number, offset: number, length: number): boolean {
  return fallocate(fd, falloc.zeroRange | falloc.keepSize, offset, length);
}

function lseek(fd: number, offset: number, whence: number): number | "none" | "unsupported" {
  if (libc === undefined) return "unsupported";
  const at = libc.lseek64(fd, offset, whence);
  if (at >= 0) return at;
  const number = koffi.errno();
  if (number === errno["ENXIO"]) return "none";
  if (meansUnsupported(number)) return "unsupported";
  throw new LibcError("lseek64", number);
}

/** First data at or after `offset`; "none" when only a hole follows. Moves the descriptor's own position. */
export function nextData(fd: number, offset: number): number | "none" | "unsupported" {
  return lseek(fd, offset, seek.data);
}

/** First hole at or after `offset`; the end of the file counts as one. */
export function nextHole(fd: number, offset: number): number | "none" | "unsupported" {
  return lseek(fd, offset, seek.hole);
}

/** Size found by going to the end: the only way to ask a block device. */
export function endOffset(fd: number): number | "unsupported" {
  const end = lseek(fd, 0, seek.end);
  return end === "none" ? "unsupported" : end;
}

/**
 * Reads into `target` only what is in the page cache. Returns the bytes read, which may be fewer; "wait" when the
 * disk would be needed; "unsupported" when this file system cannot say (tmpfs on older kernels).
 */
export function readCached(fd: number, offset: number, target: Uint8Array): number | "wait" | "unsupported" {
  if (libc === undefined) return "unsupported";
  const read = libc.preadv64v2(fd, { base: target, length: target.byteLength }, 1, offset, rwfNowait);
  if (read >= 0) return read;
  const number = koffi.errno();
  if (number === errno["EAGAIN"] || number === errno["EINTR"]) return "wait";
  if (meansUnsupported(number)) return "unsupported";
  // A real failure is met again, and reported, by the ordinary read that follows.
  return "wait";
}
