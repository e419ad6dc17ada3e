/**
 * The files of one owned group on disk: made once at creation or adoption, opened and recovered at every start.
 * Owns the order of the durable steps. Must never make anything where a history may already be, and never opens a
 * journal and images that do not belong together.
 */
import { dirname } from "node:path";
import type { ImageFiles } from "../../block/image-files.ts";
import type { GroupImage } from "../../image/group-image.ts";
import { openImageFiles } from "../../image/open-files.ts";
import { historyOpener } from "../../image/past.ts";
import type { FrameLog, FrameLogRecovery, LogPosition } from "../../journal/frame-log.ts";
import { openFrameLog } from "../../journal/open.ts";
import type { StoreEngine } from "../../journal/store.ts";
import type { LineageBytes, Sequence } from "../../protocol/ids.ts";
import { bytesEqual, bytesFromHex, lineageFromText } from "../../protocol/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Disk } from "../../runtime/disk.ts";
import { syncDirectory } from "../../runtime/disk.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { OpenOrderedStore } from "../../runtime/ordered-store.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import type { HistorySettings } from "../../runtime/settings/types.ts";
import type { AgentGroupState, StateVolume } from "./state.ts";

export interface FilesSettings {
  readonly disk: Disk;
  readonly images: ImageFiles;
  readonly stores: StoreEngine;
  /** For the index of a history that was handed over with the images. */
  readonly openIndex: OpenOrderedStore;
  readonly history: HistorySettings;
  /** Length of a segment of before-images; default as of `Segments`. */
  readonly segmentBytes?: number;
  readonly clock: Clock;
  readonly paths: AgentGroupPaths;
  readonly journalBytesMax: number;
  readonly reserveBytes: number;
  /** Newest frames kept in memory for a shipper that keeps up, bytes. */
  readonly memoryTailBytes: number;
  /** LevelDB's write buffer, bytes. */
  readonly writeBufferBytes: number;
  /** Length of each half of the journal's write-ahead log, bytes. */
  readonly aheadHalfBytes: number;
  /** Identity of this boot of the host: what was never synced may be counted on only within it. */
  readonly bootId: string;
  readonly log: Log;
}

export interface OpenFiles {
  /** With the table that the journal leads to. */
  readonly state: AgentGroupState;
  readonly log: FrameLog;
  /** Applied up to the journal's tail. */
  readonly image: GroupImage;
  readonly recovery: FrameLogRecovery;
}

/** What opening asks of whoever knows the group. */
export interface OpenChecks {
  /** The state with a change of the table brought to its end, durably, as the journal has it. */
  readonly settle: (state: AgentGroupState, log: FrameLog) => Promise<AgentGroupState>;
  /** Size of a volume in the configuration: its block device may have that before the volume does. */
  readonly configuredBytes: (volume: string) => number | undefined;
}

/** One replay step reads at most this many body bytes. */
const replayBytesMax = 16 * 1024 * 1024;

export function lineageBytes(state: AgentGroupState): LineageBytes {
  const bytes = lineageFromText(state.lineage);
  if (bytes === undefined) throw new TypeError("state holds a checked lineage");
  return bytes;
}

export function originPosition(state: AgentGroupState): LogPosition {
  const chain = bytesFromHex(state.origin.chain);
  if (chain === undefined) throw new TypeError("state holds a checked chain value");
  const { sequence, dataBytesTotal, timeMs } = state.origin;
  return { sequence, chain, dataBytesTotal, closedAtMs: timeMs };
}

/** True when a journal of this epoch lies there: with no state document beside it, a history has lost its owner. */
export function journalExists({ disk, paths }: FilesSettings, epoch: number): boolean {
  return disk.exists(paths.journal(epoch));
}

