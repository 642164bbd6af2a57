// The block cache as an operator meets it: REST interface, desired state and what the engine is told, with the
// engine's double; and how the command line reads and shows it.
import assert from 'node:assert/strict';
import { totalmem } from 'node:os';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type { CacheView, GivenUpView } from '../../../src/api/cache-schemas.js';
import type { Problem, VolumeView } from '../../../src/api/schemas.js';
import { formatVolumeCache, parseVolumeCache } from '../../../src/cli/cache-options.js';
import { ApiClient } from '../../../src/cli/client.js';
import { renderCache } from '../../../src/cli/render-cache.js';
import { formatSize, sizeOf } from '../../../src/config/size.js';
import { OutriggerError } from '../../../src/errors.js';
import { CACHE_DEFAULT, cacheText } from '../../../src/supervisor/cache.js';
import type { CacheSettings } from '../../../src/supervisor/protocol.js';
import { Store } from '../../../src/supervisor/store.js';
import { beginIohv, type Life } from './iohv-life.js';
import { activeSocket, askEngine, commandsOf, emit, type Scratch, scratch, tellEngine, until } from './support.js';

const MIB = 1 << 20;
const DEFAULTS = {
  ...{ mode: 'write-through', quota_bytes: 0, dirty_bytes: 0, dirty_age_ms: 0 },
  read_ahead_bytes: CACHE_DEFAULT.readAheadBytes,
};

let dir: Scratch;
let life: Life;

const cache: CacheSettings = { bytes: 64 * MIB, policy: 's3fifo' };
const api = () => new ApiClient({ socket: `${dir.dir}/api.sock` });
const call = <T>(method: 'GET' | 'PUT' | 'PATCH' | 'POST' | 'DELETE', path: string, body?: unknown) =>
  api().call<T>(method, path, body);
const create = (name: string, body: object = {}) =>
  call<VolumeView>('PUT', `/v1/volumes/${name}`, { size: MIB, ...body });
const change = (name: string, settings: object) =>
  call<VolumeView>('PATCH', `/v1/volumes/${name}`, { cache: settings });
const show = () => call<CacheView>('GET', '/v1/cache');
const resize = (size_bytes: number | null) => call<CacheView>('PATCH', '/v1/cache', { size_bytes });
const told = async (command: string) =>
  ((await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: unknown }[])
    .filter(({ cmd }) => cmd === command)
    .map(({ args }) => args);

async function refused(answer: Promise<unknown>, code: Problem['code'], detail: RegExp, hint = /./): Promise<void> {
  const error = await answer.then(() => assert.fail('it was not refused')).catch((caught: unknown) => caught);
  assert.ok(error instanceof OutriggerError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, detail);
  assert.match(error.hint, hint);
}

async function begin(settings: { cache?: CacheSettings; workers?: number } = { cache }): Promise<void> {
  life = await beginIohv(dir, settings);
  await until('the engine runs', () => life.supervisor.engineStatus().state === 'running');
}

async function killEngine(): Promise<void> {
  const before = await activeSocket(dir.dir);
  await askEngine(before, 'stop');
  await until('another engine', async () => (await activeSocket(dir.dir).catch(() => before)) !== before);
}

