// The two journals of a campaign (test/tools/journal.h) as records, read piece by piece: they may be longer
// than memory is large.
import { closeSync, openSync, readSync } from 'node:fs';

export const BLOCK_BYTES = 4096;
/** Of either journal, without the stamps that follow a write of the storage. */
const RECORD_BYTES = 32;
const STAMP_BYTES = 8;
const PIECE_BYTES = 1 << 20;

export interface ClientRecord {
  timeNs: bigint;
  kind: 'submit' | 'ack';
  /** In blocks. */
  first: number;
  count: number;
  id: number;
  /** Of an acknowledgement; 0 is success. */
  status: number;
}

export interface WriteRecord {
  endNs: bigint;
  /** In blocks. */
  first: number;
  /** What each block now begins with: whose block it says it is, and the id of the write. */
  stamps: { block: number; id: number }[];
}

export function* clientRecords(path: string): Generator<ClientRecord> {
  const file = new PieceReader(path);
  for (let head = file.take(RECORD_BYTES); head !== undefined; head = file.take(RECORD_BYTES)) {
    yield {
      timeNs: head.readBigUInt64LE(0),
      first: Number(head.readBigUInt64LE(8)) / BLOCK_BYTES,
      count: head.readUInt32LE(16) / BLOCK_BYTES,
      id: head.readUInt32LE(20),
      kind: head.readUInt32LE(24) === 1 ? 'submit' : 'ack',
      status: head.readUInt32LE(28),
    };
  }
}

export function* writeRecords(path: string): Generator<WriteRecord> {
  const file = new PieceReader(path);
  for (let head = file.take(RECORD_BYTES); head !== undefined; head = file.take(RECORD_BYTES)) {
    const endNs = head.readBigUInt64LE(8);
    const first = Number(head.readBigUInt64LE(16)) / BLOCK_BYTES;
    const count = head.readUInt32LE(28);
    const bytes = file.take(count * STAMP_BYTES) ?? Buffer.alloc(0);
    const stamps = Array.from({ length: bytes.length / STAMP_BYTES }, (_, i) => ({
      id: bytes.readUInt32LE(i * STAMP_BYTES),
      block: bytes.readUInt32LE(i * STAMP_BYTES + 4),
    }));
    yield { endNs, first, stamps };
  }
}

class PieceReader {
  readonly #fd: number;
  #buffer = Buffer.alloc(0);

  constructor(path: string) {
    this.#fd = openSync(path, 'r');
  }

  /** The next bytes; undefined at the end of the file, which is closed then. */
  take(length: number): Buffer | undefined {
    while (this.#buffer.length < length) {
      const piece = Buffer.alloc(PIECE_BYTES);
      const got = readSync(this.#fd, piece, 0, PIECE_BYTES, null);
      if (got === 0) {
        closeSync(this.#fd);
        return undefined;
      }
      this.#buffer = Buffer.concat([this.#buffer, piece.subarray(0, got)]);
    }
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }
}
