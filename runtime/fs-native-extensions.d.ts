/** The one call we use of a package that ships no types: an advisory lock on an open file, held by the process. */
declare module "fs-native-extensions" {
  export function tryLock(fd: number): boolean;
}
