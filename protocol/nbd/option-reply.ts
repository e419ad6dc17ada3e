/** Encodes the server's side of the handshake into a sink: greeting, option replies, the answer to EXPORT_NAME. Pure. */
import {
  NbdHandshakeFlag,
  NbdInfo,
  NbdMagic,
  NbdReply,
  nbdBaseAllocation,
  nbdExportNamePaddingBytes,
  nbdOptionReplyHeaderBytes,
} from "./constants.ts";
import { type NbdExportParams, transmissionFlags } from "./export-params.ts";
import { putUint16, putUint32, putUint64, type ReplySink } from "./reply-sink.ts";

const encoder = new TextEncoder();

export class NbdOptionReplies {
  readonly #sink: ReplySink;

  constructor(sink: ReplySink) {
    this.#sink = sink;
  }

  /** First bytes on a connection: two magic words and the handshake flags. */
  greeting(): void {
    const at = this.#sink.claim(18);
    const view = viewOf(this.#sink.bytes);
    view.setBigUint64(at, NbdMagic.init);
    view.setBigUint64(at + 8, NbdMagic.option);
    view.setUint16(at + 16, NbdHandshakeFlag.fixedNewstyle | NbdHandshakeFlag.noZeroes);
  }

  ack(option: number): void {
    this.#header(option, NbdReply.ack, 0);
  }

  /** An `NbdReply` error; `message` is ours, never an echo of what the client sent (H15). */
  error(option: number, type: number, message: string): void {
    const text = encoder.encode(message);
    const at = this.#header(option, type, text.length);
    this.#sink.bytes.set(text, at);
  }

  /** One export of a LIST. */
  server(option: number, name: string): void {
    const text = encoder.encode(name);
    const at = this.#header(option, NbdReply.server, 4 + text.length);
    putUint32(this.#sink.bytes, at, text.length);
    this.#sink.bytes.set(text, at + 4);
  }

  metaContext(option: number, id: number): void {
    const text = encoder.encode(nbdBaseAllocation);
    const at = this.#header(option, NbdReply.metaContext, 4 + text.length);
    putUint32(this.#sink.bytes, at, id);
    this.#sink.bytes.set(text, at + 4);
  }

  infoExport(option: number, params: NbdExportParams, structured: boolean): void {
    const at = this.#header(option, NbdReply.info, 12);
    const bytes = this.#sink.bytes;
    putUint16(bytes, at, NbdInfo.export);
    putUint64(bytes, at + 2, params.sizeBytes);
    putUint16(bytes, at + 10, transmissionFlags(params, structured));
  }

  infoBlockSize(option: number, params: NbdExportParams): void {
    const at = this.#header(option, NbdReply.info, 14);
    const bytes = this.#sink.bytes;
    putUint16(bytes, at, NbdInfo.blockSize);
    putUint32(bytes, at + 2, params.blockBytesMin);
    putUint32(bytes, at + 6, params.blockBytesPreferred);
    putUint32(bytes, at + 10, params.payloadBytesMax);
  }

  /** `NbdInfo.name` or `NbdInfo.description`. */
  infoText(option: number, type: number, text: string): void {
    const encoded = encoder.encode(text);
    const at = this.#header(option, NbdReply.info, 2 + encoded.length);
    putUint16(this.#sink.bytes, at, type);
    this.#sink.bytes.set(encoded, at + 2);
  }

  /** Answer to EXPORT_NAME, which has no reply header: size, flags, maybe 124 zeroes. */
  exportName(params: NbdExportParams, structured: boolean, padded: boolean): void {
    const length = 10 + (padded ? nbdExportNamePaddingBytes : 0);
    const at = this.#sink.claim(length);
    const bytes = this.#sink.bytes;
    bytes.fill(0, at, at + length);
    putUint64(bytes, at, params.sizeBytes);
    putUint16(bytes, at + 8, transmissionFlags(params, structured));
  }

  #header(option: number, type: number, length: number): number {
    const at = this.#sink.claim(nbdOptionReplyHeaderBytes + length);
    const bytes = this.#sink.bytes;
    viewOf(bytes).setBigUint64(at, NbdMagic.optionReply);
    putUint32(bytes, at + 8, option);
    putUint32(bytes, at + 12, type);
    putUint32(bytes, at + 16, length);
    return at + nbdOptionReplyHeaderBytes;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
