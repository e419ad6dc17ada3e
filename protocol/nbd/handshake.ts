/**
 * The server's side of the fixed newstyle handshake: greeting, client flags, option haggling, until transmission, TLS
 * or the end. It decides every option reply; what exists and who may see it, it asks its shell and rests meanwhile.
 * It never keeps more than one option's data, and none of an option it does not need (proto.md, "Option types").
 *
 *   clientFlags ──► optionHeader ◄──────────────────────────────┐
 *                     │    ├──► gathering ──┐ (data of GO ...)   │
 *                     │    └──► draining ───┴► decide ──reply────┤
 *                     │                          └──► asking ─answer─► transmission
 *                     └──► ended (wrong magic, limits, EXPORT_NAME refused, ABORT) ; tls (STARTTLS)
 */
import { RemoteProtocolError } from "../remote-error.ts";
import type { ByteInput } from "./byte-input.ts";
import {
  NbdClientFlag,
  NbdInfo,
  NbdMagic,
  NbdOption,
  NbdReply,
  nbdBaseAllocationId,
  nbdOptionHeaderBytes,
  nbdStringBytesMax,
} from "./constants.ts";
import type { NbdEnded, NbdExportRequested, NbdListRequested, NbdTlsRequested } from "./events.ts";
import type { NbdExportParams } from "./export-params.ts";
import type { NbdSessionLimits } from "./limits.ts";
import {
  decodeExportName,
  decodeInfoQuery,
  decodeMetaQuery,
  type NbdInfoQuery,
  type NbdMetaQuery,
} from "./option-data.ts";
import { NbdOptionReplies } from "./option-reply.ts";
import type { ReplySink } from "./reply-sink.ts";
import type { NbdNegotiated } from "./request-check.ts";

/** `off`: STARTTLS is refused. `required`: nothing but STARTTLS and ABORT works. `established`: inside TLS already. */
export type NbdTlsMode = "off" | "required" | "established";

/** Answer to `exportRequested`. `message` is own words without names. */
export type NbdExportAnswer =
  | { readonly kind: "export"; readonly params: NbdExportParams }
  | { readonly kind: "unknown" }
  | { readonly kind: "refused"; readonly reason: "shutdown" | "policy"; readonly message: string };

export type NbdHandshakeEvent = NbdListRequested | NbdExportRequested | NbdTlsRequested | NbdEnded;

type Phase =
  | "clientFlags"
  | "optionHeader"
  | "gathering"
  | "draining"
  | "asking"
  | "transmission"
  | "tls"
  | "ended";

/** What the pending answer is for. */
type Asked =
  | { readonly kind: "list" }
  | { readonly kind: "info"; readonly option: number; readonly query: NbdInfoQuery }
  | { readonly kind: "exportName"; readonly name: string }
  | { readonly kind: "meta"; readonly option: number; readonly query: NbdMetaQuery };

const noData = new Uint8Array(0);

export class NbdHandshake {
  readonly #input: ByteInput;
  readonly #replies: NbdOptionReplies;
  readonly #tls: NbdTlsMode;
  readonly #limits: NbdSessionLimits;
  #phase: Phase = "clientFlags";
  readonly #header = new Uint8Array(nbdOptionHeaderBytes);
  #headerFill = 0;
  #option = 0;
  #data: Uint8Array = noData;
  #dataFill = 0;
  #drainLeft = 0;
  #drainedBytes = 0;
  #fixedNewstyle = false;
  #padded = true;
  #optionsLeft: number;
  #listed = false;
  #structured = false;
  /** Export for which `base:allocation` is selected. */
  #metaExport: string | null = null;
  #asked: Asked | null = null;
  #negotiated: NbdNegotiated | null = null;

