// From the stream to a volume's content. What comes is checked before it is handed on, and all of it counts only
// when the tail has been reached and agrees: whoever writes it down must be able to take it back until then.
import { setImmediate as breathe } from 'node:timers/promises';
import lz4 from 'lz4';
import {
  CHUNK_SIZE,
  checkRecord,
  contentHash,
  damaged,
  decodeHeader,
  decodeRecordHead,
  decodeTail,
  HEADER_SIZE,
  RECORD_SIZE,
  type RecordHead,
  type StreamHeader,
  type StreamResult,
  zeroPieces,
} from './format.js';

export interface ContentSink {
  begin(header: StreamHeader): Promise<void>;
  /** `content` is the sink's until its promise resolves. Holes are left out: begin() made zeros of everything. */
  write(content: Buffer, position: number): Promise<void>;
}

/** Hashing this many zeros takes about as long as other work may be kept waiting. */
const ZEROS_AT_ONCE = 64 * CHUNK_SIZE;

/** Reads a whole stream. Throws stream_damaged, stream_foreign, and what `source` and `sink` throw. */
export async function readStream(source: AsyncIterable<Buffer>, sink: ContentSink): Promise<StreamResult> {
  const input = new ByteReader(source);
  const header = decodeHeader(await input.take(HEADER_SIZE, 'the header'));
  await sink.begin(header);
  const hash = contentHash();
  const buffer = Buffer.allocUnsafe(CHUNK_SIZE);
  let position = 0;

  for (let records = 0; ; records++) {
    const { offset } = input;
    const headBytes = await input.take(RECORD_SIZE, 'the head of a record');
    const head = decodeRecordHead(headBytes, offset);
    const stored = await input.take(head.stored, `a ${head.kind} record`);
    checkRecord(head, headBytes, stored, offset);
    if (head.position !== position || position + head.length > header.size) {
      const has = `the record is for byte ${head.position} of the volume (${head.length} bytes)`;
      throw damaged(offset, `${has}, expected is byte ${position} of ${header.size}: a piece is missing`);
    }
    if (head.kind === 'tail') {
      const tail = decodeTail(stored, offset);
      const digest = hash.digest();
      if (position !== header.size || tail.records !== records || !tail.digest.equals(digest)) {
        throw damaged(offset, 'the content is not that of the tail');
      }
      await input.expectEnd();
      return { bytes: header.size, stored: input.offset, digest: digest.toString('hex') };
    }
    if (head.kind === 'hole') {
      await hashZeros(hash, head.length);
    } else {
      const content = head.kind === 'raw' ? stored : unpack(head, stored, buffer, offset);
      hash.update(content);
      await sink.write(content, position);
    }
    position += head.length;
  }
}

function unpack(head: RecordHead, stored: Buffer, buffer: Buffer, offset: number): Buffer {
  const content = buffer.subarray(0, head.length);
  if (lz4.decodeBlock(stored, content) !== head.length) {
    throw damaged(offset, 'a compressed record does not unpack to its length');
  }
  return content;
}

async function hashZeros(hash: { update(data: Buffer): void }, length: number): Promise<void> {
  for (let left = length; left > 0; left -= ZEROS_AT_ONCE) {
    for (const piece of zeroPieces(Math.min(left, ZEROS_AT_ONCE))) {
      hash.update(piece);
    }
    await breathe();
  }
}

/** Takes counted bytes out of buffers of any size. */
class ByteReader {
  /** Bytes taken so far. */
  offset = 0;
  private readonly source: AsyncIterator<Buffer>;
  private pending: Buffer[] = [];
  private available = 0;

  constructor(source: AsyncIterable<Buffer>) {
    this.source = source[Symbol.asyncIterator]();
  }

  async take(count: number, what: string): Promise<Buffer> {
    while (this.available < count) {
      if (!(await this.more())) {
        throw damaged(this.offset + this.available, `it ends within ${what}`);
      }
    }
    const all = this.pending.length === 1 ? (this.pending[0] as Buffer) : Buffer.concat(this.pending);
    const rest = all.subarray(count);
    this.pending = rest.length === 0 ? [] : [rest];
    this.available = rest.length;
    this.offset += count;
    return all.subarray(0, count);
  }

  async expectEnd(): Promise<void> {
    if (this.available > 0 || (await this.more())) {
      throw damaged(this.offset, 'something follows the end');
    }
  }

  /** False at the end of the source. */
  private async more(): Promise<boolean> {
    const { done, value } = await this.source.next();
    if (done) {
      return false;
    }
    this.pending.push(value);
    this.available += value.length;
    return true;
  }
}
