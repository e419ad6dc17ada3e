/** The first byte of a batch that ends the thread of `ending-thread.ts`. */
export const endingByte = 0xee;
