/**
 * Runs a byte script against any NBD server and says in one line what came of it, in words that depend on the protocol
 * alone: type of each final option reply, error of each request, and whether the stream was still in step at the end.
 */

import { connect } from "node:net";
import { OPT, REP, ServerStream } from "../protocol/nbd/wire.ts";
import type { NbdAddress } from "../support/nbd-client.ts";
import { probe, probeCookie, type Script } from "./scripts.ts";

/** A server that has said nothing more for this long waits for bytes that do not come. */
const silenceMs = 1_500;

const nameOfReply = new Map(Object.entries(REP).map(([name, type]) => [type, name]));

export interface Outcome {
  /** For comparing: `77:UNSUP in step`, `1:22 in step`, `closed`. */
  readonly text: string;
  /** Data of successful reads by cookie, for scripts whose data matter. */
  readonly reads: ReadonlyMap<string, Buffer>;
}

export async function runScript(address: NbdAddress, script: Script): Promise<Outcome> {
  const socket = connect(address);
  const stream = new ServerStream();
  const words: string[] = [];
  const answers: string[] = [];
  const reads = new Map<string, Buffer>();
  let greeted = false;
  let transmitting = false;
  let inStep = false;

  const take = (): void => {
    if (!greeted) {
      if (stream.greeting() === undefined) return;
      greeted = true;
    }
    while (!transmitting) {
      const reply = stream.optionReply();
      if (reply === undefined) return;
      if (reply.type !== REP.ACK && reply.type < 0x80000000) continue;
      if (script.phase === "options" && reply.option === OPT.LIST && reply.type === REP.ACK) inStep = true;
      else if (script.phase === "options")
        words.push(`${reply.option}:${nameOfReply.get(reply.type) ?? reply.type}`);
      if (reply.option === OPT.GO && reply.type === REP.ACK) transmitting = true;
    }
    for (;;) {
      const reply = stream.reply((cookie) => script.readLengths[`${cookie}`] ?? 0);
      if (reply === undefined) return;
      if (reply.kind === "simple" && reply.data.length > 0) reads.set(`${reply.cookie}`, reply.data);
      if ((reply.flags & 1) === 0) continue;
      if (Number(reply.cookie) === probeCookie) inStep = true;
      else answers.push(`${reply.cookie}:${reply.error}`);
    }
  };

  const closed = await new Promise<boolean>((resolve) => {
    let timer = setTimeout(() => resolve(false), silenceMs);
    socket.on("error", () => undefined);
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(true);
    });
    socket.on("connect", () => socket.write(Buffer.concat([script.bytes, probe(script)])));
    socket.on("data", (chunk: Buffer) => {
      stream.push(chunk);
      take();
      clearTimeout(timer);
      // A probe may overtake what it follows: a moment for stragglers, and for a server that closes late.
      timer = setTimeout(() => resolve(false), inStep ? 30 : silenceMs);
    });
  });
  socket.destroy();
  const ending = inStep ? "in step" : closed ? "closed" : "waits";
  return {
    text: [...words, ...answers.toSorted((one, other) => one.localeCompare(other)), ending].join(" "),
    reads,
  };
}
