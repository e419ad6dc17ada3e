/**
 * A peer at the line's port that sends any bytes over mutual TLS: who it is and what it says are the test's choice. It
 * reads everything that comes back until the end and interprets nothing.
 */
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { TlsFiles } from "../../runtime/settings/types.ts";
import type { TestIdentity } from "../support/certificates.ts";

/** Files of an identity made in memory. */
export function identityFiles(folder: string, name: string, identity: TestIdentity): TlsFiles {
  const files = {
    ca: join(folder, `${name}-ca.pem`),
    cert: join(folder, `${name}.pem`),
    key: join(folder, `${name}.key`),
  };
  writeFileSync(files.ca, identity.ca);
  writeFileSync(files.cert, identity.cert);
  writeFileSync(files.key, identity.key, { mode: 0o600 });
  return files;
}

export class RawHttpPeer {
  readonly socket: TLSSocket;
  #received = "";
  #closed = false;
  readonly closed: Promise<void>;

  private constructor(socket: TLSSocket) {
    this.socket = socket;
    socket.setEncoding("latin1").on("data", (text: string) => {
      this.#received += text;
    });
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) =>
      socket.once("close", () => {
        this.#closed = true;
        resolve();
      }),
    );
  }

  /** Undefined when the server did not let it in. With TLS 1.3 a refusal may also show later, as an end. */
  static async connect(
    port: number,
    identity: Partial<TestIdentity>,
    options: { ALPNProtocols?: string[]; maxVersion?: "TLSv1.1" | "TLSv1.2" } = {},
  ): Promise<RawHttpPeer | undefined> {
    const { ca, cert, key } = identity;
    const socket = connectTls({
      host: "127.0.0.1",
      port,
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      checkServerIdentity: () => undefined,
      ...(options.maxVersion === "TLSv1.1" ? { minVersion: "TLSv1", ciphers: "DEFAULT@SECLEVEL=0" } : {}),
      ...options,
    });
    const peer = new RawHttpPeer(socket);
    await Promise.race([once(socket, "secureConnect").catch(() => undefined), peer.closed]);
    return peer.#closed ? undefined : peer;
  }

  get received(): string {
    return this.#received;
  }

  /** Sends the parts and returns all that came until the server closed. */
  async exchange(...parts: readonly (string | Uint8Array)[]): Promise<string> {
    for (const part of parts) {
      if (this.#closed) break;
      this.socket.write(typeof part === "string" ? Buffer.from(part, "latin1") : part);
    }
    await this.closed;
    return this.#received;
  }

  destroy(): void {
    this.socket.destroy();
  }
}

/** Status codes of all answers in a text, in order. */
export function statusesIn(text: string): number[] {
  return [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => Number(match[1]));
}
