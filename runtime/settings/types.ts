/** Validated settings of both sites: what the configuration file means, with units resolved and paths absolute. */

export interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** Where to listen or connect: TCP or a Unix socket. */
export type Address =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** Client certificate (subject CN or SAN) -> exports it may open: `GROUP/VOLUME` or `GROUP/*`. */
export interface NbdClientRule {
  readonly name: string;
  readonly exports: readonly string[];
}

export interface AgentSettings {
  readonly nbd: {
    readonly listen: readonly Address[];
    readonly tls: "off" | "require";
    readonly clients: readonly NbdClientRule[];
  };
  readonly journal: { readonly maxBytes: number; readonly reserveBytes: number };
}

export interface GatewaySettings {
  readonly listen: Address;
  /** Base URL under which the other site reaches this gateway: https only. */
  readonly url: string;
  readonly intake: { readonly maxBytes: number; readonly reserveBytes: number };
}

export interface SiteSettings {
  readonly name: string;
  readonly dataDir: string;
  readonly tls: TlsFiles;
  readonly admin: Address;
  readonly agent: AgentSettings | null;
  readonly gateway: GatewaySettings | null;
}

export interface VolumeSettings {
  readonly name: string;
  readonly sizeBytes: number;
  /** Image file or block device at the home site; null: inside dataDir. */
  readonly image: string | null;
  /** Image file or block device at the standby site; null: inside dataDir. */
  readonly standbyImage: string | null;
}

/** What a standby keeps to go back, and an owner that took a standby over. */
export interface HistorySettings {
  /** A point this old can still be opened, ms; 0: none is kept. */
  readonly windowMs: number;
  /** Before-images of the group, bytes; the oldest go first. */
  readonly bytesMax: number;
}

export interface ScanSettings {
  /** What a verify does with what it finds to differ. */
  readonly onMismatch: "report" | "repair";
  /** A verify that found nothing is followed by a digest of the point at its end. Absent: it is not. */
  readonly digestsPoints?: boolean;
  /** What a scan reads at most, bytes/s; null: as fast as it may. */
  readonly bytesPerSecond: number | null;
  /** When standby and owner are compared, in UTC; null: when ordered. */
  readonly verifyCron: string | null;
}

export interface GroupSettings {
  readonly name: string;
  readonly home: string;
  readonly standby: string;
  /** Order of the file: gives the volume numbers at creation. */
  readonly volumes: readonly VolumeSettings[];
  readonly durability: "flush" | "write";
  readonly rpo: { readonly ageMs: number | null; readonly bytes: number | null };
  /** A full journal: `track` notes what the standby lacks and drops it, `hold` lets writes wait. */
  readonly overflow: "track" | "hold";
  readonly history: HistorySettings;
  readonly scan: ScanSettings;
}

export type LineCodec = "auto" | "lz4" | "brotli" | "none";

export interface LinkSettings {
  readonly between: readonly [string, string];
  /** null: unlimited. */
  readonly limitBytesPerSecond: number | null;
  readonly windows: readonly { readonly cron: string; readonly limitBytesPerSecond: number | null }[];
  readonly connections: number;
  readonly codec: LineCodec;
  /** How long records are collected for one batch, ms. */
  readonly collectMs: number;
}

export interface Settings {
  readonly file: string;
  readonly sites: readonly SiteSettings[];
  readonly groups: readonly GroupSettings[];
  readonly links: readonly LinkSettings[];
}