describe('volumes on the block cache', () => {
  beforeEach(async () => {
    dir = scratch();
    await begin();
  });

  afterEach(async () => {
    await life.end();
    dir.remove();
  });

  test('a volume with a file is on it in write-through, others are not', async () => {
    assert.deepEqual((await create('d1')).cache, DEFAULTS);
    assert.equal((await create('r1', { kind: 'ram' })).cache, null);
    const opened = (await told('volume.open')) as { name: string; cache?: unknown }[];
    assert.deepEqual(
      opened.map(({ name, cache: settings }) => [name, settings]),
      [
        ['d1', CACHE_DEFAULT],
        ['r1', undefined],
      ],
    );
    await refused(create('r2', { kind: 'ram', cache: { mode: 'none' } }), 'volume_uncached', /r2 is a ram volume/);
    await refused(change('r1', { mode: 'none' }), 'volume_uncached', /r1 is a ram volume/);
  });

  test('a volume is made with the mode that is asked for', async () => {
    const settings = { mode: 'write-back', quota_bytes: 8 * MIB };
    assert.deepEqual((await create('d1', { cache: settings })).cache, { ...DEFAULTS, ...settings });
    assert.deepEqual((await create('d1')).cache, { ...DEFAULTS, ...settings }, 'the same once more');
    await refused(create('d1', { cache: { mode: 'none' } }), 'volume_exists', /cache is write-back, .*, not none/);
    await refused(create('d2', { cache: { mode: 'back' } }), 'invalid_request', /one of none, write-through, write-b/);
  });

  test('a change reaches the engine at once, and only what changes', async () => {
    await create('d1');
    const { cache: changed } = await change('d1', { mode: 'write-back', dirty_age_ms: 500 });
    assert.deepEqual(changed, { ...DEFAULTS, mode: 'write-back', dirty_age_ms: 500 });
    await change('d1', { mode: 'write-back' });
    assert.deepEqual(await told('volume.cache'), [
      { name: 'd1', ...CACHE_DEFAULT, mode: 'write-back', dirtyAgeMs: 500 },
    ]);
  });

  test('a change survives the supervisor, which does not tell it again', async () => {
    await create('d1');
    await change('d1', { mode: 'write-back' });
    await life.supervisor.stop(true);
    await life.end();
    await begin();
    assert.equal((await call<VolumeView>('GET', '/v1/volumes/d1')).cache?.mode, 'write-back');
    assert.equal((await told('volume.cache')).length, 1);
  });

  test('a new engine opens volumes as they were set', async () => {
    await create('d1');
    await change('d1', { mode: 'none' });
    await killEngine();
    await until('d1 is open', () => life.supervisor.isVolumeOpen('d1'));
    assert.deepEqual(
      (await told('volume.open')).map((args) => (args as { cache: unknown }).cache),
      [{ ...CACHE_DEFAULT, mode: 'none' }],
    );
    assert.deepEqual(await told('volume.cache'), []);
  });

  test('a volume whose use cannot be changed is served as before', async () => {
    await create('d1');
    dir.file('uncacheable', '');
    const { state, cache: wanted } = await change('d1', { mode: 'none' });
    assert.deepEqual([state, wanted?.mode], ['open', 'none']);
    assert.equal((await show()).volumes[0]?.mode, 'write-through', 'what the engine does');
  });

  test('the cache shows what it counted', async () => {
    await create('d1');
    await create('d2', { cache: { mode: 'write-back', quota_bytes: MIB } });
    const { counters, volumes, workers, ...rest } = await show();
    assert.deepEqual(rest, {
      ...{ size_bytes: 64 * MIB, configured_bytes: 64 * MIB, policy: 's3fifo', state: 'on' },
    });
    assert.deepEqual([counters.hits, counters.misses, counters.hit_ratio], [180, 20, 0.9]);
    assert.deepEqual([counters.shared_bytes, counters.dirty_bytes], [10 * 4096, 8 * 4096]);
    assert.deepEqual(
      volumes.map(({ volume, mode, quota_bytes }) => [volume, mode, quota_bytes]),
      [
        ['d1', 'write-through', 0],
        ['d2', 'write-back', MIB],
      ],
    );
    assert.equal(workers[0]?.used_bytes, 16 * 4096);
    const metrics = await text(await api().download('/metrics'));
    assert.match(metrics, /^outrigger_cache_size_bytes 67108864$/m);
    assert.match(metrics, /^outrigger_cache_used_bytes\{worker="0"\} 65536$/m);
    assert.match(metrics, /^outrigger_volume_cache_hits_total\{volume="d2"\} 90$/m);
  });

  test('the budget is changed live, and stays so for other engines and supervisors', async () => {
    assert.equal((await resize(128 * MIB)).size_bytes, 128 * MIB);
    await resize(128 * MIB);
    assert.deepEqual(await told('cache.set'), [{ bytes: 128 * MIB }]);
    await killEngine();
    await until('the new one is told', async () => (await told('cache.set')).length === 1);
    await life.end();
    await begin();
    assert.equal((await show()).size_bytes, 128 * MIB);
    await until('so is that of a new supervisor', async () => (await told('cache.set')).length === 1);
    const { size_bytes, configured_bytes } = await resize(null);
    assert.deepEqual([size_bytes, configured_bytes], [64 * MIB, 64 * MIB]);
    assert.deepEqual((await told('cache.set')).at(-1), { bytes: 64 * MIB });
  });

  test('a budget that makes no sense is refused', async () => {
    await refused(resize(4096), 'cache_size', /4K is too small/, /choose 1M to /);
    await refused(resize(totalmem() * 2), 'cache_size', /more than the memory of this machine/);
    await refused(call('PATCH', '/v1/cache', {}), 'invalid_request', /lacks the key size_bytes/);
    assert.deepEqual(await told('cache.set'), []);
  });

  test('what it holds is forgotten, of one volume or all', async () => {
    await create('d1');
    await create('d2');
    await create('r1', { kind: 'ram' });
    await call('POST', '/v1/volumes/d1/cache/drop');
    assert.deepEqual(await told('volume.cache'), [{ name: 'd1', drop: true }]);
    assert.deepEqual(
      (await show()).volumes.map(({ counters }) => counters.hits),
      [0, 90],
    );
    await call('POST', '/v1/cache/drop');
    assert.equal((await show()).counters.hits, 0);
    await refused(call('POST', '/v1/volumes/r1/cache/drop'), 'volume_uncached', /r1 is a ram volume/);
    await refused(call('POST', '/v1/volumes/d9/cache/drop'), 'volume_not_found', /no volume d9/);
    await create('bad1');
    await refused(call('POST', '/v1/volumes/bad1/cache/drop'), 'volume_uncached', /bad1 is not open/);
  });

  test('a volume that lost acknowledged writes says so until it is detached', async () => {
    await create('d1');
    await call('POST', '/v1/attachments', { vm: 'web', host: 'h1', disks: [{ volume: 'd1' }] });
    await emit(dir.dir, { event: 'volume.lost', data: { volume: 'd1', bytes: 8192 } });
    const failed = await until('d1 has failed', async () => {
      const volume = await call<VolumeView>('GET', '/v1/volumes/d1');
      return volume.state === 'failed' && volume;
    });
    assert.match(failed.reason, /the storage refused 8192 bytes .*: what was written may be lost/);
    const events = await call<{ kind: string; fields: object }[]>('GET', '/v1/events');
    assert.deepEqual(events.find(({ kind }) => kind === 'volume.lost')?.fields, { volume: 'd1', bytes: 8192 });
  });
});

