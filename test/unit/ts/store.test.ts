import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import { OutriggerError } from '../../../src/errors.js';
import { CACHE_DEFAULT } from '../../../src/supervisor/cache.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { Layer, Nic, Volume } from '../../../src/supervisor/model.js';
import { SCHEMA_VERSION, Store } from '../../../src/supervisor/store.js';
import { VERSION_1 } from '../../../src/supervisor/store-schema.js';
import { assertPrefix } from './store-prefix.js';
import { type Scratch, scratch } from './support.js';

const WRITER = fileURLToPath(new URL('store-writer.js', import.meta.url));

function withScratch(body: (dir: Scratch) => void | Promise<void>): () => Promise<void> {
  return async () => {
    const dir = scratch();
    try {
      await body(dir);
    } finally {
      dir.remove();
    }
  };
}

const disk: Volume = {
  ...{ name: 'd1', kind: 'file', path: '/v/d1', size: 4096, blockSize: 512 },
  ...{ readOnly: false, adopted: false, phase: 'creating', geometry: null, fault: null, ioTimeoutMs: 0 },
  limit: NO_LIMIT,
  cache: CACHE_DEFAULT,
  worker: null,
  layers: [{ content: '00000000000000d1', path: '/v/d1', size: 4096, raw: true, adopted: false }],
  base: null,
};
const use = { vm: 'web', disk: 'd1', host: 'h1', volume: 'd1', readOnly: false, queues: 2, weight: 100 };

const refused = (code: string) => (error: unknown) => error instanceof OutriggerError && error.code === code;

/** Runs the writer until it has acknowledged `rounds`, then kills it. Returns the last acknowledged round. */
async function killAfter(stateDir: string, rounds: number, limit: string): Promise<number> {
  const child: ChildProcess = spawn(process.execPath, [WRITER, stateDir, limit], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let acknowledged = 0;
  child.stdout?.on('data', (chunk: Buffer) => {
    acknowledged = Number(chunk.toString().trim().split('\n').at(-1));
    if (acknowledged >= rounds) {
      child.kill('SIGKILL');
    }
  });
  await once(child, 'close');
  return acknowledged;
}

test(
  'what was written is read back after the store was closed',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume(disk);
    store.setReady('d1');
    const geometry = {
      size: 4096,
      blockSize: 512,
      physicalBlockSize: 512,
      direct: true,
      discard: false,
      writeZeroes: true,
    };
    store.setGeometry('d1', geometry);
    store.attach([use]);
    store.putReport('h1', '{}');
    store.close();
    store = new Store(dir.dir);
    const { volumes, attachments, revision } = store.desired();
    assert.deepEqual(volumes, [{ ...disk, phase: 'ready', geometry }]);
    assert.deepEqual(attachments, [{ id: 1, generation: 1, ...use }]);
    assert.equal(revision, 4);
    assert.equal(store.reports().get('h1'), '{}');
    store.close();
  }),
);

test(
  'the weight of a disk is kept, and goes with its attachment',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume(disk);
    store.attach([{ ...use, weight: 300 }]);
    const weights = () => store.desired().attachments.map(({ weight }) => weight);
    assert.deepEqual(weights(), [300]);
    store.setWeight(1, 1000);
    store.close();
    store = new Store(dir.dir);
    assert.deepEqual(weights(), [1000]);
    store.setWeight(1, 100);
    assert.deepEqual(weights(), [100]);
    store.setWeight(1, 5);
    store.detach([1]);
    store.attach([use]);
    assert.deepEqual(weights(), [100]);
    store.close();
  }),
);

test(
  'ids and generations are never used again',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume(disk);
    for (let n = 1; n <= 3; n++) {
      store.attach([use]);
      const [attachment] = store.desired().attachments;
      assert.equal(attachment?.id, n);
      assert.equal(attachment?.generation, n);
      store.detach([n]);
      store.close();
      store = new Store(dir.dir);
    }
    store.close();
  }),
);

test(
  'of several disks all are attached or none',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    store.addVolume(disk);
    assert.throws(() => store.attach([use, { ...use, disk: 'd2', volume: 'none' }]));
    assert.deepEqual(store.desired().attachments, []);
    store.close();
  }),
);

