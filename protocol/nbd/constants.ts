/**
 * Numbers of the NBD wire format, and nothing else. Each constant's comment keeps the name of the specification
 * (proto.md), so that a search for that name finds its use here. No other file may spell one of these values.
 */

/** Magic numbers, split in 32-bit halves (signed, as `|` gives them) where they are compared on the hot path. */
export const NbdMagic = {
  /** `NBDMAGIC`, the `INIT_PASSWD`. */
  init: 0x4e42444d41474943n,
  /** `IHAVEOPT`: second greeting word and head of every option. */
  option: 0x49484156454f5054n,
  /** Head of every option reply. */
  optionReply: 0x0003e889045565a9n,
  /** `NBD_REQUEST_MAGIC` */
  request: 0x25609513,
  /** `NBD_SIMPLE_REPLY_MAGIC` */
  simpleReply: 0x67446698,
  /** `NBD_STRUCTURED_REPLY_MAGIC` */
  structuredReply: 0x668e33ef,
} as const;

/** Handshake flags, server to client. */
export const NbdHandshakeFlag = {
  /** `NBD_FLAG_FIXED_NEWSTYLE` */
  fixedNewstyle: 1 << 0,
  /** `NBD_FLAG_NO_ZEROES` */
  noZeroes: 1 << 1,
} as const;

/** Client flags, client to server. */
export const NbdClientFlag = {
  /** `NBD_FLAG_C_FIXED_NEWSTYLE` */
  fixedNewstyle: 1 << 0,
  /** `NBD_FLAG_C_NO_ZEROES` */
  noZeroes: 1 << 1,
} as const;

/** Transmission flags. */
export const NbdTransmissionFlag = {
  /** `NBD_FLAG_HAS_FLAGS` */
  hasFlags: 1 << 0,
  /** `NBD_FLAG_READ_ONLY` */
  readOnly: 1 << 1,
  /** `NBD_FLAG_SEND_FLUSH` */
  sendFlush: 1 << 2,
  /** `NBD_FLAG_SEND_FUA` */
  sendFua: 1 << 3,
  /** `NBD_FLAG_SEND_TRIM` */
  sendTrim: 1 << 5,
  /** `NBD_FLAG_SEND_WRITE_ZEROES` */
  sendWriteZeroes: 1 << 6,
  /** `NBD_FLAG_SEND_DF` */
  sendDf: 1 << 7,
  /** `NBD_FLAG_CAN_MULTI_CONN` */
  canMultiConn: 1 << 8,
  /** `NBD_FLAG_SEND_CACHE` */
  sendCache: 1 << 10,
  /** `NBD_FLAG_SEND_FAST_ZERO` */
  sendFastZero: 1 << 11,
} as const;

/** Option types. */
export const NbdOption = {
  /** `NBD_OPT_EXPORT_NAME` */
  exportName: 1,
  /** `NBD_OPT_ABORT` */
  abort: 2,
  /** `NBD_OPT_LIST` */
  list: 3,
  /** `NBD_OPT_STARTTLS` */
  startTls: 5,
  /** `NBD_OPT_INFO` */
  info: 6,
  /** `NBD_OPT_GO` */
  go: 7,
  /** `NBD_OPT_STRUCTURED_REPLY` */
  structuredReply: 8,
  /** `NBD_OPT_LIST_META_CONTEXT` */
  listMetaContext: 9,
  /** `NBD_OPT_SET_META_CONTEXT` */
  setMetaContext: 10,
} as const;

/** Option reply types. Errors have bit 31 set. */
export const NbdReply = {
  /** `NBD_REP_ACK` */
  ack: 1,
  /** `NBD_REP_SERVER` */
  server: 2,
  /** `NBD_REP_INFO` */
  info: 3,
  /** `NBD_REP_META_CONTEXT` */
  metaContext: 4,
  /** `NBD_REP_ERR_UNSUP` */
  errUnsup: 0x80000001,
  /** `NBD_REP_ERR_POLICY` */
  errPolicy: 0x80000002,
  /** `NBD_REP_ERR_INVALID` */
  errInvalid: 0x80000003,
  /** `NBD_REP_ERR_TLS_REQD` */
  errTlsReqd: 0x80000005,
  /** `NBD_REP_ERR_UNKNOWN` */
  errUnknown: 0x80000006,
  /** `NBD_REP_ERR_SHUTDOWN` */
  errShutdown: 0x80000007,
  /** `NBD_REP_ERR_TOO_BIG` */
  errTooBig: 0x80000009,
} as const;