describe('what the caches of killed engines held', () => {
  beforeEach(() => {
    dir = scratch();
  });

  afterEach(async () => {
    await life.end();
    dir.remove();
  });

  test('is asked for before any volume is opened', async () => {
    dir.file('unkept', '');
    await begin();
    const { state, reason } = await create('d1');
    assert.equal(state, 'failed');
    assert.match(reason, /ask for what the one before it had not written out \(.*no such socket\); a restart .* gives/);
    await refused(call('POST', '/v1/cache/give-up'), 'engine_refused', /no such socket/);
    assert.deepEqual(await told('volume.open'), []);
    dir.removeFile('unkept');
    await until('d1 is open', () => life.supervisor.isVolumeOpen('d1'));
  });

  test('is told to be lost when the I/O hypervisor stops before volumes took it up', async () => {
    dir.file('unread', '');
    await begin();
    await create('d1');
    await create('r1', { kind: 'ram' });
    await life.end();
    const abandoned = life.events.since().filter(({ kind }) => kind === 'cache.abandoned');
    assert.deepEqual(
      abandoned.map(({ fields }) => fields),
      [{ volumes: 'd1' }],
    );
    dir.removeFile('unread');
    await begin();
    await until('d1 is open', () => life.supervisor.isVolumeOpen('d1'));
    await life.end();
    assert.ok(!life.events.since().some(({ kind }) => kind === 'cache.abandoned'));
    await begin();
  });

  test('is given up with the volume', async () => {
    await begin();
    await create('d1');
    await create('d2');
    const contents = life.store.desired().volumes.map(({ layers }) => layers[0]?.content);
    await call('DELETE', '/v1/volumes/d1');
    await until('it is erased', async () => (await told('keep.forget')).length > 0);
    assert.deepEqual(await told('keep.forget'), [{ content: contents[0] }]);
  });

  test('is given up when an operator says so', async () => {
    dir.file('unread', '');
    await begin({}); // with a cache or without one
    assert.equal((await create('d1')).state, 'failed');
    const { bytes } = await call<GivenUpView>('POST', '/v1/cache/give-up');
    assert.equal(bytes, 8192);
    assert.equal((await call<VolumeView>('GET', '/v1/volumes/d1')).state, 'open');
    const events = await call<{ kind: string; fields: object }[]>('GET', '/v1/events');
    assert.deepEqual(events.find(({ kind }) => kind === 'cache.given-up')?.fields, { bytes: 8192 });
  });
});

describe('an I/O hypervisor without a block cache', () => {
  beforeEach(() => {
    dir = scratch();
  });

  afterEach(async () => {
    await life.end();
    dir.remove();
  });

  test('keeps how volumes would use it, and refuses the rest', async () => {
    await begin({});
    await create('d1', { cache: { mode: 'write-back' } });
    assert.deepEqual((await change('d1', { quota_bytes: MIB })).cache?.mode, 'write-back');
    assert.ok(!(await commandsOf(dir.dir)).some((command) => command.startsWith('cache')));
    assert.deepEqual(await told('volume.cache'), []);
    const { state, size_bytes, policy } = await show();
    assert.deepEqual([state, size_bytes, policy], ['off', 0, null]);
    await refused(resize(64 * MIB), 'cache_off', /`cache.size` is 0/);
    await refused(call('POST', '/v1/cache/drop'), 'cache_off', /no block cache/);
  });

  test('works with an engine of a build that knew none', async () => {
    dir.file('without-cache', '');
    await begin();
    assert.equal((await create('d1')).state, 'open');
    assert.equal((await show()).state, 'waiting');
  });
});

