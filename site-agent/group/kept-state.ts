/**
 * An owned group's state document as this process goes by it, and the one place that writes it. Life-cycle steps change it,
 * one after another. Must never hold what is not durable.
 */
import type { Disk } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { AgentGroupState } from "./state.ts";
import { parseAgentGroupState } from "./state.ts";

export class KeptState {
  readonly #disk: Disk;
  readonly #path: string;
  #now: AgentGroupState | undefined;

  constructor(disk: Disk, path: string) {
    this.#disk = disk;
    this.#path = path;
  }

  /** Undefined: this site has no document of the group, or has not read it yet. */
  get now(): AgentGroupState | undefined {
    return this.#now;
  }

  /** Goes by what is on disk. */
  async read(): Promise<void> {
    this.#now = await readDocument(this.#disk, this.#path, parseAgentGroupState);
  }

  /** Survives power loss when it settles; when it rejects, everybody goes on by what was there before. */
  async save(state: AgentGroupState): Promise<void> {
    await writeDocument(this.#disk, this.#path, state);
    this.#now = state;
  }

  /**
   * As `save`, of what must not be found by a restart once it was reported as not done: it rejects with the error of the
   * write where `before` is on disk again, and with `STATE_NOT_RESTORED` (`stop`) where that is not known.
   */
  async saveOrPutBack(state: AgentGroupState, before: AgentGroupState): Promise<void> {
    try {
      await this.save(state);
    } catch (error) {
      // It may or may not be on disk, and what is served must not be called retired there.
      await this.save(before).catch((cause: unknown) => {
        throw new OperationalError({
          code: "STATE_NOT_RESTORED",
          message:
            "it is not known whether the group is retired: nothing is served before a restart has read it",
          reaction: "stop",
          cause,
        });
      });
      throw error;
    }
  }
}
