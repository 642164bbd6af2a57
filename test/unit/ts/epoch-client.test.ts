// The client of a domain's socket and the driver, against a server that plays the engine's end.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { after, afterEach, beforeEach, describe, test } from 'node:test';
import { EpochClient, EpochError, type EpochErrorCode, UNDER_WAY_MAX } from '../../../src/protect/epoch-client.js';
import { type DriverOptions, EpochDriver } from '../../../src/protect/epoch-driver.js';
import { OPS, REPLY_BYTES, REQUEST_BYTES } from '../../../src/protect/epoch-records.js';
import { scratch, until } from './support.js';

interface Request {
  op: number;
  tag: number;
  generation: bigint;
  epoch: bigint;
}

const ESTALE = 116;
const EAGAIN = 11;

function replyTo({ tag }: Request, error: number, numbers: bigint[] = [], flags = 0): Buffer {
  const reply = Buffer.alloc(REPLY_BYTES);
  reply.writeInt32LE(error, 0);
  reply.writeUInt32LE(tag, 4);
  numbers.forEach((number, i) => {
    reply.writeBigUInt64LE(number, 8 + 8 * i);
  });
  reply.writeUInt32LE(flags, 40);
  return reply;
}

/** A domain of generation 1 that does what it is told at once. */
class Domain {
  open = 1n;
  committed = 0n;
  generation = 1n;
  /** What answers the next requests, instead of the domain. */
  readonly errors: number[] = [];
  readonly requests: Request[] = [];
  /** Protection was dropped before the next cut. */
  dropped = false;
  /** Instead of answering. */
  hold = false;
  connections: Socket[] = [];
  #server: Server | undefined;

  listen(path: string): Promise<void> {
    rmSync(path, { force: true });
    this.#server = createServer((socket) => {
      this.connections.push(socket);
      let received = Buffer.alloc(0);
      socket.on('error', () => {});
      socket.on('data', (chunk: Buffer) => {
        received = Buffer.concat([received, chunk]);
        for (; received.length >= REQUEST_BYTES; received = received.subarray(REQUEST_BYTES)) {
          this.#take(socket, received);
        }
      });
    });
    return new Promise((resolve) => this.#server?.listen(path, resolve));
  }

  /** As when the engine dies. */
  async die(): Promise<void> {
    for (const socket of this.connections.splice(0)) {
      socket.destroy();
    }
    await new Promise((resolve) => this.#server?.close(resolve));
  }

  #take(socket: Socket, record: Buffer): void {
    const request: Request = {
      op: record.readUInt8(0),
      tag: record.readUInt32LE(4),
      generation: record.readBigUInt64LE(8),
      epoch: record.readBigUInt64LE(16),
    };
    this.requests.push(request);
    if (!this.hold) {
      socket.write(this.#answer(request));
    }
  }

  #answer(request: Request): Buffer {
    const error = this.errors.shift() ?? 0;
    const isStale = request.generation !== 0n && request.generation !== this.generation;
    if (error !== 0 || isStale) {
      return replyTo(request, error || ESTALE, [this.generation, 0n, this.open, this.committed]);
    }
    let { epoch } = request;
    if (request.op === OPS.cut) {
      epoch = this.open++;
      const flags = Number(this.dropped);
      this.dropped = false;
      return replyTo(request, 0, [this.generation, epoch, this.open, this.committed], flags);
    } else if (request.op === OPS.commit) {
      this.committed = epoch;
    }
    return replyTo(request, 0, [this.generation, epoch, this.open, this.committed]);
  }
}

const isError = (code: EpochErrorCode) => (error: unknown) => error instanceof EpochError && error.code === code;
const files = scratch();
const path = `${files.dir}/domain.sock`;
let domain: Domain;

after(() => files.remove());