test('a store of before has volumes in the default mode, and the configured budget', () => {
  const old = scratch();
  const store = new Store(old.dir);
  assert.equal(store.desired().cacheBytes, null);
  store.setCacheBytes(5 * MIB);
  store.setCacheBytes(6 * MIB);
  assert.equal(store.desired().cacheBytes, 6 * MIB);
  store.setCacheBytes(null);
  assert.equal(store.desired().cacheBytes, null);
  store.close();
  old.remove();
});

test('sizes are read and shown in binary units', () => {
  assert.deepEqual(['4096', '1.5G', '512 MiB', '7k', '0', '1.0001K', 'x', '-1'].map(sizeOf), [
    4096,
    1.5 * 2 ** 30,
    2 ** 29,
    7168,
    0,
    undefined,
    undefined,
    undefined,
  ]);
  assert.deepEqual([0, 1024, 1536, 2 ** 40].map(formatSize), ['0', '1K', '1.5K', '1T']);
});

test('the options of a volume become what is to change', () => {
  assert.equal(parseVolumeCache({}), undefined);
  assert.deepEqual(parseVolumeCache({ cache: 'write-back', cacheQuota: '64M', readAhead: 'none' }), {
    ...{ mode: 'write-back', quota_bytes: 64 * MIB, read_ahead_bytes: 0 },
  });
  assert.deepEqual(parseVolumeCache({ cacheQuota: 'none', dirtyMax: 'default', dirtyAge: '500ms' }), {
    ...{ quota_bytes: 0, dirty_bytes: 0, dirty_age_ms: 500 },
  });
  assert.throws(() => parseVolumeCache({ cacheQuota: 'lots' }), /--cache-quota lots is not a size/);
  const settings = { ...CACHE_DEFAULT, mode: 'write-back', quotaBytes: MIB, dirtyAgeMs: 500 } as const;
  assert.equal(cacheText(settings), 'write-back, quota 1M, dirty for at most 500 ms');
  assert.equal(
    formatVolumeCache({ ...DEFAULTS, mode: 'none', dirty_bytes: MIB }),
    'none, at most 1M dirty, read-ahead 512K',
  );
});

test('the cache is shown to a human', () => {
  const counters = {
    ...{
      used_bytes: 32 * MIB,
      dirty_bytes: MIB,
      hits: 900,
      misses: 100,
      hit_ratio: 0.9,
      shared_bytes: 8 * MIB,
      fetched_bytes: MIB,
    },
    ...{ evictions: 4, bypassed: 0, read_ahead_bytes: 2 * MIB, read_ahead_used_bytes: MIB, read_ahead_wasted_bytes: 0 },
    ...{ written_out_bytes: 3 * MIB, write_errors: 2, throttled: 0 },
  };
  const worker = { bytes: 64 * MIB, target_bytes: 32 * MIB, used_bytes: 32 * MIB, metadata_bytes: MIB };
  const view: CacheView = {
    ...{ size_bytes: 32 * MIB, configured_bytes: 64 * MIB, policy: 's3fifo', state: 'on', counters },
    workers: [{ worker: 0, ...worker, huge_bytes: 0 }],
    volumes: [{ volume: 'd1', worker: 0, ...DEFAULTS, mode: 'write-back', counters }],
  };
  const shown = renderCache(view);
  assert.match(shown, /^size +32M \(the configuration says 64M\), s3fifo, still 64M: it shrinks as blocks come free$/m);
  assert.match(shown, /^hit ratio +90\.0 % of 1000 blocks$/m);
  assert.match(shown, /^dirty +1M, 3M written out, 2 write-outs failed$/m);
  assert.match(shown, /^read ahead +2M, 1M used, 0 evicted unused$/m);
  assert.match(shown, /^d1 +0 +write-back +32M +- +90\.0 % +900 +100 +8M +4 +1M$/m);
  assert.match(renderCache({ ...view, state: 'off' }), /no cache: `cache.size`/);
  assert.match(renderCache({ ...view, state: 'waiting' }), /when an engine runs/);
  const two = { ...view, workers: [...view.workers, { worker: 1, ...worker, huge_bytes: 30 * MIB }], volumes: [] };
  assert.match(renderCache(two), /^1 +64M +32M +1M +30M$/m);
  assert.match(renderCache(two), /^in use +64M of content, 2M to describe it, 30M in huge pages$/m);
  assert.match(renderCache(two), /no volume is on it/);
});
