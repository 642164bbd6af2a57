// What a store may hold after a crash of store-writer.ts: the work of some whole number of transactions.
import assert from 'node:assert/strict';
import type { Store } from '../../../src/supervisor/store.js';

/** Whether the store is what the writer had after some whole transaction; returns how many volumes it has. */
export function assertPrefix(store: Store): number {
  const { volumes, attachments, revision } = store.desired();
  const count = volumes.length;
  assert.deepEqual(volumes.map(({ name }) => name).sort(), Array.from({ length: count }, (_, i) => `v${i + 1}`).sort());
  const generations = attachments.map(({ generation }) => generation);
  assert.deepEqual(
    generations,
    [...new Set(generations)].sort((a, b) => a - b),
  );
  // Of each VM both disks are there or, once detached, one; only the last VM may have none yet.
  const missing = volumes.filter(({ name }) => !attachments.some(({ volume }) => volume === name));
  assert.ok(missing.length === 0 || (missing.length === 1 && missing[0]?.name === `v${count}`));
  assert.ok(revision >= count);
  return count;
}
