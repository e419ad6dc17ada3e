/**
 * TLS for an NBD server's connections after STARTTLS: wraps the raw socket, demands a client certificate that the
 * configured authority signed, and reads the client's names from it. It decides nothing about exports. Verification
 * happens in the TLS stack before a single byte of NBD is read over it.
 */
import { constants } from "node:crypto";
import type { Socket } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";

/** Key material, PEM. `crl`: revocation lists, when there are any. */
export interface NbdTlsMaterial {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly crl?: Buffer;
  readonly requireClientCertificate: true;
}

export class NbdTlsGate {
  readonly #server: Server;
  /** Upgrades under way by their connection's addresses: unique while the connection lives. */
  readonly #pending = new Map<string, (socket: TLSSocket) => void>();

  /** `refused` hears why a handshake failed. The server never listens; connections are put into it. */
  constructor(material: NbdTlsMaterial, handshakeMs: number, refused: (error: Error) => void) {
    this.#server = createServer({
      ...contextOf(material),
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: handshakeMs,
      allowHalfOpen: true,
      noDelay: true,
    });
    this.#server.on("secureConnection", (socket) => {
      const key = addressKey(socket);
      const upgraded = this.#pending.get(key);
      this.#pending.delete(key);
      if (upgraded === undefined) socket.destroy();
      else upgraded(socket);
    });
    this.#server.on("tlsClientError", (error, socket) => {
      refused(error);
      socket.destroy();
    });
  }

  /** Later handshakes use `material`; established connections go on. */
  rotate(material: NbdTlsMaterial): void {
    this.#server.setSecureContext(contextOf(material));
  }

  /**
   * Takes over `socket`, from which nothing may have been read beyond STARTTLS. `upgraded` is called once with the
   * verified connection; when the handshake fails, the raw socket closes instead.
   */
  upgrade(socket: Socket, upgraded: (socket: TLSSocket) => void): void {
    const key = addressKey(socket);
    this.#pending.set(key, upgraded);
    socket.once("close", () => {
      if (this.#pending.get(key) === upgraded) this.#pending.delete(key);
    });
    this.#server.emit("connection", socket);
  }
}

function contextOf(material: NbdTlsMaterial) {
  return {
    ca: material.ca,
    cert: material.cert,
    key: material.key,
    ...(material.crl === undefined ? {} : { crl: material.crl }),
    minVersion: "TLSv1.2" as const,
    // Without tickets every connection is verified anew, also after the authority was replaced.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

function addressKey(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;
}

/** Subject CN and SAN values of the peer's verified certificate. */
export function certificateNames(socket: TLSSocket): readonly string[] {
  const certificate = socket.getPeerCertificate();
  const names = new Set<string>();
  // A certificate may repeat the CN; the type says string, the runtime gives a list then.
  const commonName: unknown = certificate.subject?.CN;
  for (const name of Array.isArray(commonName) ? commonName : [commonName]) {
    if (typeof name === "string" && name !== "") names.add(name);
  }
  for (const name of parseSubjectAltNames(certificate.subjectaltname ?? "")) names.add(name);
  return [...names];
}

/**
 * Values of the text form of a SAN extension, `DNS:a, URI:b`. A value that holds a separator is quoted there as JSON,
 * so a crafted name cannot pass for two (the reason this is not a plain split).
 */
export function parseSubjectAltNames(text: string): readonly string[] {
  const names: string[] = [];
  const entry = /(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?=, |$)/gy;
  for (let match = entry.exec(text); match !== null; match = entry.exec(text)) {
    const type = match[1] ?? "";
    const value = match[2] ?? "";
    if (!nameTypes.has(type) || value === "") continue;
    if (!value.startsWith('"')) {
      names.push(value);
      continue;
    }
    const plain = parseQuoted(value);
    // Beyond a value that cannot be understood nothing is believed.
    if (plain === undefined) break;
    if (plain !== "") names.push(plain);
  }
  return names;
}

const nameTypes: ReadonlySet<string> = new Set(["DNS", "URI", "email", "IP Address"]);

function parseQuoted(text: string): string | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
