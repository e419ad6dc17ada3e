/** All planted bugs, in the order of the way a write takes. */
import { aheadBugs } from "./bugs/ahead.ts";
import { applyBugs } from "./bugs/apply.ts";
import { dropBugs } from "./bugs/drop.ts";
import { evidenceBugs } from "./bugs/evidence.ts";
import { failoverBugs } from "./bugs/failover.ts";
import { formatBugs } from "./bugs/formats.ts";
import { imageBugs } from "./bugs/image.ts";
import { intakeBugs } from "./bugs/intake.ts";
import { journalBugs } from "./bugs/journal.ts";
import { lifeBugs } from "./bugs/life.ts";
import { nbdBugs } from "./bugs/nbd.ts";
import { overflowBugs } from "./bugs/overflow.ts";
import { ownerBugs } from "./bugs/owner.ts";
import { scanBugs } from "./bugs/scan.ts";
import { shippingBugs } from "./bugs/shipping.ts";
import { volumeOwnerBugs } from "./bugs/volume-owner.ts";
import { volumeBugs } from "./bugs/volumes.ts";
import { writeAheadBugs } from "./bugs/write-ahead.ts";
import { writePathBugs } from "./bugs/write-path.ts";
import type { PlantedBug } from "./planted-bug.ts";

export const plantedBugs: readonly PlantedBug[] = [
  ...nbdBugs,
  ...writePathBugs,
  ...journalBugs,
  ...writeAheadBugs,
  ...imageBugs,
  ...ownerBugs,
  ...formatBugs,
  ...shippingBugs,
  ...intakeBugs,
  ...applyBugs,
  ...aheadBugs,
  ...scanBugs,
  ...dropBugs,
  ...overflowBugs,
  ...volumeOwnerBugs,
  ...volumeBugs,
  ...evidenceBugs,
  ...failoverBugs,
  ...lifeBugs,
];
