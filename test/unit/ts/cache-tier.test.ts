// What a compressed tier of the cache would gain and cost: the reckoning, on given hit ratios.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatTier, type Packing, tierFactor, tierGains } from '../../../bench/lib/cache-tier.js';

const packing: Packing = { blocks: 100, ratio: 3, pack_ns: 10_000, unpack_ns: 2000 };
const row = (policy: string, part: number, hit_ratio: number) => ({ workload: 'zipf', policy, part, hit_ratio });

test('half of the memory holds so many times as much', () => {
  assert.equal(tierFactor(packing), 2);
});

test('misses are packed, gained hits unpacked, and storage that is faster than that makes it a loss', () => {
  const gains = tierGains(
    packing,
    [row('s3fifo', 0.25, 0.5), row('lru', 0.25, 0.4), row('s3fifo', 0.5, 0.8)],
    [row('s3fifo', 0.25, 0.6), row('lru', 0.25, 0.5), row('s3fifo', 0.5, 0.8)],
  );
  assert.equal(gains.length, 2, 'of the default policy');
  const [better, same] = gains;
  assert.ok(Math.abs((better?.ns_per_read ?? 0) - (0.4 * 10_000 + 0.1 * 2000)) < 1e-6);
  assert.ok(Math.abs((better?.break_even_us ?? 0) - 42) < 1e-6);
  assert.equal(same?.break_even_us, null);
  assert.match(formatTier(packing, gains), /zipf +25\.0 % +50\.0 % +60\.0 % +4\.2 +42\n.*never/);
});
