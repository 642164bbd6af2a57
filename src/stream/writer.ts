// From a volume's content to the stream. One chunk at a time: memory does not grow with the volume.
import lz4 from 'lz4';
import {
  CHUNK_SIZE,
  contentHash,
  encodeHeader,
  encodeRecord,
  encodeTail,
  isZero,
  type StreamHeader,
} from './format.js';

/** Fills `buffer` with what stands at `position` of the volume. */
export type ReadContent = (buffer: Buffer, position: number) => Promise<void>;

export async function* writeStream(header: StreamHeader, read: ReadContent): AsyncGenerator<Buffer> {
  const { size } = header;
  const hash = contentHash();
  const scratch = Buffer.allocUnsafe(CHUNK_SIZE);
  const buffer = Buffer.allocUnsafe(CHUNK_SIZE);
  const nothing = Buffer.alloc(0);
  let records = 0;
  let holeFrom: number | undefined;

  yield encodeHeader(header);
  for (let position = 0; position < size; position += CHUNK_SIZE) {
    const content = buffer.subarray(0, Math.min(CHUNK_SIZE, size - position));
    await read(content, position);
    hash.update(content);
    if (isZero(content)) {
      holeFrom ??= position;
      continue;
    }
    if (holeFrom !== undefined) {
      yield encodeRecord('hole', holeFrom, position - holeFrom, nothing);
      records++;
      holeFrom = undefined;
    }
    yield encodeData(position, content, scratch);
    records++;
  }
  if (holeFrom !== undefined) {
    yield encodeRecord('hole', holeFrom, size - holeFrom, nothing);
    records++;
  }
  yield encodeTail(size, { records, digest: hash.digest() });
}

function encodeData(position: number, content: Buffer, scratch: Buffer): Buffer {
  // 0 when the block would not be smaller than the content.
  const size = lz4.encodeBlock(content, scratch.subarray(0, content.length - 1));
  return size > 0
    ? encodeRecord('lz4', position, content.length, scratch.subarray(0, size))
    : encodeRecord('raw', position, content.length, content);
}
