/** Settings of a group for tests: everything that a test does not care about, once. */
import type { GroupSettings } from "../../runtime/settings/types.ts";

type Given = Partial<Omit<GroupSettings, "volumes">> & {
  /** Images inside the data folder. */
  readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
};

export function groupSettings({ volumes, ...given }: Given): GroupSettings {
  return {
    name: "erp",
    home: "primary",
    standby: "dr",
    volumes: volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes, image: null, standbyImage: null })),
    durability: "flush",
    rpo: { ageMs: null, bytes: null },
    overflow: "hold",
    history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
    scan: { bytesPerSecond: null, verifyCron: null, onMismatch: "report" },
    ...given,
  };
}
