import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { judge } from '../../../bench/lib/aims.js';
import { compare, formatComparison, rangeOf } from '../../../bench/lib/compare.js';
import { makeResult } from '../../../bench/lib/result.js';
import { type Row, rowOf } from '../../../bench/lib/row.js';
import { benchRow, measured } from './bench-rows.js';

const rounds = (system: string, ...iops: number[]): Row =>
  rowOf(iops.map((value) => measured({ system, iops: value })));

describe('of the rounds of a row', () => {
  test('the one with the median rate gives all figures', () => {
    const row = rowOf([
      measured({ iops: 300, p50_us: 3 }),
      measured({ iops: 100, p50_us: 1 }),
      measured({ iops: 200, p50_us: 2 }),
    ]);
    assert.equal(row.iops, 200);
    assert.equal(row.p50_us, 2);
    assert.deepEqual(
      row.rounds.map(({ iops }) => iops),
      [300, 100, 200],
    );
  });

  test('a disturbed one does not widen the range where there are others', () => {
    const row = rowOf([
      measured({ iops: 100 }),
      measured({ iops: 110 }),
      measured({ iops: 105 }),
      measured({ iops: 10, disturbed: true }),
    ]);
    assert.deepEqual(
      rangeOf(row, ({ iops }) => iops),
      { low: 97, high: 110 },
    );
  });

  test('one alone is taken to be as noisy as 15 %', () => {
    const range = rangeOf(rounds('a', 100), ({ iops }) => iops);
    assert.deepEqual([range.low, range.high], [85, 115]);
  });
});

describe('a comparison', () => {
  const verdictOf = (before: Row, after: Row) =>
    compare([before], [after]).changes.find(({ figure }) => figure === 'IOPS')?.verdict;

  test('calls noise what lies within the rounds of both', () => {
    assert.equal(verdictOf(rounds('a', 100, 110, 120), rounds('a', 115, 125, 140)), 'noise');
  });

  test('says what is better and what is worse beyond it', () => {
    assert.equal(verdictOf(rounds('a', 100, 110, 120), rounds('a', 125, 126, 140)), 'better');
    assert.equal(verdictOf(rounds('a', 100, 110, 120), rounds('a', 80, 85, 90)), 'worse');
  });

  test('a longer latency is worse', () => {
    const row = (p50: number) => rowOf([p50, p50 + 0.1, p50 + 0.2].map((p50_us) => measured({ p50_us })));
    const { changes } = compare([row(5)], [row(8)]);
    assert.equal(changes.find(({ figure }) => figure === 'p50 us')?.verdict, 'worse');
  });

  test('the change of what is not ours is the drift of the machine', () => {
    const [before, after] = [
      [rounds('outrigger-ram', 100), rounds('tcp-echo', 100), rounds('qemu-nbd', 100), rounds('local-file', 100)],
      [rounds('outrigger-ram', 500), rounds('tcp-echo', 80), rounds('qemu-nbd', 90), rounds('local-file', 100)],
    ];
    assert.equal(Math.round(compare(before, after).drift ?? 0), -10);
  });

  test('rows that only one has are counted, not compared', () => {
    const { changes, onlyBefore, onlyAfter } = compare([rounds('a', 1)], [rounds('b', 1), rounds('c', 1)]);
    assert.deepEqual([changes.length, onlyBefore.length, onlyAfter.length], [0, 1, 2]);
  });

  test('prints the rows that changed, and that few rounds tell little', () => {
    const result = (rows: Row[]) =>
      makeResult({
        ...{ started: '2026-01-01T00:00:00Z', command: 'x', seconds: 1, cpus: {}, rows },
        machine: { cpu: '', cpus: 2, memory_gib: 1, kernel: '', system: '', versions: { outrigger: '0.1.0 abc' } },
      });
    const text = formatComparison(result([rounds('a', 100)]), result([rounds('a', 200)]), 'old.json');
    assert.match(text, /old\.json of 2026-01-01/);
    assert.match(text, /^a +4 KiB randread, depth 1 +IOPS +100\.00 +200\.00 +\+100\.0 % +better$/m);
    assert.match(text, /Use --repeat/);
  });
});

describe('an aim', () => {
  const ours = (p50_us: number) => benchRow({ system: 'outrigger-vm', integrity: 'crc', mtu: 9000, p50_us });

  test('is met by a time within its factor of the peer in the same run', () => {
    const local = benchRow({ system: 'qsd-vm-memory', mtu: 0, p50_us: 10 });
    assert.deepEqual(
      judge([ours(12.9), local]).map(({ met }) => met),
      [true],
    );
    assert.deepEqual(
      judge([ours(13.1), local]).map(({ met }) => met),
      [false],
    );
  });

  test('is left out where nothing was measured to compare with', () => {
    assert.deepEqual(judge([ours(10)]), []);
    assert.deepEqual(judge([ours(10), benchRow({ system: 'qsd-vm-memory', mtu: 0, qd: 32 })]), []);
  });

  test('holds for the link with the same MTU', () => {
    const ram = benchRow({ system: 'outrigger-ram', integrity: 'crc', mtu: 9000, p50_us: 5 });
    const far = benchRow({ system: 'tcp-echo', mtu: 1500, p50_us: 100 });
    assert.deepEqual(judge([ram, far]), []);
    assert.equal(judge([ram, { ...far, mtu: 9000 }])[0]?.ratio, 0.05);
  });
});
