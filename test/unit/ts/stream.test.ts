import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { OutriggerError } from '../../../src/errors.js';
import {
  CHUNK_SIZE,
  encodeHeader,
  encodeRecord,
  encodeTail,
  HEADER_SIZE,
  RECORD_SIZE,
} from '../../../src/stream/format.js';
import { readStream } from '../../../src/stream/reader.js';
import { writeStream } from '../../../src/stream/writer.js';

const header = (size: number) => ({ name: 'disk1', size, blockSize: 512 });

async function write(content: Buffer): Promise<Buffer[]> {
  const pieces: Buffer[] = [];
  for await (const piece of writeStream(header(content.length), async (buffer, at) => {
    content.copy(buffer, 0, at);
  })) {
    pieces.push(piece);
  }
  return pieces;
}

/** In pieces that fit nothing, as a network cuts them. */
async function* cut(stream: Buffer, size = 60_001): AsyncGenerator<Buffer> {
  for (let at = 0; at < stream.length; at += size) {
    yield stream.subarray(at, at + size);
  }
}

async function read(stream: Buffer, size?: number) {
  let content = Buffer.alloc(0);
  const result = await readStream(cut(stream, size), {
    async begin({ size: total }) {
      content = Buffer.alloc(total);
    },
    async write(bytes, at) {
      bytes.copy(content, at);
    },
  });
  return { content, ...result };
}

/** Raw, hole, compressed, a short hole at the end: one record of each kind, small enough to damage often. */
function sample(): Buffer {
  const content = Buffer.alloc(4 * CHUNK_SIZE + 1536);
  randomBytes(CHUNK_SIZE).copy(content);
  content.fill('compressible ', 3 * CHUNK_SIZE, 4 * CHUNK_SIZE);
  return content;
}

async function failure(stream: Buffer): Promise<{ code: string; offset: number }> {
  try {
    await read(stream);
  } catch (error) {
    assert.ok(error instanceof OutriggerError, String(error));
    return { code: error.code, offset: Number(/at byte (\d+)/.exec(error.message)?.[1]) };
  }
  return { code: 'none', offset: Number.NaN };
}

test('what was written is read, whatever it is', async () => {
  const random = randomBytes(CHUNK_SIZE + 512);
  for (const content of [sample(), random, Buffer.alloc(512), Buffer.alloc(3 * CHUNK_SIZE), Buffer.alloc(512, 1)]) {
    const stream = Buffer.concat(await write(content));
    for (const size of [1 << 22, 4096, ...(stream.length < 5000 ? [1] : [])]) {
      const result = await read(stream, size);
      assert.ok(result.content.equals(content));
      assert.deepEqual([result.bytes, result.stored], [content.length, stream.length]);
    }
  }
});

test('zeros and repetitions cost next to nothing, and random data little more than itself', async () => {
  const sizes = await Promise.all(
    [Buffer.alloc(64 << 20), Buffer.alloc(8 << 20, 'log line\n'), randomBytes(4 << 20)].map(
      async (content) => Buffer.concat(await write(content)).length,
    ),
  );
  const [zeros = 0, text = 0, random = 0] = sizes;
  assert.equal(zeros, HEADER_SIZE + 2 * RECORD_SIZE + 24);
  assert.ok(text < 100_000, String(text));
  assert.equal(random, (4 << 20) + HEADER_SIZE + 5 * RECORD_SIZE + 24);
});

test('a changed bit anywhere is found, and the place is named', async () => {
  const pieces = await write(sample());
  assert.equal(pieces.length, 6);
  const stream = Buffer.concat(pieces);
  let start = 0;
  for (const [index, piece] of pieces.entries()) {
    const headSize = index === 0 ? HEADER_SIZE : RECORD_SIZE;
    const heads = Array.from({ length: Math.min(headSize, piece.length) }, (_, i) => i);
    const payload = piece.length - headSize;
    const inside = payload > 0 ? [0, 1, payload >> 1, payload - 1].map((i) => headSize + i) : [];
    for (const at of [...heads, ...inside]) {
      const bad = Buffer.from(stream);
      bad[start + at] = (bad[start + at] ?? 0) ^ (1 << (at % 8));
      const { code, offset } = await failure(bad);
      assert.match(code, index === 0 ? /^stream_(foreign|damaged)$/ : /^stream_damaged$/, `byte ${start + at}`);
      // A length that grew beyond the end shows there: everything is read before its digest is known.
      assert.ok((offset >= start && offset <= start + at) || offset === stream.length, `${start + at}: ${offset}`);
    }
    start += piece.length;
  }
});

