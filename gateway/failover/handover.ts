/** What a standby that is sealed hands over to its site's agent: the record, from the document. Pure. */
import type { HandoverRecord } from "../../protocol/handover.ts";
import { partedAt } from "../../protocol/table-volume.ts";
import { stretchesUpTo } from "../scan/completeness.ts";
import type { Seal, StandbyDocument } from "../state.ts";

/** `history`: the folder of the before-images. A volume that is not whole at the seal is named, and no part of it. */
export function handoverOf(document: StandbyDocument, seal: Seal, history: string): HandoverRecord {
  const { whole, partial } = partedAt(document.volumes, seal.sequence);
  return {
    group: document.group,
    lineage: document.lineage,
    token: document.token,
    sealed: seal.sequence,
    chain: seal.chain,
    dataBytesTotal: seal.dataBytesTotal,
    pointTimeMs: seal.timeMs,
    volumes: whole,
    leftOut: partial.map(({ number, name, sizeBytes }) => ({ number, name, sizeBytes })),
    history,
    between: stretchesUpTo(document.incomplete, seal.sequence),
  };
}
