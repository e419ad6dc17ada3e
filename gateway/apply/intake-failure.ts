/** Failure of the intake log while apply reads or trims it, to be told apart from one of the images. */
import { errorText } from "../../runtime/errors.ts";

export class IntakeFailure extends Error {}

export async function fromIntake<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw new IntakeFailure(errorText(cause), { cause });
  }
}