  constructor(input: ByteInput, sink: ReplySink, tls: NbdTlsMode, limits: NbdSessionLimits) {
    this.#input = input;
    this.#replies = new NbdOptionReplies(sink);
    this.#tls = tls;
    this.#limits = limits;
    this.#optionsLeft = limits.optionsMax;
    if (tls === "established") {
      // After STARTTLS haggling goes on with options; greeting and client flags are not repeated.
      this.#phase = "optionHeader";
      this.#fixedNewstyle = true;
    } else {
      this.#replies.greeting();
    }
  }

  /** Set once transmission has begun. */
  get negotiated(): NbdNegotiated | null {
    return this.#negotiated;
  }

  /** The client's NO_ZEROES, which survives STARTTLS: it belongs to the connection, not to the haggling. */
  get padded(): boolean {
    return this.#padded;
  }

  /** For a handshake inside TLS: what the client flags said before. */
  inheritPadding(padded: boolean): void {
    this.#padded = padded;
  }

  /** Next event; null when more bytes or an answer are needed, or transmission has begun. */
  next(): NbdHandshakeEvent | null {
    for (;;) {
      let event: NbdHandshakeEvent | "rest" | null;
      switch (this.#phase) {
        case "clientFlags":
          event = this.#readClientFlags();
          break;
        case "optionHeader":
          event = this.#readOptionHeader();
          break;
        case "gathering":
          this.#dataFill = this.#input.gather(this.#data, this.#dataFill);
          event = this.#dataFill < this.#data.length ? "rest" : this.#decide();
          break;
        case "draining":
          this.#drainLeft -= this.#input.skip(this.#drainLeft);
          event = this.#drainLeft > 0 ? "rest" : this.#decide();
          break;
        default:
          return null;
      }
      if (event === "rest") return null;
      if (event !== null) return event;
    }
  }

