// What the supervisor reads of overlays, against files that are made here byte by byte.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { afterEach, beforeEach, test } from 'node:test';
import { OutriggerError } from '../../../src/errors.js';
import { LayerReader } from '../../../src/supervisor/layer-reader.js';
import type { Layer } from '../../../src/supervisor/model.js';
import { CLUSTER, writeAt, writeOverlay } from './overlay-file.js';
import { type Scratch, scratch } from './support.js';

let dir: Scratch;
beforeEach(() => {
  dir = scratch();
});
afterEach(() => {
  dir.remove();
});

let made = 0;

async function overlay(size: number, clusters: Map<number, Buffer | null>): Promise<Layer> {
  const content = (++made).toString(16).padStart(16, '0');
  const path = `${dir.dir}/${content}.layer`;
  await writeOverlay({ path, content, size }, clusters);
  return { content, path, size, raw: false, adopted: false };
}

async function contentOf(layers: Layer[], chunk = 64 * CLUSTER): Promise<Buffer> {
  const [head] = layers;
  const reader = await LayerReader.open(layers);
  const all = Buffer.alloc(head?.size ?? 0, 0xee);
  try {
    for (let at = 0; at < all.length; at += chunk) {
      await reader.read(all.subarray(at, Math.min(at + chunk, all.length)), at);
    }
    return all;
  } finally {
    await reader.close();
  }
}

test('what a layer does not hold is that of the one below; beyond the end of that there are zeroes', async () => {
  const below = randomBytes(5 * CLUSTER + 512);
  const path = dir.file('base.raw', '');
  const file = await open(path, 'w');
  await writeAt(file, below, 0);
  await file.close();
  const raw: Layer = { content: 'f'.repeat(16), path, size: below.length, raw: true, adopted: true };
  const [a, b] = [randomBytes(CLUSTER), randomBytes(CLUSTER)];
  const middle = await overlay(
    below.length,
    new Map([
      [1, a],
      [2, null],
      [4, b],
    ]),
  );
  const size = 9 * CLUSTER + 1536;
  const head = await overlay(
    size,
    new Map([
      [4, null],
      [9, b],
    ]),
  );
  const expected = Buffer.alloc(size);
  below.copy(expected);
  a.copy(expected, CLUSTER);
  expected.fill(0, 2 * CLUSTER, 3 * CLUSTER);
  expected.fill(0, 4 * CLUSTER, 5 * CLUSTER);
  b.copy(expected, 9 * CLUSTER);
  for (const chunk of [CLUSTER, 3 * CLUSTER, 64 * CLUSTER]) {
    assert.ok((await contentOf([head, middle, raw], chunk)).equals(expected), String(chunk));
  }
});

test('chains at random read as a model of them', async () => {
  for (let round = 0; round < 20; round++) {
    const clusters = 1 + Math.floor(Math.random() * 300);
    let model = Buffer.alloc(0);
    const layers: Layer[] = [];
    for (let depth = 0; depth < 5; depth++) {
      const size = Math.max(model.length, clusters * CLUSTER + depth * 512);
      const grown = Buffer.alloc(size);
      model.copy(grown);
      const changes = new Map<number, Buffer | null>();
      for (let n = 0; n < clusters / 3; n++) {
        const cluster = Math.floor((Math.random() * size) / CLUSTER);
        const bytes = Math.random() < 0.3 ? null : randomBytes(CLUSTER);
        changes.set(cluster, bytes);
      }
      for (const [cluster, bytes] of changes) {
        (bytes ?? Buffer.alloc(CLUSTER)).copy(grown, cluster * CLUSTER);
      }
      layers.unshift(await overlay(size, changes));
      model = grown;
    }
    const found = await contentOf(layers, 32 * CLUSTER);
    // Beyond the end of a volume whose last cluster is not whole there is nothing that anybody wrote.
    assert.ok(found.equals(model), `round ${round}`);
  }
});

test('a file that is no layer, or another one, is refused', async () => {
  const layer = await overlay(8 * CLUSTER, new Map());
  const refused = (layers: Layer[], detail: RegExp) =>
    assert.rejects(contentOf(layers), (error: unknown) => {
      assert.ok(error instanceof OutriggerError && error.code === 'storage_failed', String(error));
      assert.match(error.message, detail);
      return true;
    });
  await refused([{ ...layer, content: 'a'.repeat(16) }], /it is another layer, 0000/);
  await refused([{ ...layer, size: CLUSTER }], /it is another layer/);
  await refused([{ ...layer, path: dir.file('text', 'x'.repeat(8192)) }], /it is no layer of this version/);
  await refused([{ ...layer, path: dir.file('short', 'x') }], /ends at byte 1/);
  await refused([layer, { ...layer, path: '/nonexistent' }], /\/nonexistent cannot be opened/);
  const file = await open(layer.path, 'r+');
  await file.write(Buffer.from([0xc0]), 0, 1, CLUSTER + 1);
  await file.close();
  await refused([layer], /its map is wrong at cluster 7/);
});