/** Information types of INFO and GO. */
export const NbdInfo = {
  /** `NBD_INFO_EXPORT` */
  export: 0,
  /** `NBD_INFO_NAME` */
  name: 1,
  /** `NBD_INFO_DESCRIPTION` */
  description: 2,
  /** `NBD_INFO_BLOCK_SIZE` */
  blockSize: 3,
} as const;

/** Request types. */
export const NbdCommand = {
  /** `NBD_CMD_READ` */
  read: 0,
  /** `NBD_CMD_WRITE` */
  write: 1,
  /** `NBD_CMD_DISC` */
  disc: 2,
  /** `NBD_CMD_FLUSH` */
  flush: 3,
  /** `NBD_CMD_TRIM` */
  trim: 4,
  /** `NBD_CMD_CACHE` */
  cache: 5,
  /** `NBD_CMD_WRITE_ZEROES` */
  writeZeroes: 6,
  /** `NBD_CMD_BLOCK_STATUS` */
  blockStatus: 7,
} as const;

/** Command flags. */
export const NbdCommandFlag = {
  /** `NBD_CMD_FLAG_FUA` */
  fua: 1 << 0,
  /** `NBD_CMD_FLAG_NO_HOLE` */
  noHole: 1 << 1,
  /** `NBD_CMD_FLAG_DF` */
  df: 1 << 2,
  /** `NBD_CMD_FLAG_REQ_ONE` */
  reqOne: 1 << 3,
  /** `NBD_CMD_FLAG_FAST_ZERO` */
  fastZero: 1 << 4,
} as const;

/** `NBD_REPLY_FLAG_DONE` */
export const nbdReplyFlagDone = 1 << 0;

/** Structured reply types. Errors have bit 15 set. */
export const NbdChunk = {
  /** `NBD_REPLY_TYPE_NONE` */
  none: 0,
  /** `NBD_REPLY_TYPE_OFFSET_DATA` */
  offsetData: 1,
  /** `NBD_REPLY_TYPE_OFFSET_HOLE` */
  offsetHole: 2,
  /** `NBD_REPLY_TYPE_BLOCK_STATUS` */
  blockStatus: 5,
  /** `NBD_REPLY_TYPE_ERROR` */
  error: 0x8001,
  /** `NBD_REPLY_TYPE_ERROR_OFFSET` */
  errorOffset: 0x8002,
} as const;

/** Status flags of the context `base:allocation`. */
export const NbdState = {
  /** `NBD_STATE_HOLE` */
  hole: 1 << 0,
  /** `NBD_STATE_ZERO` */
  zero: 1 << 1,
} as const;

/** Error values. */
export const NbdErrno = {
  /** `NBD_EPERM` */
  EPERM: 1,
  /** `NBD_EIO` */
  EIO: 5,
  /** `NBD_EINVAL` */
  EINVAL: 22,
  /** `NBD_ENOSPC` */
  ENOSPC: 28,
  /** `NBD_EOVERFLOW` */
  EOVERFLOW: 75,
  /** `NBD_ENOTSUP` */
  ENOTSUP: 95,
  /** `NBD_ESHUTDOWN` */
  ESHUTDOWN: 108,
} as const;

/** The one metadata context there is. */
export const nbdBaseAllocation = "base:allocation";
/** Its id on the wire; opaque to the client, zero is reserved for LIST_META_CONTEXT. */
export const nbdBaseAllocationId = 1;

/** Bytes of a request header: magic 4, flags 2, type 2, cookie 8, offset 8, length 4. */
export const nbdRequestHeaderBytes = 28;
/** Bytes of an option header: magic 8, option 4, length 4. */
export const nbdOptionHeaderBytes = 16;
/** Bytes of an option reply header: magic 8, option 4, type 4, length 4. */
export const nbdOptionReplyHeaderBytes = 20;
/** Bytes of a simple reply: magic 4, error 4, cookie 8. */
export const nbdSimpleReplyBytes = 16;
/** Bytes of a structured chunk header: magic 4, flags 2, type 2, cookie 8, length 4. */
export const nbdChunkHeaderBytes = 20;
/** Longest string the specification allows, bytes. */
export const nbdStringBytesMax = 4096;
/** Zeroes that follow the reply to EXPORT_NAME unless both sides agreed on none. */
export const nbdExportNamePaddingBytes = 124;