test(
  'a second supervisor on the same state directory is refused',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    assert.throws(() => new Store(dir.dir), refused('state_locked'));
    store.close();
    new Store(dir.dir).close();
  }),
);

test(
  'a state of a newer version is refused and left alone',
  withScratch((dir) => {
    new Store(dir.dir).close();
    const db = new Database(`${dir.dir}/state.db`);
    db.pragma(`user_version = ${SCHEMA_VERSION + 1}`);
    db.close();
    assert.throws(() => new Store(dir.dir), refused('state_version'));
  }),
);

test(
  'a state that is no database is refused',
  withScratch((dir) => {
    dir.file('state.db', 'this is not a database, but long enough to be mistaken for one'.repeat(20));
    assert.throws(() => new Store(dir.dir), refused('state_unreadable'));
  }),
);

test(
  'kill -9 in the middle of writing loses nothing that was acknowledged',
  withScratch(async (dir) => {
    for (let rounds = 1; rounds <= 20; rounds++) {
      const stateDir = `${dir.dir}/${rounds}`;
      const acknowledged = await killAfter(stateDir, rounds, 'Infinity');
      const store = new Store(stateDir);
      assert.ok(assertPrefix(store) >= acknowledged);
      store.close();
    }
  }),
);

test(
  'a write-ahead log that was cut anywhere opens at a whole transaction',
  withScratch(async (dir) => {
    const source = `${dir.dir}/source`;
    const acknowledged = await killAfter(source, 30, '30');
    const wal = readFileSync(`${source}/state.db-wal`);
    const frame = 4096 + 24;
    assert.ok(wal.length > 50 * frame, 'the log holds all that was written');
    const counts: number[] = [];
    // Cuts at frame borders, within frame headers and within pages, over the whole log.
    for (let cut = 0, n = 0; cut <= wal.length; cut += Math.ceil(wal.length / 120) + (n % 3), n++) {
      const target = `${dir.dir}/cut-${cut}`;
      const store = openCopy(source, target, wal.subarray(0, cut));
      counts.push(assertPrefix(store));
      store.close();
    }
    assert.deepEqual(
      counts,
      [...counts].sort((a, b) => a - b),
      'a longer log never holds less',
    );
    const whole = openCopy(source, `${dir.dir}/whole`, wal);
    assert.equal(assertPrefix(whole), acknowledged);
    whole.close();
  }),
);

function openCopy(source: string, target: string, wal: Buffer): Store {
  const fresh = new Store(target); // makes the folder
  fresh.close();
  copyFileSync(`${source}/state.db`, `${target}/state.db`);
  writeFileSync(`${target}/state.db-wal`, wal);
  assert.ok(existsSync(`${target}/state.db`) && statSync(`${target}/state.db-wal`).size === wal.length);
  return new Store(target);
}

const nic: Nic = {
  ...{ name: 'nic1', kind: 'tap', interface: 'tap1', bridge: 'br0', parent: null, mode: null, hub: null },
  ...{ mac: '52:54:00:00:00:01', mtu: 9000, addresses: ['10.0.0.5'], spoofCheck: false, linkUp: false },
  ...{ rate: { tx: NO_LIMIT, rx: { ...NO_LIMIT, opsPerS: 7 } }, phase: 'ready' },
};

/** A store as version 1 of the schema left it. */
function oldStore(stateDir: string): void {
  const db = new Database(`${stateDir}/state.db`);
  db.exec(VERSION_1);
  db.exec(`
    INSERT INTO volumes VALUES ('d1', 'file', '/v/d1', 4096, 512, 0, 0, 'ready', NULL), ('d2', 'ram', NULL, 512, 512, 0, 0, 'ready', NULL);
    INSERT INTO attachments VALUES (3, 3, 'web', 'd1', 'h1', 'd1', 0, 2), (9, 9, 'web', 'd2', 'h1', 'd2', 1, 1);
    DELETE FROM attachments WHERE id = 9;
    UPDATE meta SET value = 9;
    INSERT INTO reports VALUES ('h1', '{}');
    PRAGMA user_version = 1;
  `);
  db.close();
}

