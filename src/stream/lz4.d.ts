// The part of the npm package `lz4` that we use: single blocks, without a frame around them.
declare module 'lz4' {
  const lz4: {
    /** Size of the block, or 0 when it does not fit into `output`. */
    encodeBlock(input: Buffer, output: Buffer): number;
    /** Bytes written to `output`; negative when the block is damaged or does not fit. */
    decodeBlock(input: Buffer, output: Buffer): number;
  };
  export default lz4;
}
