/** Planted bugs of the NBD server: what a client can do to us, and what its requests promise. */
import type { PlantedBug } from "../planted-bug.ts";

export const nbdBugs: readonly PlantedBug[] = [
  {
    id: "nbd/plain-text-kept-at-starttls",
    does: "Bytes that stand behind STARTTLS in plain text are kept instead of ending the connection.",
    file: "protocol/nbd/handshake.ts",
    find: `    if (this.#input.buffered > 0) return this.#end(false, "BYTES_AFTER_STARTTLS");\n`,
    replace: "",
    caughtBy: [{ file: "test/protocol/nbd/tls-and-fuzz.test.ts", only: "S07" }],
    budgetSeconds: 30,
  },
  {
    id: "nbd/handshake-state-kept-over-tls",
    does: "What was negotiated in plain text counts inside TLS: structured replies are taken as agreed.",
    file: "protocol/nbd/handshake.ts",
    find: `      this.#phase = "optionHeader";\n      this.#fixedNewstyle = true;\n`,
    replace: `      this.#phase = "optionHeader";\n      this.#fixedNewstyle = true;\n      this.#structured = true;\n`,
    caughtBy: [
      { file: "test/protocol/nbd/tls-and-fuzz.test.ts", only: "S06" },
      { file: "test/block/nbd-tls.test.ts", only: "S06" },
    ],
    budgetSeconds: 30,
  },
  {
    id: "nbd/option-length-unlimited",
    does: "An option of any announced length is read to its end.",
    file: "protocol/nbd/handshake.ts",
    find: `    if (length > this.#limits.optionDrainBytesMax) return this.#end(false, "OPTION_TOO_LONG");\n`,
    replace: "",
    caughtBy: [{ file: "test/protocol/nbd/handshake.test.ts", only: "H06|H07" }],
    budgetSeconds: 30,
  },
  {
    id: "nbd/read-beyond-end",
    does: "A request may begin inside the export and reach beyond its end.",
    file: "protocol/nbd/request-check.ts",
    find: "if (offset > params.sizeBytes - length) {",
    replace: "if (offset > params.sizeBytes) {",
    caughtBy: [{ file: "test/protocol/nbd/transmission.test.ts", only: "T09|T10|T11" }],
    budgetSeconds: 30,
  },
  {
    id: "nbd/replies-without-bound",
    does: "Replies that the client does not take pile up without a bound.",
    file: "block/nbd-connection.ts",
    find: "        this.#queue.unsentBytes >= limits.unsentBytesMax ||\n",
    replace: "",
    caughtBy: [{ file: "test/block/nbd-server.test.ts", only: "T23 F80" }],
    budgetSeconds: 60,
  },
  {
    id: "nbd/flush-covers-one-connection",
    does: "A FLUSH on a connection that wrote nothing is answered at once, although another one wrote.",
    file: "block/nbd-dispatch.ts",
    find: "  #muted = false;\n",
    replace: "  #muted = false;\n  #wrote = false;\n",
    also: [
      {
        find: "          this.#counters.writtenBytes += length;\n",
        replace: "          this.#counters.writtenBytes += length;\n          this.#wrote = true;\n",
      },
      {
        find: "this.#await(request, device.flush());",
        replace: "this.#await(request, this.#wrote ? device.flush() : Promise.resolve());",
      },
    ],
    caughtBy: [{ file: "test/block/nbd-server.test.ts", only: "FLUSH" }],
    budgetSeconds: 60,
  },
  {
    id: "nbd/flush-after-failure-believed",
    does: "After a failed sync of an image the next one is believed again.",
    file: "block/file-device.ts",
    find: "    if (this.#lost !== undefined) throw this.#lost;\n    if (this.#closed)",
    replace: "    this.#lost = undefined;\n    if (this.#closed)",
    caughtBy: [{ file: "test/block/file-device.test.ts", only: "after one failed flush" }],
    budgetSeconds: 30,
  },
];