describe('a client of a domain', () => {
  let client: EpochClient;

  beforeEach(async () => {
    domain = new Domain();
    await domain.listen(path);
    client = await EpochClient.connect(path);
  });

  const end = async () => {
    await client.close();
    await domain.die();
  };

  afterEach(end);

  test('cuts, commits and asks', async () => {
    const now = { generation: 1, open: 2, committed: 0, unprotected: false };
    assert.deepEqual(await client.cut(), { ...now, epoch: 1 });
    assert.deepEqual(await client.commit(1, 1), { ...now, epoch: 1, committed: 1 });
    assert.deepEqual(await client.status(), { ...now, epoch: 0, committed: 1 });
    const asked = domain.requests.map(({ op, generation, epoch }) => [op, generation, epoch]);
    assert.deepEqual(asked, [
      [OPS.cut, 0n, 0n],
      [OPS.commit, 1n, 1n],
      [OPS.status, 0n, 0n],
    ]);
  });

  test('tells refusals apart', async () => {
    const errors = [ESTALE, EAGAIN, 22, 5, 12345];
    for (const [i, code] of (['stale', 'again', 'invalid', 'io', 'io'] as const).entries()) {
      domain.errors.push(errors[i] ?? 0);
      await assert.rejects(client.commit(9), isError(code));
    }
    assert.equal((await client.cut()).epoch, 1, 'and works on');
  });

  test('takes replies in any order and in any pieces', async () => {
    domain.hold = true;
    const asked = [client.cut(), client.commit(7), client.status()];
    await until('three requests', () => domain.requests.length === 3);
    const replies = domain.requests.map((request) => replyTo(request, 0, [3n, BigInt(request.op), 5n, 6n], 1));
    for (const byte of Buffer.concat(replies.reverse())) {
      domain.connections[0]?.write(Buffer.of(byte));
    }
    const expected = (epoch: number) => ({ generation: 3, epoch, open: 5, committed: 6, unprotected: true });
    assert.deepEqual(await Promise.all(asked), [expected(OPS.cut), expected(OPS.commit), expected(OPS.status)]);
  });

  test('has a bound for what is under way', async () => {
    domain.hold = true;
    const asked = Array.from({ length: UNDER_WAY_MAX }, () => client.commit(1));
    await assert.rejects(client.commit(1), isError('busy'));
    const ended = Promise.allSettled(asked);
    await end();
    assert.ok((await ended).every((one) => one.status === 'rejected' && isError('closed')(one.reason)));
  });

  test('says so when the engine is gone', async () => {
    domain.hold = true;
    const asked = client.cut();
    await until('the request', () => domain.requests.length === 1);
    await Promise.all([assert.rejects(asked, isError('closed')), domain.die()]);
    await client.closed;
    await assert.rejects(client.status(), isError('closed'));
    await assert.rejects(EpochClient.connect(path), isError('closed'));
  });

  test('does not believe what is no reply', async () => {
    const wrong = { tag: 1, op: 0, generation: 0n, epoch: 0n };
    const records = [
      replyTo({ ...wrong, tag: 77 }, 0), // nobody asked
      replyTo(wrong, -5),
      replyTo(wrong, 0, [1n << 60n]), // no generation gets there
      Buffer.alloc(REPLY_BYTES, 0xff),
    ];
    for (const record of records) {
      domain.hold = true;
      const asked = client.cut();
      const rejected = assert.rejects(asked, isError('foreign'));
      await until('the request', () => domain.requests.length > 0);
      domain.connections[0]?.write(record);
      await rejected;
      await end();
      domain = new Domain();
      await domain.listen(path);
      client = await EpochClient.connect(path);
    }
  });
});

describe('a driver of a domain', () => {
  let driver: EpochDriver;

  beforeEach(async () => {
    domain = new Domain();
    await domain.listen(path);
  });

  afterEach(() => Promise.allSettled([driver.stop(), domain.die()]));

  const start = async (options: Partial<DriverOptions> = {}) => {
    driver = await EpochDriver.start({ socket: path, everyMs: 1, ...options });
  };

  test('cuts and commits as often as it was told', async () => {
    const seen: number[] = [];
    await start({ count: 5, onCommit: (epoch) => seen.push(epoch) });
    const { epochs, reconnects } = await driver.ended;
    assert.deepEqual([epochs, reconnects, seen], [5, 0, [1, 2, 3, 4, 5]]);
  });

  test('counts the cuts before which protection was dropped', async () => {
    domain.dropped = true;
    await start({ count: 3 });
    const { unprotected } = await driver.ended;
    assert.equal(unprotected, 1);
  });

  test('leaves a turn out when the domain says so', async () => {
    domain.errors.push(0, EAGAIN); // of the status, of the first cut
    await start({ count: 2 });
    const { epochs, skipped } = await driver.ended;
    assert.equal(epochs, 2);
    assert.ok(skipped >= 1);
  });

  test('goes on with the next engine, and commits what the last one left open', async () => {
    await start();
    await until('some epochs', () => domain.committed >= 3n);
    domain.hold = true; // the last cut is never answered
    const asked = domain.requests.length;
    await until('a request without an answer', () => domain.requests.length > asked);
    await domain.die();
    domain.hold = false;
    await domain.listen(path);
    const { open } = domain;
    await until('epochs of the next engine', () => domain.committed > open);
    const { reconnects } = await driver.stop();
    assert.equal(reconnects, 1);
    assert.equal(domain.committed, domain.open - 1n);
  });

  test('ends when another has taken over', async () => {
    await start();
    await until('an epoch', () => domain.committed >= 1n);
    domain.generation = 2n;
    await assert.rejects(driver.ended, isError('stale'));
  });

  test('stops while it waits for an engine', async () => {
    await start();
    await domain.die();
    await driver.stop();
  });
});