test('a stream that ends early is refused wherever it ends', async () => {
  const pieces = await write(sample());
  const stream = Buffer.concat(pieces);
  let start = 0;
  for (const piece of pieces) {
    for (const at of [0, 1, RECORD_SIZE - 1, RECORD_SIZE, piece.length >> 1, piece.length - 1]) {
      const { code, offset } = await failure(stream.subarray(0, start + at));
      assert.deepEqual([code, offset], ['stream_damaged', start + at]);
    }
    start += piece.length;
  }
});

test('pieces that are missing, exchanged, repeated, foreign or too many are found', async () => {
  const [head, raw, hole, lz4, last, tail] = (await write(sample())) as [
    Buffer,
    Buffer,
    Buffer,
    Buffer,
    Buffer,
    Buffer,
  ];
  const otherRaw = (await write(sample()))[1] as Buffer;
  const at = (...pieces: Buffer[]) => Buffer.concat(pieces).length;
  const cases: [string, Buffer[], number][] = [
    ['missing', [head, raw, lz4, last, tail], at(head, raw)],
    ['exchanged', [head, hole, raw, lz4, last, tail], at(head)],
    ['repeated', [head, raw, raw, hole, lz4, last, tail], at(head, raw)],
    ['missing before the tail', [head, raw, hole, lz4, tail], at(head, raw, hole, lz4)],
    ['of another export', [head, otherRaw, hole, lz4, last, tail], at(head, raw, hole, lz4, last)],
    ['after the end', [head, raw, hole, lz4, last, tail, Buffer.from('x')], at(head, raw, hole, lz4, last, tail)],
    ['two streams', [head, raw, hole, lz4, last, tail, head], at(head, raw, hole, lz4, last, tail)],
  ];
  for (const [name, pieces, offset] of cases) {
    assert.deepEqual(await failure(Buffer.concat(pieces)), { code: 'stream_damaged', offset }, name);
  }
});

test('what bears right digests and makes no sense is refused too', async () => {
  const none = Buffer.alloc(0);
  const size = CHUNK_SIZE;
  const end = encodeTail(size, { records: 1, digest: Buffer.alloc(16) });
  const cases: [string, Buffer[]][] = [
    ['a hole beyond the end', [encodeHeader(header(size)), encodeRecord('hole', 0, Number.MAX_SAFE_INTEGER, none)]],
    ['a block that is none', [encodeHeader(header(size)), encodeRecord('lz4', 0, size, randomBytes(500))]],
    ['a block of another length', [encodeHeader(header(size)), encodeRecord('lz4', 0, size, Buffer.from([0x10, 7]))]],
    ['an empty hole', [encodeHeader(header(size)), encodeRecord('hole', 0, 0, none)]],
    ['the tail of another content', [encodeHeader(header(size)), encodeRecord('hole', 0, size, none), end]],
    ['a size that no volume has', [encodeHeader(header(1000))]],
    ['a name that leaves the folder', [encodeHeader({ ...header(size), name: '../x' })]],
  ];
  for (const [name, pieces] of cases) {
    assert.equal((await failure(Buffer.concat(pieces))).code, 'stream_damaged', name);
  }
});

test('files of other kinds and versions are told from damaged ones', async () => {
  const later = encodeHeader(header(512));
  later.writeUInt32LE(2, 8);
  for (const stream of [Buffer.alloc(4096), Buffer.from('QFI\xfb'.padEnd(200)), later]) {
    assert.equal((await failure(stream)).code, 'stream_foreign');
  }
  assert.deepEqual(await failure(Buffer.alloc(0)), { code: 'stream_damaged', offset: 0 });
});
