/**
 * The names of one simulated machine: folders and what is in them, as cached and as stored. A change of names is
 * atomic and lasts from the sync of a folder it touches; within a folder changes reach the disk in order. Content is
 * the files' own. No time, no faults.
 */
import type { SeededRandom } from "../../support/seeded.ts";
import { SimFile } from "./sim-file.ts";

export type PowerCut = "everything" | "nothing" | "subset" | "torn";
export type SimNode = SimFile | SimFolder;

interface NamePart {
  readonly folder: SimFolder;
  readonly name: string;
  readonly node: SimNode | undefined;
}

/** One atomic change of one or two names. */
interface NameChange {
  readonly parts: readonly NamePart[];
  stored: boolean;
}

export class SimFolder {
  readonly id: number;
  names = new Map<string, SimNode>();
  stored = new Map<string, SimNode>();
  unsynced: NameChange[] = [];

  constructor(id: number) {
    this.id = id;
  }

  /** What a sync that begins now has to make durable. */
  beginSync(): readonly NameChange[] {
    return [...this.unsynced];
  }

  endSync(changes: readonly NameChange[]): void {
    for (const change of changes) store(change);
    this.unsynced = this.unsynced.filter((change) => !change.stored);
  }
}

function store(change: NameChange): void {
  if (change.stored) return;
  change.stored = true;
  for (const { folder, name, node } of change.parts) {
    if (node === undefined) folder.stored.delete(name);
    else folder.stored.set(name, node);
  }
}

/** An error as the system gives it: without a stack, which the system knows nothing of and which is dear to make. */
export function systemError(code: string, what: string): Error {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  const error = Object.assign(new Error(`${code}: ${what}`), { code });
  Error.stackTraceLimit = stackTraceLimit;
  return error;
}

/** A name and the folder it is, or would be, in. */
export interface Place {
  readonly folder: SimFolder;
  readonly name: string;
}

export class SimTree {
  root = new SimFolder(2);
  #nextId = 11;

  find(path: string): SimNode | undefined {
    let node: SimNode | undefined = this.root;
    for (const name of partsOf(path)) {
      if (!(node instanceof SimFolder)) return undefined;
      node = node.names.get(name);
    }
    return node;
  }

  /** ENOENT or ENOTDIR when the folder above is missing or none. */
  place(path: string): Place {
    const name = partsOf(path).at(-1);
    if (name === undefined) throw systemError("EBUSY", path);
    const folder = this.find(path.slice(0, path.lastIndexOf(name)));
    if (folder === undefined) throw systemError("ENOENT", path);
    if (folder instanceof SimFile) throw systemError("ENOTDIR", path);
    return { folder, name };
  }

