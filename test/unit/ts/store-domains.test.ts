import assert from 'node:assert/strict';
import { test } from 'node:test';
import Database from 'better-sqlite3';
import { CACHE_DEFAULT } from '../../../src/supervisor/cache.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { Domain, Volume } from '../../../src/supervisor/model.js';
import { Store } from '../../../src/supervisor/store.js';
import type { NewDomain } from '../../../src/supervisor/store-domains.js';
import { type Scratch, scratch } from './support.js';

const ram = (name: string): Volume => ({
  ...{ name, kind: 'ram', path: null, size: 4096, blockSize: 512, readOnly: false, adopted: false },
  ...{ phase: 'ready', geometry: null, fault: null, ioTimeoutMs: 0, limit: NO_LIMIT, cache: CACHE_DEFAULT },
  ...{ worker: null, layers: [], base: null },
});

const use = (vm: string, volume: string, readOnly = false) => ({
  ...{ vm, disk: volume, host: 'h1', volume, readOnly, queues: 1, weight: 100 },
});

const fresh: NewDomain = {
  name: 'ft',
  bytes: 1 << 20,
  journal: { path: '/j/ft', bytes: 4 << 20, id: '00000000000000aa' },
  worker: 0,
  overflow: 'push-back',
  commitTimeoutMs: 0,
  createdAt: 5,
};

function withStore(body: (store: Store, dir: Scratch) => void): () => void {
  return () => {
    const dir = scratch();
    const store = new Store(dir.dir);
    for (const name of ['d1', 'd2', 'd3']) {
      store.addVolume(ram(name));
    }
    try {
      body(store, dir);
    } finally {
      store.close();
      dir.remove();
    }
  };
}

const only = (store: Store): Domain => {
  const [domain] = store.desired().domains;
  assert.ok(domain);
  return domain;
};
const volumesOf = (store: Store) => only(store).volumes.map(({ volume, leaving }) => `${volume}${leaving ? ' -' : ''}`);
const membersOf = (store: Store) =>
  only(store).members.map(({ vm, role, generation }) => `${vm} ${role} ${generation}`);

test(
  'a domain has the disks that its VMs write to, also those that come later',
  withStore((store) => {
    store.attach([use('web', 'd1'), use('web', 'd3', true)]);
    store.domains.add(fresh, [{ vm: 'web', role: 'active' }]);
    assert.deepEqual(volumesOf(store), ['d1']);
    store.attach([use('web', 'd2')]);
    assert.deepEqual(volumesOf(store), ['d1', 'd2']);
    const ids = only(store).volumes.map(({ id }) => id);
    assert.match(ids.join(), /^[0-9a-f]{16},[0-9a-f]{16}$/);
    assert.notEqual(ids[0], ids[1]);
  }),
);

test(
  'a disk that is detached stays until the engine has let it go, and comes back as it was',
  withStore((store) => {
    store.attach([use('web', 'd1')]);
    store.domains.add(fresh, [{ vm: 'web', role: 'active' }]);
    const before = only(store).volumes;
    store.detach([1]);
    assert.deepEqual(volumesOf(store), ['d1 -']);
    store.attach([use('web', 'd1')]);
    store.domains.released('d1'); // too late
    assert.deepEqual(only(store).volumes, before);
    store.detach([2]);
    store.domains.released('d1');
    assert.deepEqual(volumesOf(store), []);
  }),
);

test(
  'a takeover changes roles, generation and intent at once, and they outlive the process',
  withStore((store, dir) => {
    store.attach([use('web', 'd1'), use('copy', 'd1')]);
    store.domains.add(fresh, [
      { vm: 'web', role: 'active' },
      { vm: 'copy', role: 'standby' },
    ]);
    const { id } = only(store);
    assert.deepEqual(membersOf(store), ['copy standby 0', 'web active 1']);
    store.domains.takeOver(id, ['copy'], 'abort');
    store.close();
    const again = new Store(dir.dir);
    assert.deepEqual(membersOf(again), ['copy active 2', 'web fenced 1']);
    assert.deepEqual([only(again).generation, only(again).intent, only(again).resumeEpoch], [2, 'abort', null]);
    again.domains.settle(id, 1, 9); // of an older generation
    assert.equal(only(again).intent, 'abort');
    again.domains.settle(id, 2, 7);
    assert.deepEqual([only(again).intent, only(again).resumeEpoch], [null, 7]);
    again.close();
  }),
);

test(
  'a reset raises the generation of those that are active, and of nobody else',
  withStore((store) => {
    store.domains.add(fresh, [
      { vm: 'web', role: 'active' },
      { vm: 'copy', role: 'standby' },
    ]);
    const { id } = only(store);
    store.domains.takeOver(id, ['copy'], 'keep');
    store.domains.reset(id);
    assert.deepEqual(membersOf(store), ['copy active 3', 'web fenced 1']);
    assert.equal(only(store).intent, 'reset');
  }),
);

test(
  'the id of a domain is never used again, and its disks are free afterwards',
  withStore((store) => {
    store.attach([use('web', 'd1')]);
    store.domains.add(fresh, [{ vm: 'web', role: 'active' }]);
    store.domains.remove(only(store).id);
    assert.deepEqual(store.desired().domains, []);
    store.domains.add(fresh, [{ vm: 'web', role: 'active' }]);
    assert.equal(only(store).id, 2);
    assert.deepEqual(volumesOf(store), ['d1']);
  }),
);

test('a store of version 3 keeps its weights, and a NIC may then be attached to copies of a VM', () => {
  const dir = scratch();
  const store = new Store(dir.dir);
  store.addVolume(ram('d1'));
  store.attach([{ ...use('web', 'd1'), weight: 300 }]);
  store.close();
  const db = new Database(`${dir.dir}/state.db`);
  db.exec('DROP TABLE domain_volumes; DROP TABLE members; DROP TABLE domains; PRAGMA user_version = 3');
  db.close();
  const again = new Store(dir.dir);
  assert.deepEqual(
    again.desired().attachments.map(({ id, weight }) => [id, weight]),
    [[1, 300]],
  );
  again.detach([1]);
  again.attach([use('web', 'd1')]);
  assert.deepEqual(
    again.desired().attachments.map(({ id, weight }) => [id, weight]),
    [[2, 100]],
  );
  again.close();
  dir.remove();
});