/** What the images hold before the first record: anything but zeroes reaches a standby by a first sync only. */
export async function initialContent(
  volumes: readonly StateVolume[],
  { images, log }: FilesSettings,
): Promise<AgentGroupState["initial"]> {
  for (const volume of volumes) {
    const holdsData = await images.holdsData(volume.imagePath, volume.sizeBytes, (done, total) =>
      log.info("IMAGE_CHECK", "looking for data in the image", { volume: volume.name, done, total }),
    );
    if (!holdsData) continue;
    log.info("IMAGE_HOLDS_DATA", "the image holds data: its standby needs a first sync", {
      volume: volume.name,
    });
    return "data";
  }
  return "zeroes";
}

/**
 * Makes journal, checkpoint and (sparse) images for a state in role `creating` or `adopting`, replacing what an
 * earlier, interrupted attempt left. Returns the volumes with the identity of their images. Everything is durable
 * when it settles; the caller then writes the document that makes it count.
 */
export async function makeFiles(state: AgentGroupState, settings: FilesSettings): Promise<StateVolume[]> {
  const { disk, images, paths } = settings;
  const { epoch } = state.token;
  // Nothing was ever served from these: the document says `creating` or `adopting` until all of them are durable.
  await disk.remove(paths.journal(epoch));
  await disk.remove(paths.watermark(epoch));
  await disk.remove(paths.writeAhead(epoch));
  await disk.remove(paths.marker);
  const create = state.role === "creating" ? "sparse" : "never";
  for (const volume of state.volumes) await disk.makeDirectory(dirname(volume.imagePath));
  const image = await openImage(state, settings, "create", create, undefined);
  await image.close();
  for (const volume of state.volumes) await syncDirectory(disk, dirname(volume.imagePath));
  const { log } = await openLog(state, settings, "create");
  await log.close("clean");
  await syncDirectory(disk, paths.directory);
  const volumes: StateVolume[] = [];
  for (const volume of state.volumes)
    volumes.push({ ...volume, imageIdentity: await identityOf(images, volume.imagePath) });
  return volumes;
}

/** Opens and verifies the journal, opens the images, and replays what is behind the checkpoint. */
export async function openFiles(
  found: AgentGroupState,
  settings: FilesSettings,
  { settle, configuredBytes }: OpenChecks,
): Promise<OpenFiles> {
  const { log, recovery } = await openLog(found, settings, "open");
  let image: GroupImage | undefined;
  try {
    const state = await settle(found, log);
    for (const volume of state.volumes)
      await refuseOtherImage(settings.images, volume, configuredBytes(volume.name));
    // Only synced frames reach the images, so beyond the journal's tail they hold nothing.
    image = await openImage(state, settings, "open", "never", log.tail.sequence);
    await image.undoBehind({ first: log.head.sequence + 1, last: log.tail.sequence });
    // On a disk that is full, old points make room for the replay.
    await image.history?.retain(settings.clock.wallMs());
    await replay(log, image, settings.log);
    return { state, log, image, recovery };
  } catch (error) {
    await image?.close();
    await log.close("abandon");
    throw error;
  }
}

/** The journal alone, for verification of a group that serves nothing. */
export function openLog(state: AgentGroupState, settings: FilesSettings, mode: "create" | "open") {
  const { epoch } = state.token;
  return openFrameLog(
    {
      directory: settings.paths.journal(epoch),
      watermarkPath: settings.paths.watermark(epoch),
      ahead: {
        directory: settings.paths.writeAhead(epoch),
        halfBytes: settings.aheadHalfBytes,
      },
      lineage: lineageBytes(state),
      origin: originPosition(state),
      mode,
      compression: "lz4",
      bytesMax: settings.journalBytesMax,
      reserveBytes: settings.reserveBytes,
      memoryTailBytes: settings.memoryTailBytes,
      writeBufferBytes: settings.writeBufferBytes,
      bootId: settings.bootId,
    },
    settings.log,
    settings,
  );
}

