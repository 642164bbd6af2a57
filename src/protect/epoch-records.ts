// The records of a domain's socket, little-endian. Its other end is native/loop/domain_socket.c.
//
//   request, 32 bytes: u8 op, u8[3] zero, u32 tag, u64 generation, u64 epoch, u64 zero
//   reply,   48 bytes: i32 error (an errno), u32 tag, u64 generation, u64 epoch, u64 open, u64 committed,
//                      u32 flags, u32 zero

export const REQUEST_BYTES = 32;
export const REPLY_BYTES = 48;
export const OPS = { cut: 1, commit: 2, status: 3 } as const;
export type EpochOp = keyof typeof OPS;
/** In a request: whatever the current generation is. */
export const ANY_GENERATION = 0;
const FLAG_UNPROTECTED = 1;

export interface EpochRequest {
  op: EpochOp;
  tag: number;
  generation: number;
  /** To commit. */
  epoch: number;
}

export interface EpochReply {
  /** The current one. */
  generation: number;
  /** Cut: the one that was closed. Commit: as asked. */
  epoch: number;
  open: number;
  committed: number;
  /** Output went out unprotected: of a cut since the one before, else since the last cut. */
  unprotected: boolean;
}

export function encodeRequest({ op, tag, generation, epoch }: EpochRequest): Buffer {
  const record = Buffer.alloc(REQUEST_BYTES);
  record.writeUInt8(OPS[op], 0);
  record.writeUInt32LE(tag, 4);
  record.writeBigUInt64LE(BigInt(generation), 8);
  record.writeBigUInt64LE(BigInt(epoch), 16);
  return record;
}

/** Undefined: no reply of ours looks like this. */
export function decodeReply(record: Buffer): { error: number; tag: number; reply: EpochReply } | undefined {
  const error = record.readInt32LE(0);
  const numbers = [8, 16, 24, 32].map((at) => Number(record.readBigUInt64LE(at)));
  const [generation = 0, epoch = 0, open = 0, committed = 0] = numbers;
  if (error < 0 || record.readUInt32LE(44) !== 0 || !numbers.every(Number.isSafeInteger)) {
    return undefined;
  }
  const unprotected = (record.readUInt32LE(40) & FLAG_UNPROTECTED) !== 0;
  return { error, tag: record.readUInt32LE(4), reply: { generation, epoch, open, committed, unprotected } };
}