test(
  'a store of version 1 is taken over with all that it has, and its ids are not used again',
  withScratch((dir) => {
    oldStore(dir.dir);
    let known: string | undefined;
    for (let opening = 0; opening < 2; opening++) {
      const store = new Store(dir.dir);
      const { volumes, attachments, nics, nicAttachments } = store.desired();
      assert.deepEqual(
        volumes.map(({ name, limit, layers }) => [name, limit, layers.map(({ path, raw }) => `${path} ${raw}`)]),
        [
          ['d1', NO_LIMIT, ['/v/d1 true']],
          ['d2', NO_LIMIT, []],
        ],
      );
      const content = volumes[0]?.layers[0]?.content ?? '';
      assert.match(content, /^[0-9a-f]{16}$/);
      known ??= content;
      assert.equal(content, known, 'and stays');
      assert.deepEqual(attachments[0], { id: 3, generation: 3, ...use });
      assert.equal(store.reports().get('h1'), '{}');
      if (opening === 0) {
        assert.deepEqual([nics, nicAttachments], [[], []]);
        store.putNic(nic);
        store.attach([], [{ vm: 'web', host: 'h1', nic: 'nic1', queues: 1, qmp: null }]);
      } else {
        assert.deepEqual([nicAttachments[0]?.id, nicAttachments[0]?.generation], [10, 10]);
        assert.throws(() => store.removeVolume('d1'), /FOREIGN KEY/);
      }
      store.close();
    }
    const db = new Database(`${dir.dir}/state.db`);
    assert.equal(db.pragma('user_version', { simple: true }), SCHEMA_VERSION);
    db.close();
  }),
);

const overlay = (content: string, path = `/v/${content}`): Layer => ({
  ...{ content, path, size: 4096 },
  ...{ raw: false, adopted: false },
});
const contents = (layers: readonly Layer[]) => layers.map(({ content }) => content).join();
const D1 = '00000000000000d1';

test(
  'layers, snapshots and clones are read back as they were written',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume({ ...disk, phase: 'ready' });
    store.layers.begin(overlay('h1'));
    store.layers.cut('d1', 'h1', 8192, { name: 's1', createdAt: 7 });
    store.layers.begin(overlay('c1'));
    const [below] = store.desired().snapshots[0]?.layers ?? [];
    const layers = [overlay('c1'), ...(below ? [below] : [])];
    store.addVolume({ ...disk, name: 'c1', path: null, layers, base: { volume: 'd1', snapshot: 's1' } });
    store.close();
    store = new Store(dir.dir);
    const { volumes, snapshots, dying } = store.desired();
    assert.deepEqual(
      volumes.map((volume) => [volume.name, contents(volume.layers), volume.base, volume.path]),
      [
        ['c1', `c1,${D1}`, { volume: 'd1', snapshot: 's1' }, null],
        ['d1', `h1,${D1}`, null, '/v/d1'],
      ],
    );
    const raw = { content: D1, path: '/v/d1', size: 8192, raw: true, adopted: false };
    assert.deepEqual(snapshots, [{ volume: 'd1', name: 's1', createdAt: 7, layers: [raw] }]);
    assert.deepEqual(dying, []);
    assert.throws(() => store.removeVolume('d1'), /FOREIGN KEY/, 'it is the base of c1');
    store.close();
  }),
);

test(
  'a cut that is taken back leaves the volume as it was, once and not twice',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    store.addVolume(disk);
    const state = () => {
      const { volumes, snapshots, dying } = store.desired();
      return [contents(volumes[0]?.layers ?? []), snapshots.map(({ name }) => name).join(), contents(dying)];
    };
    store.layers.begin(overlay('h1'));
    store.layers.cut('d1', 'h1', 4096, { name: 's1', createdAt: 7 });
    assert.deepEqual(state(), [`h1,${D1}`, 's1', '']);
    store.layers.undoCut('d1', 'h1');
    assert.deepEqual(state(), [D1, '', 'h1']);
    store.layers.undoCut('d1', 'h1');
    store.layers.forget('h1');
    assert.deepEqual(state(), [D1, '', '']);
    store.layers.begin(overlay('h2'));
    store.layers.cut('d1', 'h2', 4096);
    store.layers.undoCut('d1', 'h1');
    assert.deepEqual(state(), [`h2,${D1}`, '', ''], 'another one is left alone');
    store.close();
  }),
);