function openImage(
  state: AgentGroupState,
  settings: FilesSettings,
  mode: "create" | "open",
  createImages: "sparse" | "never",
  mayHold: Sequence | undefined,
): Promise<GroupImage> {
  return openImageFiles({
    disk: settings.disk,
    images: settings.images,
    volumes: state.volumes,
    markerPath: settings.paths.marker,
    lineage: lineageBytes(state),
    mode,
    createImages,
    // A change of the table that a crash cut short may have left an image longer than its volume is.
    longer: "opened",
    origin: { ...state.origin, chain: originPosition(state).chain },
    // What a scan put into this journal was read from these very images.
    scanned: "held",
    log: settings.log,
    openHistory:
      mayHold === undefined || state.history === null
        ? undefined
        : historyOpener(
            {
              disk: settings.disk,
              directory: state.history,
              openIndex: settings.openIndex,
              settings: settings.history,
              reserveBytes: settings.reserveBytes,
              log: settings.log,
              segmentBytes: settings.segmentBytes,
            },
            lineageBytes(state),
            mayHold,
          ),
  });
}

/** A file is known by its inode, a device only by its kind and size: its node and number change between boots. */
export async function identityOf(images: ImageFiles, path: string): Promise<string> {
  const { kind, inode, sizeBytes } = await images.identity(path);
  return `${kind} ${inode} ${sizeBytes}`;
}

/**
 * The image that was recorded, or that image while it is made longer: a file, whose inode tells it, may be any longer; a
 * device only as long as the configuration says.
 */
export function isSameImage(recorded: string, found: string, configuredBytes: number | undefined): boolean {
  if (recorded === found) return true;
  const [kind, inode, bytes] = recorded.split(" ");
  const [foundKind, foundInode, foundBytes] = found.split(" ");
  if (kind !== foundKind || inode !== foundInode) return false;
  return kind === "file" ? Number(foundBytes) >= Number(bytes) : Number(foundBytes) === configuredBytes;
}

async function refuseOtherImage(
  images: ImageFiles,
  volume: StateVolume,
  configuredBytes: number | undefined,
): Promise<void> {
  if (volume.imageIdentity === null) return;
  const found = await identityOf(images, volume.imagePath);
  if (isSameImage(volume.imageIdentity, found, configuredBytes)) return;
  throw new OperationalError({
    code: "IMAGE_MISMATCH",
    message: `${volume.imagePath} is not the image this volume was made with`,
    reaction: "stop",
    hint: "Put the right file or device back under this path. A copied image is another image: its content is not proven.",
    details: { volume: volume.name, expected: volume.imageIdentity, found },
  });
}

/** Brings the images from the checkpoint to the journal's tail. Repeating it after a crash changes nothing more. */
async function replay(journal: FrameLog, image: GroupImage, log: Log): Promise<void> {
  const { applied } = image;
  const chain = await journal.chainAt(applied.sequence);
  if (
    applied.sequence > journal.tail.sequence ||
    applied.sequence < journal.head.sequence ||
    chain === undefined ||
    !bytesEqual(chain, applied.chain)
  ) {
    throw new OperationalError({
      code: "IMAGE_BEYOND_JOURNAL",
      message: "the images' checkpoint is not a position of this journal",
      reaction: "stop",
      hint: "Journal and images must be of one moment: restore both together, or fail over to the standby.",
      details: { checkpoint: applied.sequence, head: journal.head.sequence, tail: journal.tail.sequence },
    });
  }
  const last = journal.tail.sequence;
  if (applied.sequence === last) return;
  log.info("REPLAY_STARTED", "replaying the journal into the images", { first: applied.sequence + 1, last });
  for (let next = applied.sequence + 1; next <= last; next = image.held.sequence + 1) {
    await image.apply(await journal.frames(next, replayBytesMax));
    log.info("REPLAY_PROGRESS", "replaying the journal into the images", {
      sequence: image.held.sequence,
      last,
    });
  }
  // Survives power loss from here on; a crash before this replays the same frames again.
  await image.commit(await image.sync());
}
