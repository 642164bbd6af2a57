import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Coalescer } from '../../../src/engine/coalescer.js';
import { LineSplitter } from '../../../src/engine/lines.js';
import { until } from './support.js';

describe('of frequent news', () => {
  let coalescer: Coalescer;
  before(() => {
    coalescer = new Coalescer(30);
  });
  after(() => coalescer.stop());

  test('the first comes through at once, then the last of each interval', async () => {
    const seen: string[] = [];
    for (let i = 0; i < 1000; i++) {
      coalescer.offer('h1', () => seen.push(`h1 ${i}`));
      coalescer.offer('h2', () => seen.push(`h2 ${i}`));
    }
    assert.deepEqual(seen, ['h1 0', 'h2 0']);
    await until('the last ones', () => seen.length === 4);
    assert.deepEqual(seen.slice(2).sort(), ['h1 999', 'h2 999']);
  });
});

test('a stream is split into lines, and one without end is noticed', () => {
  const lines = new LineSplitter(8);
  assert.deepEqual(lines.feed('a\nbc'), ['a']);
  assert.deepEqual(lines.feed('d\n\n'), ['bcd', '']);
  assert.equal(lines.feed('123456789'), undefined);
});