test(
  'what nobody names any more dies, layer by layer, and nothing else',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    store.addVolume({ ...disk, phase: 'ready' });
    for (const n of [1, 2, 3]) {
      store.layers.begin(overlay(`h${n}`));
      store.layers.cut('d1', `h${n}`, 4096, { name: `s${n}`, createdAt: n });
    }
    const state = () => {
      const { volumes, dying } = store.desired();
      return [contents(volumes[0]?.layers ?? []), contents(dying)];
    };
    store.layers.begin(overlay('r1'));
    store.layers.rollback('d1', 'r1', D1);
    assert.deepEqual(state(), [`r1,${D1}`, 'h3'], 'the rest has names');
    assert.equal(contents(store.layers.neededBy('d1')), `${D1},h1,h2,r1`);
    store.layers.removeSnapshot('d1', 's2');
    assert.deepEqual(state(), [`r1,${D1}`, 'h3'], 's3 stands on it');
    store.layers.removeSnapshot('d1', 's3');
    assert.deepEqual(state(), [`r1,${D1}`, 'h1,h2,h3']);
    store.layers.begin(overlay('r2'));
    store.layers.abandon('r2');
    store.layers.begin(overlay('r3'));
    store.layers.abandonAll();
    assert.equal(state()[1], 'h1,h2,h3,r2,r3');
    assert.deepEqual(contents(store.layers.neededBy('d1')), `${D1},r1`);
    store.removeVolume('d1', store.layers.neededBy('d1'));
    assert.deepEqual(store.desired().snapshots, []);
    for (const { content } of store.desired().dying) {
      store.layers.forget(content);
    }
    assert.deepEqual(store.desired().dying, []);
    store.addVolume(disk);
    store.close();
  }),
);

test(
  'a layer without a name that one sealed layer stands on is merged with that, which then has its file',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume({ ...disk, phase: 'ready' });
    for (const n of [1, 2, 3]) {
      store.layers.begin(overlay(`h${n}`));
      store.layers.cut('d1', `h${n}`, 4096, { name: `s${n}`, createdAt: n });
    }
    const merges = () =>
      store.desired().merges.map(({ upper, lower, next }) => `${upper.content} into ${lower.content} from ${next}`);
    assert.deepEqual(merges(), [], 'all have names');
    store.layers.removeSnapshot('d1', 's3');
    assert.deepEqual(merges(), [], 'a head is written to');
    assert.ok(store.layers.isSeparable('d1'));
    store.layers.removeSnapshot('d1', 's1');
    store.layers.removeSnapshot('d1', 's2');
    assert.deepEqual(merges(), [`h1 into ${D1} from 0`, 'h2 into h1 from 0'], 'from the bottom');
    const merge = (index: number) => store.desired().merges[index] ?? assert.fail('there is no such pair');
    const [later, now] = [merge(0), merge(1)];
    store.layers.noteMerge(now, 17);
    assert.deepEqual(merges()[1], 'h2 into h1 from 17');

    assert.ok(store.layers.merged(now));
    assert.ok(!store.layers.merged(now), 'it is done');
    assert.ok(!store.layers.merged(later), 'its upper layer is gone');
    store.close();
    store = new Store(dir.dir);
    const layers = () => store.desired().volumes[0]?.layers ?? [];
    assert.deepEqual(
      layers().map(({ content, path, header }) => [content, path, header]),
      [
        ['h3', '/v/h3', undefined],
        ['h2', '/v/h1', 'h1'],
        [D1, '/v/d1', undefined],
      ],
    );
    assert.deepEqual(
      store.desired().dying.map(({ content, path }) => [content, path]),
      [['h1', '/v/h2']],
    );
    assert.deepEqual(merges(), [`h2 into ${D1} from 0`]);
    assert.ok(store.layers.merged(merge(0)));
    assert.deepEqual(layers()[1], { content: 'h2', path: '/v/d1', size: 4096, raw: true, adopted: false });
    assert.deepEqual(
      store.desired().dying.map(({ content, path, raw }) => [content, path, raw]),
      [
        [D1, '/v/h1', false],
        ['h1', '/v/h2', false],
      ],
    );
    store.close();
  }),
);

