// The portable form of a volume: a header, records in the order of the volume, a tail. docs/stream.md has the
// layout. Everything in it is covered by a digest, each record says where its content belongs, and the tail has
// the digest of the whole content: damage shows where it is, a missing piece shows at the latest at the end.
//
// All integers are little-endian. Digests are XXH3 in canonical byte order, as `xxhsum` prints them.
import xxhash from 'xxhash-addon';
import { NAME_PATTERN } from '../config/rules.js';
import { type OutriggerError, refuse } from '../errors.js';

export const STREAM_VERSION = 1;
/** Content bytes of a data record at most. */
export const CHUNK_SIZE = 1 << 20;
/** What a volume's size is a multiple of. */
export const SIZE_UNIT = 512;

/** The blanks at its end break when something on the way takes the stream for text. */
const MAGIC = Buffer.from('ORVOL\r\n\x1a', 'latin1');
const NAME_SIZE = 64;
const DIGEST_SIZE = 8;

export const HEADER_SIZE = 104;
const HEADER_COVERED = HEADER_SIZE - DIGEST_SIZE;
export const RECORD_SIZE = 32;
const RECORD_COVERED = RECORD_SIZE - DIGEST_SIZE;
export const TAIL_SIZE = 24;

/** hole: zeros, nothing stored; raw: as it is; lz4: one LZ4 block; tail: the end. */
const KINDS = { hole: 0, raw: 1, lz4: 2, tail: 3 } as const;
export type RecordKind = keyof typeof KINDS;

export interface StreamHeader {
  /** Of the volume that was exported, for information. */
  name: string;
  /** Bytes. */
  size: number;
  /** Logical block of the volume that was exported, bytes, for information. */
  blockSize: number;
}

export interface RecordHead {
  kind: RecordKind;
  /** Bytes that follow the head. */
  stored: number;
  /** Where in the volume the content begins. */
  position: number;
  /** Content bytes. */
  length: number;
  digest: Buffer;
}

export interface Tail {
  /** Records before this one. */
  records: number;
  /** XXH3-128 of the content, holes included. */
  digest: Buffer;
}

/** What both directions report. */
export interface StreamResult {
  /** Size of the volume. */
  bytes: number;
  /** Size of the stream. */
  stored: number;
  /** XXH3-128 of the content, hexadecimal. */
  digest: string;
}

/** `offset`: byte of the stream at which the trouble begins. */
export function damaged(offset: number, what: string): OutriggerError {
  return refuse('stream_damaged', `the stream is damaged at byte ${offset}: ${what}`);
}

const ZEROS = Buffer.alloc(CHUNK_SIZE);

/** `content` has at most CHUNK_SIZE bytes. */
export function isZero(content: Buffer): boolean {
  return content.equals(ZEROS.subarray(0, content.length));
}

/** `length` zeros in pieces that are not to be written to. */
export function* zeroPieces(length: number): Generator<Buffer> {
  for (let left = length; left > 0; left -= CHUNK_SIZE) {
    yield left >= CHUNK_SIZE ? ZEROS : ZEROS.subarray(0, left);
  }
}

/** The digest of a volume's content, piece by piece. */
export function contentHash(): xxhash.XXHash {
  return new xxhash.XXHash128(Buffer.alloc(DIGEST_SIZE)); // seed 0
}

function digestOf(...parts: readonly Buffer[]): Buffer {
  const hash = new xxhash.XXHash3(Buffer.alloc(DIGEST_SIZE));
  for (const part of parts) {
    hash.update(part);
  }
  return hash.digest();
}

export function encodeHeader({ name, size, blockSize }: StreamHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_SIZE);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(STREAM_VERSION, 8);
  bytes.writeUInt32LE(blockSize, 12);
  bytes.writeBigUInt64LE(BigInt(size), 16);
  bytes.writeUInt32LE(CHUNK_SIZE, 24);
  bytes.writeUInt32LE(name.length, 28);
  bytes.write(name, 32, 'latin1');
  digestOf(bytes.subarray(0, HEADER_COVERED)).copy(bytes, HEADER_COVERED);
  return bytes;
}

