// Merges of layers as the supervisor drives them: the real store, planner, reconciler and executor. The engine's files
// are maps of clusters, and the test says when it answers.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { CACHE_DEFAULT } from '../../../src/supervisor/cache.js';
import { executeIohv } from '../../../src/supervisor/iohv-executor.js';
import { emptyActual, type IohvStep, isInBackground, planIohv } from '../../../src/supervisor/iohv-planner.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { Layer } from '../../../src/supervisor/model.js';
import { NetSetup } from '../../../src/supervisor/net-setup.js';
import type { CommandName, EngineCommands } from '../../../src/supervisor/protocol.js';
import { Reconciler } from '../../../src/supervisor/reconciler.js';
import { Store } from '../../../src/supervisor/store.js';
import { type Scratch, scratch, silent, until } from './support.js';

type MergeArgs = EngineCommands['layer.merge']['args'];

const CLUSTERS = 8;
/** Of a part of a merge. */
const PART = 2;
const SIZE = CLUSTERS * 4096;

let dir: Scratch;
let store: Store;
let reconciler: Reconciler<IohvStep>;
/** What each file has, by cluster. */
let files: Map<string, Map<number, string>>;
/** Parts of merges that are under way; each waits for its call. */
let parts: { from: string; into: string; end(): void }[];
/** The file into which nothing can be merged. */
let broken: string | undefined;

const layer = (name: string, raw = false): Layer => ({
  ...{ content: name.repeat(16), path: `${dir.dir}/${name}`, size: SIZE, raw, adopted: false },
});
const fill = (from: number, to: number, data: string) =>
  new Map(Array.from({ length: to - from }, (_, n) => [from + n, data]));

/** A part of a merge is written when it ends: so late, and not a moment before it is answered. */
function mergePart({ from, into, next }: MergeArgs): Promise<EngineCommands['layer.merge']['result']> {
  const [upper, lower] = [files.get(from.path) ?? new Map(), files.get(into.path)];
  return new Promise((resolve, reject) => {
    const end = () => {
      const clusters = [...upper.keys()].filter((cluster) => cluster >= next).sort((a, b) => a - b);
      for (const cluster of clusters.slice(0, PART)) {
        lower?.set(cluster, upper.get(cluster));
      }
      const rest = clusters[PART];
      if (into.path === broken) {
        reject(new Error('Input/output error'));
      } else {
        resolve({ next: rest ?? CLUSTERS, copied: 0, complete: rest === undefined });
      }
    };
    parts.push({ from: from.content, into: into.content, end });
  });
}

const request = <C extends CommandName>(cmd: C, args: EngineCommands[C]['args']) =>
  (cmd === 'layer.merge' ? mergePart(args as MergeArgs) : Promise.resolve({})) as Promise<EngineCommands[C]['result']>;

/** A volume with three snapshots: much was written before the last one, little before the one in the middle. */
beforeEach(() => {
  dir = scratch();
  store = new Store(`${dir.dir}/state`);
  const [bottom, s2, s3, head] = [layer('1', true), layer('2'), layer('3'), layer('4')];
  files = new Map([
    [bottom.path, fill(0, CLUSTERS, 'first')],
    [s2.path, fill(7, 8, 'second')],
    [s3.path, fill(0, 4, 'third')],
  ]);
  parts = [];
  broken = undefined;
  store.addVolume({
    ...{ name: 'd1', kind: 'file', path: bottom.path, size: SIZE, blockSize: 512, readOnly: false, adopted: false },
    ...{ phase: 'ready', geometry: null, fault: null, ioTimeoutMs: 0, limit: NO_LIMIT, cache: CACHE_DEFAULT },
    ...{ worker: null, base: null, layers: [bottom] },
  });
  [s2, s3, head].forEach((above, index) => {
    store.layers.begin(above);
    store.layers.cut('d1', above.content, SIZE, { name: `s${index + 1}`, createdAt: index });
  });
  const actual = emptyActual();
  actual.volumes.set('d1', {
    ...{ name: 'd1', kind: 'file', path: head.path, content: head.content, layers: [head, s3, s2, bottom] },
    ...{ readOnly: false, flushFailed: false, errors: 0, lastError: null, size: SIZE, blockSize: 512 },
    ...{ physicalBlockSize: 4096, direct: true, discard: true, writeZeroes: true },
  });
  reconciler = new Reconciler({
    plan: (failed) => planIohv(store.desired(), [], actual, failed),
    execute: (step) => executeIohv(step, { request }, store, actual, new NetSetup(), silent, () => ''),
    isInBackground,
    onFailure() {},
  });
});

afterEach(() => {
  reconciler.stop();
  store.close();
  dir.remove();
});

function remove(snapshot: string): void {
  store.layers.removeSnapshot('d1', snapshot);
  reconciler.trigger();
}

/** What a snapshot holds, by cluster. */
function contentOf(name: string): (string | undefined)[] {
  const { layers = [] } = store.desired().snapshots.find((snapshot) => snapshot.name === name) ?? {};
  return Array.from({ length: CLUSTERS }, (_, cluster) =>
    layers.map(({ path }) => files.get(path)?.get(cluster)).find((data) => data !== undefined),
  );
}

/** Ends one part after the other, while other things change, too, until so many pairs are left. */
async function endParts(rest: number): Promise<void> {
  await until('the layers are merged', async () => {
    reconciler.trigger();
    await turn();
    assert.ok(parts.length <= 1, parts.map(({ from, into }) => `${from} into ${into}`).join(' beside '));
    parts.pop()?.end();
    return store.desired().merges.length === rest;
  });
}

test('a pair that could be merged from now on waits for the part that is under way', async () => {
  const before = contentOf('s3');
  remove('s2');
  await until('a part is under way', () => parts.length > 0);
  remove('s1');
  await endParts(0);
  assert.equal(store.desired().volumes[0]?.layers.length, 2);
  assert.deepEqual(contentOf('s3'), before);
});

test('a pair that cannot be merged holds up no others, and is not tried beside them', async () => {
  const before = contentOf('s3');
  broken = layer('1').path;
  remove('s1');
  await until('a part is under way', () => parts.length > 0);
  remove('s2');
  await endParts(1);
  assert.equal(store.desired().volumes[0]?.layers.length, 3, 'the upper two are one');
  assert.deepEqual(contentOf('s3'), before);
});