test(
  'an adopted file stays as it was at the first cut',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    const [bottom] = disk.layers;
    store.addVolume({ ...disk, phase: 'ready', layers: bottom === undefined ? [] : [{ ...bottom, adopted: true }] });
    for (const n of [1, 2, 3]) {
      store.layers.begin(overlay(`h${n}`));
      store.layers.cut('d1', `h${n}`, 4096);
    }
    assert.deepEqual(
      store.desired().merges.map(({ upper, lower }) => [upper.content, lower.content]),
      [['h2', 'h1']],
    );
    store.close();
  }),
);

test(
  'layers that something else needs, or of another size, are not merged, also when they could have been before',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    store.addVolume({ ...disk, phase: 'ready' });
    for (const n of [1, 2, 3]) {
      store.layers.begin(overlay(`h${n}`));
      store.layers.cut('d1', `h${n}`, 4096, { name: `s${n}`, createdAt: n });
    }
    const [, , , bottom] = store.desired().volumes[0]?.layers ?? [];
    store.layers.begin(overlay('c1'));
    const layers = [overlay('c1'), ...(bottom ? [bottom] : [])];
    store.addVolume({ ...disk, name: 'c1', path: null, layers, base: { volume: 'd1', snapshot: null } });
    store.layers.removeSnapshot('d1', 's1');
    assert.deepEqual(store.desired().merges, [], 'a clone stands on it');
    store.layers.removeSnapshot('d1', 's2');
    const [merge] = store.desired().merges;
    assert.ok(merge !== undefined);
    const under = [merge.lower, ...(bottom ? [bottom] : [])];
    store.addVolume({
      ...disk,
      name: 'c2',
      path: null,
      layers: [overlay('c2'), ...under],
      base: { volume: 'd1', snapshot: null },
    });
    assert.ok(!store.layers.merged(merge), 'a clone stands on it now');
    store.close();
  }),
);

test(
  'what the engine says of a merge into a file that the layer does not have any more is forgotten',
  withScratch((dir) => {
    const store = new Store(dir.dir);
    store.addVolume({ ...disk, phase: 'ready' });
    for (const n of [1, 2, 3]) {
      store.layers.begin(overlay(`h${n}`));
      store.layers.cut('d1', `h${n}`, 4096);
    }
    const [lower, upper] = store.desired().merges;
    assert.ok(lower !== undefined && upper !== undefined);
    assert.deepEqual([upper.lower.content, upper.lower.path], ['h1', '/v/h1']);
    assert.ok(store.layers.merged(lower));
    store.layers.noteMerge(upper, 17);
    assert.deepEqual(
      store.desired().merges.map(({ upper: { content }, lower: { path }, next }) => [content, path, next]),
      [['h2', '/v/d1', 0]],
    );
    assert.ok(!store.layers.merged(upper));
    store.close();
  }),
);

test(
  'NICs are read back as they were written, and disks and NICs count their ids together',
  withScratch((dir) => {
    let store = new Store(dir.dir);
    store.addVolume(disk);
    store.putNic({ ...nic, mtu: 1500 });
    store.putNic(nic);
    const nicUse = { vm: 'web', host: 'h1', nic: 'nic1', queues: 2, qmp: '/q' };
    store.attach([use], [nicUse]);
    store.setVolumeLimit('d1', { ...NO_LIMIT, bytesPerS: 5 });
    store.setFault('d1', 'EIO');
    assert.throws(() => store.attach([], [nicUse]), /UNIQUE/);
    store.close();
    store = new Store(dir.dir);
    const { nics, attachments, nicAttachments, volumes } = store.desired();
    assert.deepEqual(nics, [nic]);
    assert.deepEqual([attachments[0]?.id, nicAttachments], [1, [{ id: 2, generation: 2, ...nicUse }]]);
    assert.equal(volumes[0]?.limit.bytesPerS, 5);
    assert.throws(() => store.removeNic('nic1'), /FOREIGN KEY/);
    store.detach([1]);
    assert.equal(store.desired().volumes[0]?.fault, null, 'also while NICs are attached');
    store.startDeleteNic('nic1');
    assert.equal(store.desired().nics[0]?.phase, 'deleting');
    store.close();
  }),
);
