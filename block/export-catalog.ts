/**
 * What an NBD server may serve, as it asks for it: a catalog that says which exports a client may see, what one looks
 * like, and that opens it. The server never learns files or paths; names are looked up, never joined to a path. The
 * catalog decides who may do what; a forbidden export must be indistinguishable from an unknown one (S12).
 */
import type { BlockCapabilities, BlockDevice } from "./device.ts";

/** Who asks. */
export interface ClientIdentity {
  readonly transport: "tcp" | "unix";
  /** True when the client proved its identity over TLS; then `certificateNames` is not empty. */
  readonly tls: boolean;
  /** Subject CN and every SAN value (DNS, URI, e-mail, IP) of the verified certificate, without their type prefix. */
  readonly certificateNames: readonly string[];
  /** Remote address without port, or `unix`; for logs and limits, never for authorisation. */
  readonly address: string;
}

export interface ExportSummary {
  /** At most 4,096 bytes of UTF-8. */
  readonly name: string;
  readonly sizeBytes: number;
}

/** What INFO reports and GO must report again: everything a client learns before it may read. */
export interface ExportShape {
  readonly sizeBytes: number;
  readonly blockSize: BlockDevice["blockSize"];
  readonly can: BlockCapabilities;
  readonly readOnly: boolean;
}

/** `unknown` also stands for forbidden. `message` is shown to the client: own words, at most 200 bytes, no names. */
export type ExportRefusal =
  | { readonly kind: "unknown" }
  | { readonly kind: "refused"; readonly reason: "shutdown" | "policy"; readonly message: string };

export type DescribeOutcome = { readonly kind: "described"; readonly shape: ExportShape } | ExportRefusal;

/**
 * `device` is a handle for this one connection: the server closes it exactly once, after the last request on it has
 * settled. `readOnly` refuses writes with EPERM whatever the device can do.
 */
export type OpenOutcome =
  | { readonly kind: "opened"; readonly device: BlockDevice; readonly readOnly: boolean }
  | ExportRefusal;

export interface ExportCatalog {
  /** Exports this client may open, in a stable order. */
  list(client: ClientIdentity): readonly ExportSummary[];
  /** What `open` would give, without touching a file (H32). */
  describe(name: string, client: ClientIdentity): Promise<DescribeOutcome>;
  /** Opens for transmission. Its device must look as `describe` said. */
  open(name: string, client: ClientIdentity): Promise<OpenOutcome>;
}