  #readClientFlags(): NbdEnded | "rest" | null {
    const flagBytes = 4;
    this.#headerFill = this.#input.gather(this.#header.subarray(0, flagBytes), this.#headerFill);
    if (this.#headerFill < flagBytes) return "rest";
    this.#headerFill = 0;
    const flags = viewOf(this.#header).getUint32(0);
    if ((flags & ~(NbdClientFlag.fixedNewstyle | NbdClientFlag.noZeroes)) !== 0) {
      return this.#end(false, "UNKNOWN_CLIENT_FLAG");
    }
    this.#fixedNewstyle = (flags & NbdClientFlag.fixedNewstyle) !== 0;
    this.#padded = (flags & NbdClientFlag.noZeroes) === 0;
    this.#phase = "optionHeader";
    return null;
  }

  #readOptionHeader(): NbdHandshakeEvent | "rest" | null {
    this.#headerFill = this.#input.gather(this.#header, this.#headerFill);
    if (this.#headerFill >= 8 && viewOf(this.#header).getBigUint64(0) !== NbdMagic.option) {
      return this.#end(false, "BAD_OPTION_MAGIC");
    }
    if (this.#headerFill < nbdOptionHeaderBytes) return "rest";
    this.#headerFill = 0;
    const view = viewOf(this.#header);
    const option = view.getUint32(8);
    const length = view.getUint32(12);
    this.#optionsLeft -= 1;
    if (this.#optionsLeft < 0) return this.#end(false, "TOO_MANY_OPTIONS");
    this.#option = option;
    this.#data = noData;
    this.#dataFill = 0;
    this.#drainedBytes = 0;
    if (option === NbdOption.exportName) {
      // No error reply exists for this option, so what cannot be answered ends the session.
      if (this.#tls === "required") return this.#end(false, "TLS_REQUIRED");
      if (length > nbdStringBytesMax) return this.#end(false, "NAME_TOO_LONG");
    }
    if (length > this.#limits.optionDrainBytesMax) return this.#end(false, "OPTION_TOO_LONG");
    if (length === 0) return this.#decide();
    if (this.#wantsData(option) && length <= this.#limits.optionBytesMax) {
      this.#data = new Uint8Array(length);
      this.#phase = "gathering";
    } else {
      this.#drainLeft = length;
      this.#drainedBytes = length;
      this.#phase = "draining";
    }
    return null;
  }

  /** True for options whose data is looked at in the present state. */
  #wantsData(option: number): boolean {
    if (option === NbdOption.exportName) return true;
    if (!this.#fixedNewstyle || this.#tls === "required") return false;
    return (
      option === NbdOption.info ||
      option === NbdOption.go ||
      option === NbdOption.listMetaContext ||
      option === NbdOption.setMetaContext
    );
  }

  /** The option is complete: gathered in `#data`, or skipped. Replies, asks, or ends. */
  #decide(): NbdHandshakeEvent | null {
    this.#phase = "optionHeader";
    const option = this.#option;
    if (option === NbdOption.exportName) return this.#chooseByName();
    if (option === NbdOption.abort) {
      this.#replies.ack(option);
      return this.#end(true, "ABORTED");
    }
    // Without the fixed newstyle flag only EXPORT_NAME is valid, and TLS must not be spoken of (H02).
    if (!this.#fixedNewstyle) return this.#refuse(NbdReply.errInvalid, "client did not set fixed newstyle");
    if (option === NbdOption.startTls) return this.#startTls();
    if (this.#tls === "required") return this.#refuse(NbdReply.errTlsReqd, "TLS is required");
    const empty = this.#data.length === 0 && this.#drainedBytes === 0;
    switch (option) {
      case NbdOption.list:
        if (!empty) return this.#refuse(NbdReply.errInvalid, "this option has no data");
        this.#ask({ kind: "list" });
        return { kind: "listRequested" };
      case NbdOption.structuredReply:
        if (!empty) return this.#refuse(NbdReply.errInvalid, "this option has no data");
        this.#structured = true;
        this.#replies.ack(option);
        return null;
      case NbdOption.info:
      case NbdOption.go:
      case NbdOption.listMetaContext:
      case NbdOption.setMetaContext:
        break;
      default:
        return this.#refuse(NbdReply.errUnsup, "option not supported");
    }
    // Even a SET that fails undoes an earlier one (proto.md, `NBD_OPT_SET_META_CONTEXT`).
    if (option === NbdOption.setMetaContext) this.#metaExport = null;
    if (this.#drainedBytes > 0) return this.#refuse(NbdReply.errTooBig, "option data too long");
    const meta = option === NbdOption.listMetaContext || option === NbdOption.setMetaContext;
    if (meta && !this.#structured)
      return this.#refuse(NbdReply.errInvalid, "negotiate structured replies first");
    try {
      if (meta) {
        const query = decodeMetaQuery(this.#data);
        this.#ask({ kind: "meta", option, query });
        return { kind: "exportRequested", use: "describe", name: query.name };
      }
      const query = decodeInfoQuery(this.#data);
      this.#ask({ kind: "info", option, query });
      return {
        kind: "exportRequested",
        use: option === NbdOption.go ? "open" : "describe",
        name: query.name,
      };
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      return this.#refuse(NbdReply.errInvalid, error.message);
    }
  }

  #chooseByName(): NbdHandshakeEvent {
    try {
      const name = decodeExportName(this.#data);
      this.#ask({ kind: "exportName", name });
      return { kind: "exportRequested", use: "open", name };
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      return this.#end(false, error.code);
    }
  }

  #startTls(): NbdTlsRequested | NbdEnded | null {
    if (this.#drainedBytes > 0) return this.#refuse(NbdReply.errInvalid, "this option has no data");
    if (this.#tls === "off") return this.#refuse(NbdReply.errPolicy, "TLS is not offered here");
    if (this.#tls === "established") return this.#refuse(NbdReply.errInvalid, "TLS is already in use");
    // Plain text already behind the option could be taken for part of the protected session (S07).
    if (this.#input.buffered > 0) return this.#end(false, "BYTES_AFTER_STARTTLS");
    this.#replies.ack(NbdOption.startTls);
    this.#phase = "tls";
    return { kind: "tlsRequested" };
  }

  #ask(asked: Asked): void {
    this.#asked = asked;
    this.#phase = "asking";
  }

  #takeAsked(): Asked {
    const asked = this.#asked;
    if (this.#phase !== "asking" || asked === null) throw new Error("nothing was asked");
    this.#asked = null;
    this.#phase = "optionHeader";
    return asked;
  }

  answerList(names: readonly string[]): void {
    if (this.#takeAsked().kind !== "list") throw new Error("a list was not asked for");
    for (const name of names) this.#replies.server(NbdOption.list, name);
    this.#replies.ack(NbdOption.list);
    // The bound grows once, not with every LIST, so that it stays a bound.
    const used = this.#limits.optionsMax - Math.min(this.#optionsLeft, this.#limits.optionsMax);
    const allowance = this.#limits.optionsMax + this.#limits.optionsPerListedExport * names.length;
    if (!this.#listed) this.#optionsLeft = allowance - used;
    this.#listed = true;
  }

  /** Returns the end of the session when the option could not be answered otherwise. */
  answerExport(answer: NbdExportAnswer): NbdEnded | null {
    const asked = this.#takeAsked();
    switch (asked.kind) {
      case "list":
        throw new Error("an export was not asked for");
      case "exportName":
        if (answer.kind !== "export") return this.#end(false, "EXPORT_REFUSED");
        this.#replies.exportName(answer.params, this.#structured, this.#padded);
        this.#transmit(asked.name, answer.params);
        return null;
      case "info":
        return this.#answerInfo(asked.option, asked.query, answer);
      case "meta":
        return this.#answerMeta(asked.option, asked.query, answer);
    }
  }

  #answerInfo(option: number, query: NbdInfoQuery, answer: NbdExportAnswer): null {
    if (answer.kind !== "export") return this.#refuseExport(option, answer);
    this.#replies.infoExport(option, answer.params, this.#structured);
    // Told even when not asked for: our minimum is not the default, and a client may ignore what it does not know.
    this.#replies.infoBlockSize(option, answer.params);
    if (query.wanted.has(NbdInfo.name)) this.#replies.infoText(option, NbdInfo.name, query.name);
    this.#replies.ack(option);
    if (option === NbdOption.go) this.#transmit(query.name, answer.params);
    return null;
  }

  #answerMeta(option: number, query: NbdMetaQuery, answer: NbdExportAnswer): null {
    if (answer.kind !== "export") return this.#refuseExport(option, answer);
    const listing = option === NbdOption.listMetaContext;
    const matches = query.exact || (listing && (query.wildcard || query.queryCount === 0));
    if (matches && answer.params.extents) {
      this.#replies.metaContext(option, listing ? 0 : nbdBaseAllocationId);
      if (!listing) this.#metaExport = query.name;
    }
    this.#replies.ack(option);
    return null;
  }

  #refuseExport(option: number, answer: Exclude<NbdExportAnswer, { kind: "export" }>): null {
    if (answer.kind === "unknown") return this.#refuse(NbdReply.errUnknown, "no such export", option);
    const type = answer.reason === "shutdown" ? NbdReply.errShutdown : NbdReply.errPolicy;
    return this.#refuse(type, answer.message.slice(0, 200), option);
  }

  #transmit(name: string, params: NbdExportParams): void {
    const blockStatus = this.#structured && params.extents && this.#metaExport === name;
    this.#negotiated = { params, structured: this.#structured, blockStatus };
    this.#phase = "transmission";
  }

  #refuse(type: number, message: string, option = this.#option): null {
    this.#replies.error(option, type, message);
    return null;
  }

  #end(clean: boolean, code: string): NbdEnded {
    this.#phase = "ended";
    this.#input.clear();
    return { kind: "ended", clean, code };
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
