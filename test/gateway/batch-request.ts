/** A batch as the line hands it to a gateway's group, without a line. */
import type { HttpRequest } from "../../runtime/http.ts";

/** `site`: whose certificate it came with. The bytes are given out once, in order. */
export function batchRequest(bytes: Uint8Array, site: string): HttpRequest {
  let at = 0;
  return {
    method: "POST",
    path: "",
    params: {},
    query: new URLSearchParams(),
    sites: [site],
    contentLength: bytes.byteLength,
    take: async (length) => {
      at += length;
      return bytes.subarray(at - length, at);
    },
    body: async () => bytes,
    signal: new AbortController().signal,
  };
}
