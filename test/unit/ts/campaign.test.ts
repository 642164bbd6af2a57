import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { blackoutOf } from '../../campaign/campaign.js';
import { judge } from '../../campaign/exactly-once.js';
import { type ClientRecord, clientRecords, type WriteRecord, writeRecords } from '../../campaign/journals.js';
import { KINDS, schedule } from '../../campaign/kinds.js';
import { Random } from '../../campaign/random.js';
import { spreadOf } from '../../campaign/result.js';
import { scratch } from './support.js';

const ack = (timeNs: number, id: number, first: number, count = 1, status = 0): ClientRecord => {
  return { timeNs: BigInt(timeNs), kind: 'ack', id, first, count, status };
};
const executed = (endNs: number, id: number, first: number, count = 1): WriteRecord => {
  const stamps = Array.from({ length: count }, (_, i) => ({ block: first + i, id }));
  return { endNs: BigInt(endNs), first, stamps };
};

describe('every write is executed exactly once', () => {
  test('a write that is executed once, or again before its acknowledgement, is right', () => {
    const verdict = judge(
      [ack(10, 1, 0, 2), ack(40, 2, 1)],
      [executed(5, 1, 0, 2), executed(20, 2, 1), executed(30, 2, 1)],
    );
    assert.deepEqual(verdict, {
      ...{ acknowledged: 2, executed: 3, repeated: 1, duplicates: 0, unexecuted: 0, strays: 0 },
      examples: [],
    });
  });

  test('a write that is executed again after its acknowledgement is a duplicate', () => {
    const verdict = judge([ack(10, 1, 7)], [executed(5, 1, 7), executed(11, 1, 7)]);
    assert.equal(verdict.duplicates, 1);
    assert.deepEqual(verdict.examples, ['write 1 was executed on block 7 after write 1 was acknowledged']);
  });

  test('a write that is executed after a later one to a part of it was acknowledged is a duplicate', () => {
    // Write 1 itself was never acknowledged.
    const verdict = judge([ack(20, 2, 3)], [executed(5, 1, 0, 4), executed(15, 2, 3), executed(25, 1, 0, 4)]);
    assert.equal(verdict.duplicates, 1);
  });

  test('a later write elsewhere makes no duplicate', () => {
    const verdict = judge([ack(20, 2, 4)], [executed(15, 2, 4), executed(25, 1, 0, 4)]);
    assert.equal(verdict.duplicates, 0);
  });

  test('an acknowledgement of failure makes no duplicate', () => {
    const verdict = judge([ack(10, 1, 0, 1, 1)], [executed(15, 1, 0)]);
    assert.equal(verdict.duplicates, 0);
    assert.equal(verdict.acknowledged, 0);
  });

  test('an acknowledged write of which a block was not written before is unexecuted', () => {
    assert.equal(judge([ack(10, 1, 0, 2)], [executed(5, 1, 0)]).unexecuted, 1);
    assert.equal(judge([ack(10, 1, 0)], [executed(15, 1, 0)]).unexecuted, 1);
  });

  test("what is not the block's own is a stray", () => {
    const misplaced = { endNs: 5n, first: 0, stamps: [{ block: 9, id: 1 }] };
    const foreign = { endNs: 6n, first: 1, stamps: [{ block: 1, id: 0 }] };
    assert.equal(judge([], [misplaced, foreign]).strays, 2);
  });
});

test('the journals are read as the C programs write them', (t) => {
  const files = scratch();
  t.after(() => files.remove());
  const client = Buffer.alloc(32);
  client.writeBigUInt64LE(123n, 0);
  client.writeBigUInt64LE(8192n, 8);
  client.writeUInt32LE(4096, 16);
  client.writeUInt32LE(77, 20);
  client.writeUInt32LE(2, 24);
  const write = Buffer.alloc(32 + 2 * 8);
  write.writeBigUInt64LE(100n, 0);
  write.writeBigUInt64LE(120n, 8);
  write.writeBigUInt64LE(8192n, 16);
  write.writeUInt32LE(8192, 24);
  write.writeUInt32LE(2, 28);
  write.writeBigUInt64LE((2n << 32n) | 77n, 32);
  write.writeBigUInt64LE((3n << 32n) | 77n, 40);
  writeFileSync(`${files.dir}/client`, Buffer.concat([client, client]));
  writeFileSync(`${files.dir}/writes`, Buffer.concat([write, write]));

  const record = { timeNs: 123n, kind: 'ack', first: 2, count: 1, id: 77, status: 0 };
  assert.deepEqual([...clientRecords(`${files.dir}/client`)], [record, record]);
  const stamps = [
    { id: 77, block: 2 },
    { id: 77, block: 3 },
  ];
  const execution = { endNs: 120n, first: 2, stamps };
  assert.deepEqual([...writeRecords(`${files.dir}/writes`)], [execution, execution]);
});

test('the time during which the cable was out is no part of a blackout', () => {
  const window = { completed: 1, errors: 0, mismatches: 0, reconnects: 0, gap_ns: 30e6, gap_begin_ns: 100e6 };
  assert.equal(blackoutOf(window, []), 30);
  assert.equal(blackoutOf(window, [{ fromNs: 90_000_000n, toNs: 110_000_000n }]), 20);
  assert.equal(blackoutOf(window, [{ fromNs: 10_000_000n, toNs: 20_000_000n }]), 30);
});

test('percentiles are values that were measured', () => {
  assert.deepEqual(spreadOf([5, 1, 3]), { p50: 3, p99: 5, max: 5 });
  assert.deepEqual(spreadOf([]), { p50: 0, p99: 0, max: 0 });
});

test('a seed gives the same events again, each kind once per round', () => {
  const names = (seed: number, events: number) =>
    [...schedule(KINDS, events, new Random(seed))].map(({ name }) => name);
  const round = names(1, KINDS.length);
  assert.deepEqual(names(1, KINDS.length), round);
  assert.notDeepEqual(names(2, KINDS.length), round);
  assert.equal(new Set(round).size, KINDS.length);
  assert.equal(names(1, KINDS.length + 2).length, KINDS.length + 2);
});