  makeFile(path: string): SimFile {
    const file = new SimFile(this.#nextId++);
    this.#change([{ ...this.place(path), node: file }]);
    return file;
  }

  makeFolder(path: string): void {
    this.#change([{ ...this.place(path), node: new SimFolder(this.#nextId++) }]);
  }

  rename(from: string, to: string): void {
    const source = this.place(from);
    const target = this.place(to);
    const node = source.folder.names.get(source.name);
    if (node === undefined) throw systemError("ENOENT", from);
    const replaced = target.folder.names.get(target.name);
    if (replaced instanceof SimFolder && replaced.names.size > 0) throw systemError("ENOTEMPTY", to);
    if (replaced === node) return;
    this.#change([
      { ...source, node: undefined },
      { ...target, node },
    ]);
  }

  /** Removes one name; a folder must be empty. */
  unlink(path: string): void {
    const place = this.place(path);
    const node = place.folder.names.get(place.name);
    if (node === undefined) throw systemError("ENOENT", path);
    if (node instanceof SimFolder && node.names.size > 0) throw systemError("ENOTEMPTY", path);
    this.#change([{ ...place, node: undefined }]);
  }

  /** A name is gone with all below it, as when it was never there: nothing of it is left to a loss of power. */
  lose(path: string): void {
    const { folder, name } = this.place(path);
    folder.unsynced = folder.unsynced.filter((change) => {
      if (!change.parts.some((part) => part.folder === folder && part.name === name)) store(change);
      return false;
    });
    folder.names.delete(name);
    folder.stored.delete(name);
  }

  #change(parts: readonly NamePart[]): void {
    const change: NameChange = { parts, stored: false };
    for (const { folder, name, node } of parts) {
      if (node === undefined) folder.names.delete(name);
      else folder.names.set(name, node);
      if (folder.unsynced.at(-1) !== change) folder.unsynced.push(change);
    }
  }

  /**
   * Names that are left: all, the synced ones, or of each folder's unsynced changes a drawn number of the first.
   * Returns the files that can still be reached.
   */
  losePower(model: PowerCut, random: SeededRandom): SimFile[] {
    const folders = new Set<SimFolder>([this.root]);
    for (const folder of folders) {
      for (const names of [folder.names, folder.stored]) {
        for (const node of names.values()) if (node instanceof SimFolder) folders.add(node);
      }
    }
    for (const folder of folders) {
      const { length } = folder.unsynced;
      const kept = model === "nothing" ? 0 : model === "subset" ? random.below(length + 1) : length;
      for (const change of folder.unsynced.slice(0, kept)) store(change);
    }
    const files = new Set<SimFile>();
    const left = new Set<SimFolder>([this.root]);
    for (const folder of left) {
      folder.names = new Map(folder.stored);
      folder.unsynced = [];
      for (const node of folder.names.values()) {
        if (node instanceof SimFolder) left.add(node);
        else files.add(node);
      }
    }
    return [...files];
  }

  /** Allocated by all files that have a name. */
  get allocatedBytes(): number {
    return allocatedIn(this.root);
  }

  /** All files that have a name, each once per name, with their paths, in order of path. */
  *files(): Generator<{ path: string; file: SimFile }> {
    yield* filesIn(this.root, "");
  }

  /** The same tree with files that share their content; `known` tells which copy belongs to which file. */
  copy(known = new Map<SimNode, SimNode>()): SimTree {
    const tree = new SimTree();
    tree.#nextId = this.#nextId;
    tree.root = copyOf(this.root, known);
    return tree;
  }
}

function* filesIn(folder: SimFolder, above: string): Generator<{ path: string; file: SimFile }> {
  for (const [name, node] of [...folder.names].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const path = `${above}/${name}`;
    if (node instanceof SimFile) yield { path, file: node };
    else yield* filesIn(node, path);
  }
}

function allocatedIn(folder: SimFolder): number {
  let bytes = 0;
  for (const node of folder.names.values())
    bytes += node instanceof SimFile ? node.allocatedBytes : allocatedIn(node);
  return bytes;
}

function copyOf(original: SimFolder, known: Map<SimNode, SimNode>): SimFolder {
  const changes = new Map<NameChange, NameChange>();
  const copyNode = (node: SimNode): SimNode => {
    const before = known.get(node);
    if (before !== undefined) return before;
    if (node instanceof SimFile) {
      const file = node.copy();
      known.set(node, file);
      return file;
    }
    return copyFolder(node);
  };
  const copyFolder = (folder: SimFolder): SimFolder => {
    const before = known.get(folder);
    if (before instanceof SimFolder) return before;
    const copy = new SimFolder(folder.id);
    known.set(folder, copy);
    for (const [name, node] of folder.names) copy.names.set(name, copyNode(node));
    for (const [name, node] of folder.stored) copy.stored.set(name, copyNode(node));
    copy.unsynced = folder.unsynced.map((change) => {
      const copied = changes.get(change) ?? {
        parts: change.parts.map((part) => ({
          folder: copyFolder(part.folder),
          name: part.name,
          node: part.node === undefined ? undefined : copyNode(part.node),
        })),
        stored: change.stored,
      };
      changes.set(change, copied);
      return copied;
    });
    return copy;
  };
  return copyFolder(original);
}

/** Paths that were taken apart before: a run names the same few hundred again and again. */
const parsed = new Map<string, readonly string[]>();
const parsedMax = 4_096;

function partsOf(path: string): readonly string[] {
  let parts = parsed.get(path);
  if (parts === undefined) {
    parts = path.split("/").filter((part) => part !== "");
    if (parsed.size >= parsedMax) parsed.clear();
    parsed.set(path, parts);
  }
  return parts;
}
