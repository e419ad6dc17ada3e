/** A journal in memory for the shipper's tests: appends random frames, knows every chain value, can be trimmed. */
import { genesisChain } from "../../../protocol/chain.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame } from "../../../protocol/frame.ts";
import { sliceFrame } from "../../../protocol/frame-split.ts";
import type { StandingOrder } from "../../../protocol/group-life.ts";
import type { ChainValue, Sequence, Token, VolumeEntry } from "../../../protocol/ids.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import type { ShipSource } from "../../../site-agent/ship/shipper.ts";

export const volumes: readonly VolumeEntry[] = [{ number: 0, name: "data", sizeBytes: 64 * 1024 * 1024 }];

export class MemorySource implements ShipSource {
  readonly group = "erp";
  readonly lineage = new Uint8Array(16).fill(7);
  token: Token = { epoch: 1, owner: "primary" };
  readonly table = () => ({ volumes, founding: undefined, imagesHeldData: false });
  readonly genesis = genesisChain(this.lineage, volumes);
  readonly allFrames: Frame[] = [];
  readonly chains = new Map<Sequence, ChainValue>([[0, this.genesis]]);
  head = 0;
  /** Oldest position that can be proven where frames were dropped; the head unless set. */
  floor: Sequence | undefined;
  paused: StandingOrder | null = null;
  /** First and last of the gaps that the shipper wanted to tell of. */
  readonly declared: [Sequence, Sequence][] = [];

  /** Appends one frame of `count` writes of `length` bytes; `fill` gives each record's byte. */
  append(
    count: number,
    length: number,
    fill: (sequence: Sequence) => Uint8Array | number = (sequence) => sequence & 0xff,
  ): Frame {
    const before = this.durable();
    const records: BlockRecord[] = Array.from({ length: count }, (_, index) => {
      const content = fill(before.sequence + 1 + index);
      const data = typeof content === "number" ? new Uint8Array(length).fill(content) : content;
      return {
        kind: "write",
        volume: 0,
        offset: ((before.sequence + index) % 100) * 4096,
        length: data.byteLength,
        data,
      };
    });
    const frame = buildFrame({
      lineage: this.lineage,
      first: before.sequence + 1,
      chainBefore: before.chain,
      dataBytesBefore: before.dataBytesTotal,
      openedAtMs: 1,
      closedAtMs: 2,
      records,
    });
    this.allFrames.push(frame);
    this.chains.set(frame.last, frame.chainAfter);
    return frame;
  }

  durable() {
    const last = this.allFrames[this.allFrames.length - 1];
    return {
      sequence: last?.last ?? 0,
      chain: last?.chainAfter ?? this.genesis,
      dataBytesTotal: last?.dataBytesTotal ?? 0,
    };
  }

  headSequence(): Sequence {
    return this.head;
  }

  pause(): StandingOrder | null {
    return this.paused;
  }

  answered() {
    return this.durable();
  }

  async frames(from: Sequence, rawBytesMax: number): Promise<Frame[]> {
    const found: Frame[] = [];
    let bytes = 0;
    // Binary search would do; the tests are small.
    for (const frame of this.allFrames) {
      if (frame.last < from) continue;
      if (found.length > 0 && bytes + frame.body.byteLength > rawBytesMax) break;
      found.push(frame);
      bytes += frame.body.byteLength;
    }
    return found;
  }

  async chainAt(sequence: Sequence): Promise<ChainValue | undefined> {
    return this.chains.get(sequence);
  }

  floorSequence(): Sequence {
    return this.floor ?? this.head;
  }

  async positionAt(sequence: Sequence) {
    if (sequence < this.floorSequence()) return undefined;
    if (sequence === 0) return { sequence, chain: this.genesis, dataBytesTotal: 0 };
    const frame = this.allFrames.find(({ first, last }) => first <= sequence && sequence <= last);
    if (frame === undefined) return undefined;
    const { chainAfter: chain, dataBytesTotal } = sliceFrame(frame, frame.first, sequence);
    return { sequence, chain, dataBytesTotal };
  }

  async declareGap(first: Sequence) {
    if (first > this.head) return undefined;
    this.declared.push([first, this.head]);
    const position = await this.positionAt(this.head);
    return position === undefined ? undefined : { ...position, closedAtMs: 3 };
  }
}