/** Throws stream_damaged or stream_foreign. */
export function decodeHeader(bytes: Buffer): StreamHeader {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw refuse('stream_foreign', 'the stream does not begin, at byte 0, like the export of a volume');
  }
  const version = bytes.readUInt32LE(8);
  if (version !== STREAM_VERSION) {
    throw refuse(
      'stream_foreign',
      `the stream has version ${version} (at byte 8), this program reads ${STREAM_VERSION}`,
    );
  }
  if (!digestOf(bytes.subarray(0, HEADER_COVERED)).equals(bytes.subarray(HEADER_COVERED))) {
    throw damaged(0, 'the digest of the header is wrong');
  }
  const size = toNumber(bytes.readBigUInt64LE(16), 16);
  const chunkSize = bytes.readUInt32LE(24);
  const name = bytes.toString('latin1', 32, 32 + Math.min(bytes.readUInt32LE(28), NAME_SIZE));
  if (size === 0 || size % SIZE_UNIT !== 0) {
    throw damaged(16, `the size ${size} is not a positive multiple of ${SIZE_UNIT}`);
  }
  if (chunkSize !== CHUNK_SIZE || !new RegExp(NAME_PATTERN).test(name)) {
    throw damaged(24, 'the header makes no sense');
  }
  return { name, size, blockSize: bytes.readUInt32LE(12) };
}

/** A head and what follows it. */
export function encodeRecord(kind: RecordKind, position: number, length: number, stored: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(RECORD_SIZE + stored.length);
  bytes.writeUInt32LE(KINDS[kind], 0);
  bytes.writeUInt32LE(stored.length, 4);
  bytes.writeBigUInt64LE(BigInt(position), 8);
  bytes.writeBigUInt64LE(BigInt(length), 16);
  digestOf(bytes.subarray(0, RECORD_COVERED), stored).copy(bytes, RECORD_COVERED);
  stored.copy(bytes, RECORD_SIZE);
  return bytes;
}

/**
 * A head that can be followed: its digest is checked when what it stores is there. `offset`: of the head in the
 * stream. Throws stream_damaged.
 */
export function decodeRecordHead(bytes: Buffer, offset: number): RecordHead {
  const number = bytes.readUInt32LE(0);
  const kind = (Object.keys(KINDS) as RecordKind[]).find((name) => KINDS[name] === number);
  const stored = bytes.readUInt32LE(4);
  const position = toNumber(bytes.readBigUInt64LE(8), offset);
  const length = toNumber(bytes.readBigUInt64LE(16), offset);
  if (kind === undefined || !fits(kind, stored, length)) {
    throw damaged(offset, 'there is no record here');
  }
  return { kind, stored, position, length, digest: bytes.subarray(RECORD_COVERED) };
}

function fits(kind: RecordKind, stored: number, length: number): boolean {
  switch (kind) {
    case 'hole':
      return stored === 0 && length > 0;
    case 'raw':
      return stored === length && length > 0 && length <= CHUNK_SIZE;
    case 'lz4':
      return stored > 0 && stored < length && length <= CHUNK_SIZE;
    case 'tail':
      return stored === TAIL_SIZE;
    default:
      return kind satisfies never;
  }
}

/** Throws stream_damaged when the record at `offset` is not as it was written. */
export function checkRecord(head: RecordHead, headBytes: Buffer, stored: Buffer, offset: number): void {
  if (!digestOf(headBytes.subarray(0, RECORD_COVERED), stored).equals(head.digest)) {
    throw damaged(offset, `the digest of a ${head.kind} record is wrong`);
  }
}

export function encodeTail(position: number, { records, digest }: Tail): Buffer {
  const stored = Buffer.alloc(TAIL_SIZE);
  stored.writeBigUInt64LE(BigInt(records), 0);
  digest.copy(stored, 8);
  return encodeRecord('tail', position, 0, stored);
}

export function decodeTail(stored: Buffer, offset: number): Tail {
  return { records: toNumber(stored.readBigUInt64LE(0), offset), digest: stored.subarray(8) };
}

function toNumber(value: bigint, offset: number): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw damaged(offset, `the number ${value} makes no sense`);
  }
  return Number(value);
}
