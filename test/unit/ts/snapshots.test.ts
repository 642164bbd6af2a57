// Snapshots and clones, through a real REST interface on a unix socket, with the engine's double.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import type { VolumeView } from '../../../src/api/schemas.js';
import type { SnapshotView } from '../../../src/api/snapshot-schemas.js';
import { ApiClient } from '../../../src/cli/client.js';
import { OutriggerError } from '../../../src/errors.js';
import { LAYERS_MAX } from '../../../src/supervisor/model.js';
import type { EngineCommands, VolumeRow } from '../../../src/supervisor/protocol.js';
import { beginIohv, type Life } from './iohv-life.js';
import { commandsOf, outrigger, type Scratch, scratch, tellEngine, until } from './support.js';

const MIB = 1 << 20;

let dir: Scratch;
let life: Life;
let api: ApiClient;

const cli = (...args: string[]) => outrigger(args, { OUTRIGGER_SOCKET: `${dir.dir}/api.sock` });
const running = () => until('the engine runs', () => life.supervisor.engineStatus().state === 'running');

beforeEach(async () => {
  dir = scratch();
  life = await beginIohv(dir);
  api = new ApiClient({ socket: `${dir.dir}/api.sock` });
  await running();
});

afterEach(async () => {
  await life.end();
  dir.remove();
});

const pathOf = (name: string) => `/v1/volumes/${name}`;
const volume = (name: string) => api.get<VolumeView>(pathOf(name));
const make = (name: string, body: object = { size: MIB }) => api.call<VolumeView>('PUT', pathOf(name), body);
const clone = (name: string, from: string, more: object = {}) => make(name, { from, ...more });
const snapshot = (of: string, name: string) => api.call<SnapshotView>('POST', `${pathOf(of)}/snapshots`, { name });
const snapshots = (of: string) => api.get<SnapshotView[]>(`${pathOf(of)}/snapshots`);
const rollback = (of: string, to: string) => api.call<VolumeView>('POST', `${pathOf(of)}/snapshots/${to}/rollback`);
const removeSnapshot = (of: string, name: string) => api.call('DELETE', `${pathOf(of)}/snapshots/${name}`);
const remove = (name: string) => api.call('DELETE', pathOf(name));
const attach = (vm: string, of: string) =>
  api.call('POST', '/v1/attachments', { vm, host: 'h1', disks: [{ volume: of }] });
const write = (name: string) => tellEngine(dir.dir, 'test.write', { name });
const files = () => readdirSync(`${dir.dir}/volumes`).map((name) => name.replace(/-[0-9a-f]{16}\./, '-ID.'));

const refusal =
  (code: string, detail: RegExp, hint = /./) =>
  (error: unknown) => {
    assert.ok(error instanceof OutriggerError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, detail);
    assert.match(error.hint, hint);
    return true;
  };

async function commands(cmd: keyof EngineCommands): Promise<number> {
  return (await commandsOf(dir.dir)).filter((other) => other === cmd).length;
}

const headOf = async (name: string) =>
  ((await tellEngine(dir.dir, 'volume.list')) as VolumeRow[]).find((row) => row.name === name)?.content;

test('a clone stands on what its base held: the base is cut first, and goes on in a file of its own', async () => {
  const raw = (await make('base')).path;
  await attach('web', 'base');
  const view = await clone('c1', 'base');
  assert.deepEqual([view.state, view.base, view.size, view.adopted], ['open', 'base', MIB, false]);
  const base = await volume('base');
  assert.deepEqual([base.layers.length, base.layers[1], base.clones], [2, raw, ['c1']]);
  assert.deepEqual(view.layers.slice(1), [raw]);
  assert.notEqual(view.path, base.path);
  assert.deepEqual(files().sort(), ['base-ID.layer', 'base.raw', 'c1-ID.layer']);
  assert.deepEqual((await commandsOf(dir.dir)).slice(-4), [
    'layer.create',
    'volume.cut',
    'layer.create',
    'volume.open',
  ]);
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: EngineCommands['volume.open']['args'] }[];
  const opened = log.filter(({ cmd }) => cmd === 'volume.open').at(-1)?.args;
  assert.deepEqual([opened?.name, opened?.path, opened?.layers?.[0]?.path], ['c1', view.path, view.path]);
  assert.deepEqual(
    opened?.layers?.map(({ raw: isRaw = false }) => isRaw),
    [false, true],
  );
  assert.equal(await commands('export.remove'), 0, 'the guest went on meanwhile');
});

test('the head that a cut makes continues the one before; that of a clone and of a rollback does not', async () => {
  await make('base');
  const before = await headOf('base');
  await clone('c1', 'base');
  await snapshot('base', 'first');
  await rollback('base', 'first');
  const log = (await tellEngine(dir.dir, 'test.log')) as {
    cmd: string;
    args: EngineCommands['layer.create']['args'];
  }[];
  const made = log.filter(({ cmd }) => cmd === 'layer.create').map(({ args }) => args);
  const [cut] = made;
  assert.deepEqual(
    made.map(({ continues }) => continues),
    [before, undefined, cut?.content, undefined],
  );
});

test('a base is cut again only when something was written since', async () => {
  await make('base');
  await clone('c1', 'base');
  const depth = async () => (await volume('base')).layers.length;
  await clone('c2', 'base');
  assert.equal(await depth(), 2);
  await write('base');
  await clone('c3', 'base');
  assert.equal(await depth(), 3);
  const [c2, c3] = [await volume('c2'), await volume('c3')];
  assert.deepEqual(c3.layers.slice(2), c2.layers.slice(1));
});

test('eight clones at once need one cut', async () => {
  await make('base');
  const views = await Promise.all(Array.from({ length: 8 }, (_, i) => clone(`c${i}`, 'base')));
  assert.equal(new Set(views.map(({ layers }) => layers.slice(1).join())).size, 1);
  assert.equal(new Set(views.map(({ path }) => path)).size, 8);
  assert.equal(await commands('volume.cut'), 1);
});

test('a clone can be larger, never smaller, and repeating its creation changes nothing', async () => {
  await make('base');
  assert.equal((await clone('c1', 'base', { size: 2 * MIB, io_timeout_ms: 500 })).size, 2 * MIB);
  assert.deepEqual((await clone('c1', 'base')).io_timeout_ms, 500);
  await assert.rejects(
    clone('c2', 'base', { size: 4096 }),
    refusal('invalid_request', /4096 is less than the 1048576/),
  );
  await assert.rejects(clone('c2', 'base', { size: 2 * MIB + 1 }), refusal('invalid_request', /not a multiple of 512/));
  await assert.rejects(clone('c1', 'base', { size: MIB }), refusal('volume_exists', /is a clone of base, of 2097152/));
  await assert.rejects(make('c1'), refusal('volume_exists', /it is a clone of base/));
  await assert.rejects(clone('base', 'c1'), refusal('volume_exists', /base exists and is no clone/));
  await assert.rejects(clone('c2', 'base', { kind: 'ram' }), refusal('invalid_request', /leave kind/));
  await assert.rejects(clone('c2', 'nothing'), refusal('volume_not_found', /nothing/));
  await assert.rejects(clone('c2', 'base@nothing'), refusal('snapshot_not_found', /base@nothing/, /base: none yet/));
  await assert.rejects(clone('c2', 'base@'), refusal('invalid_request', /from: "base@" is not BASE or BASE@SNAPSHOT/));
  assert.deepEqual(files().sort(), ['base-ID.layer', 'base.raw', 'c1-ID.layer'], 'what was refused left nothing');
});

test('a clone has whole blocks of its base; another size is refused before anything is changed', async () => {
  await make('coarse');
  const odd = refusal('invalid_request', /the size 1049088 is not a multiple of 4096, .*; 1052672 is/);
  await assert.rejects(clone('c1', 'coarse', { size: MIB + 512 }), odd);
  assert.deepEqual(files(), ['coarse.raw'], 'the base was not cut');
  await snapshot('coarse', 'first');
  await assert.rejects(clone('c1', 'coarse@first', { size: MIB + 512 }), odd);
  assert.equal((await clone('coarse-too', 'coarse', { size: MIB + 4096 })).block_size, 4096);
});

test('a base that was never open has blocks of which nobody knows the size', async () => {
  await make('bad', { adopt: dir.file('image.raw', 'x'.repeat(4096)), read_only: true });
  await assert.rejects(clone('c1', 'bad'), refusal('volume_not_ready', /bad cannot be opened/));
});

test('clones of clones; none can lose its base', async () => {
  await make('a');
  await clone('b', 'a');
  await write('b');
  await clone('c', 'b');
  assert.equal((await volume('c')).layers.length, 3);
  await assert.rejects(remove('a'), refusal('volume_has_clones', /the volume a is what b began with/, /volume rm b;/));
  await assert.rejects(remove('b'), refusal('volume_has_clones', /what c began with/));
  await remove('c');
  await remove('b');
  await remove('a');
  assert.deepEqual(files(), []);
});

test('a snapshot is taken of a volume in use, listed, and removed', async () => {
  await make('d1');
  await attach('web', 'd1');
  const view = await snapshot('d1', 's1');
  assert.deepEqual([view.name, view.size, view.state, view.clones], ['s1', MIB, 'ready', []]);
  assert.ok(Math.abs(Date.parse(view.created_at) - Date.now()) < 60_000);
  await snapshot('d1', 's2');
  assert.deepEqual(
    (await snapshots('d1')).map(({ name }) => name),
    ['s1', 's2'],
  );
  assert.deepEqual((await volume('d1')).snapshots, ['s1', 's2']);
  await assert.rejects(snapshot('d1', 's1'), refusal('snapshot_exists', /d1@s1 was taken at 20/, /snapshot rm d1 s1/));
  await removeSnapshot('d1', 's1');
  await assert.rejects(removeSnapshot('d1', 's1'), refusal('snapshot_not_found', /d1@s1/, /snapshots of d1: s2/));
  await assert.rejects(snapshots('d9'), refusal('volume_not_found', /d9/));
  assert.equal((await volume('d1')).layers.length, 3, 'what is in use stays');
});

test('a clone of a snapshot keeps it from going', async () => {
  await make('d1');
  await snapshot('d1', 's1');
  await write('d1');
  await snapshot('d1', 's2');
  const view = await clone('c1', 'd1@s1', { size: 2 * MIB });
  assert.deepEqual([view.base, view.layers.length], ['d1@s1', 2]);
  assert.deepEqual(
    (await snapshots('d1')).map(({ clones }) => clones),
    [['c1'], []],
  );
  await assert.rejects(
    removeSnapshot('d1', 's1'),
    refusal('volume_has_clones', /the snapshot d1@s1 is what c1 began with/),
  );
  await removeSnapshot('d1', 's2');
  await remove('c1');
  await removeSnapshot('d1', 's1');
});

test('a clone that goes leaves its base to be merged, unless another clone or nothing written is in the way', async () => {
  await make('base');
  await clone('c1', 'base');
  await clone('c2', 'base');
  const cuts = await commands('volume.cut');
  await write('base');
  await remove('c1');
  assert.equal(await commands('volume.cut'), cuts);
  await remove('c2');
  assert.equal(await commands('volume.cut'), cuts + 1);
  const [merge] = life.store.desired().merges;
  assert.equal(merge?.lower.path, `${dir.dir}/volumes/base.raw`);
  await make('other');
  await clone('c3', 'other');
  await remove('c3');
  assert.equal(await commands('volume.cut'), cuts + 2, 'that for the clone');
});

test('a rollback needs the volume detached, drops what was written since, and keeps other snapshots', async () => {
  await make('d1');
  await snapshot('d1', 's1');
  await snapshot('d1', 's2');
  await write('d1');
  const before = await volume('d1');
  await attach('web', 'd1');
  await assert.rejects(rollback('d1', 's1'), refusal('volume_in_use', /attached to web \(disk d1\)/, /detach web/));
  await api.call('DELETE', '/v1/vms/web');
  await assert.rejects(rollback('d1', 's9'), refusal('snapshot_not_found', /d1@s9/));
  const view = await rollback('d1', 's1');
  assert.equal(view.state, 'open');
  assert.deepEqual(view.layers.slice(1), before.layers.slice(2), 'back on what s1 stands on');
  assert.notEqual(view.path, before.path);
  assert.equal(existsSync(before.path ?? ''), false, 'its last state is gone');
  assert.deepEqual(view.snapshots, ['s1', 's2']);
  assert.equal((await rollback('d1', 's2')).layers.length, 3);
  await rollback('d1', 's1');
  const held = before.layers[1] ?? '';
  assert.ok(existsSync(held));
  await removeSnapshot('d1', 's2');
  await until('what only s2 needed is gone', () => !existsSync(held));
  await remove('d1');
  assert.deepEqual(files(), []);
});

test('when the engine cannot cut a volume, nothing has changed', async () => {
  await make('uncut1');
  await attach('web', 'uncut1');
  await assert.rejects(
    snapshot('uncut1', 's1'),
    refusal('engine_refused', /uncut1 could not be cut: uncut1 cannot be flushed/),
  );
  const view = await volume('uncut1');
  assert.deepEqual([view.state, view.layers.length, view.snapshots], ['open', 1, []]);
  await assert.rejects(clone('c1', 'uncut1'), refusal('engine_refused', /cannot be flushed/));
  await until('its file is gone', () => files().join() === 'uncut1.raw');
  assert.equal(await commands('export.remove'), 0);
  writeFileSync(`${dir.dir}/full`, '');
  await assert.rejects(snapshot('uncut1', 's1'), refusal('storage_failed', /layer cannot be made: No space left/));
  await until('its file is gone', () => files().join() === 'uncut1.raw');
});

test('an engine that dies while it cuts: the next one opens the new head, and the snapshot is there', async () => {
  await make('d1');
  await attach('web', 'd1');
  writeFileSync(`${dir.dir}/fatal-cut`, '');
  const view = await snapshot('d1', 's1');
  assert.equal(view.name, 's1');
  rmSync(`${dir.dir}/fatal-cut`);
  await until('it is open', async () => (await volume('d1')).state === 'open');
  assert.equal(await headOf('d1'), life.store.desired().volumes[0]?.layers[0]?.content);
  assert.equal(await commands('volume.cut'), 0, 'there was nothing to cut any more');
});

test('while there is no engine nobody knows whether a volume was cut: a snapshot is not acknowledged', async () => {
  await make('d1');
  writeFileSync(`${dir.dir}/fatal-cut`, '');
  writeFileSync(`${dir.dir}/unusable`, '');
  let isTaken = false;
  const taken = snapshot('d1', 's1').then(() => {
    isTaken = true;
  });
  await until('no engine starts', () => life.supervisor.engineStatus().lastError.includes('of no use'));
  assert.equal(isTaken, false);
  rmSync(`${dir.dir}/unusable`);
  await taken;
  assert.equal((await snapshots('d1'))[0]?.name, 's1');
});

test('a supervisor that finds the engine without the head of its records sends the cut again', async () => {
  await make('d1');
  const layer = {
    content: 'c'.repeat(16),
    path: `${dir.dir}/volumes/d1-x.layer`,
    size: MIB,
    raw: false,
    adopted: false,
  };
  life.store.layers.begin(layer);
  writeFileSync(layer.path, JSON.stringify({ sizeBytes: MIB, content: layer.content }));
  life.store.layers.cut('d1', layer.content, MIB, { name: 's1', createdAt: 1 });
  assert.equal((await snapshots('d1'))[0]?.state, 'pending');
  await assert.rejects(clone('c1', 'd1@s1'), refusal('volume_cutting', /d1/, /snapshot ls d1/));
  await assert.rejects(snapshot('d1', 's2'), refusal('volume_cutting', /d1/));
  await assert.rejects(removeSnapshot('d1', 's1'), refusal('volume_cutting', /d1/));
  await assert.rejects(remove('d1'), refusal('volume_cutting', /d1/));
  await life.supervisor.apply(5000);
  assert.equal(await headOf('d1'), layer.content);
  assert.equal((await snapshots('d1'))[0]?.state, 'ready');
  await clone('c1', 'd1@s1');
});

test('a snapshot waits for a slow flush, and the next one for it', async () => {
  await make('flushing1');
  const both = await Promise.all([snapshot('flushing1', 's1'), snapshot('flushing1', 's2')]);
  assert.deepEqual(
    both.map(({ state }) => state),
    ['ready', 'ready'],
  );
  assert.equal((await volume('flushing1')).layers.length, 3);
});

test('files that were begun and that nobody needs are removed at the next start; chains are opened again', async () => {
  await make('d1');
  await snapshot('d1', 's1');
  await clone('c1', 'd1');
  const path = `${dir.dir}/volumes/c2-x.layer`;
  life.store.layers.begin({ content: 'e'.repeat(16), path, size: MIB, raw: false, adopted: false });
  writeFileSync(path, 'made');
  writeFileSync(`${path}.new`, 'half made');
  await life.end();
  life = await beginIohv(dir);
  await running();
  await life.supervisor.apply(5000);
  assert.deepEqual([existsSync(path), existsSync(`${path}.new`)], [false, false]);
  assert.deepEqual([(await volume('d1')).state, (await volume('c1')).state], ['open', 'open']);
  assert.equal(await headOf('c1'), life.store.desired().volumes.find(({ name }) => name === 'c1')?.layers[0]?.content);
});

test('ram and read-only volumes have no snapshots; a read-only one is cloned as it is', async () => {
  await make('r1', { size: MIB, kind: 'ram' });
  await assert.rejects(snapshot('r1', 's1'), refusal('volume_without_snapshots', /r1 is of kind ram/));
  await assert.rejects(clone('c1', 'r1'), refusal('volume_without_snapshots', /r1 is of kind ram/));
  const image = dir.file('image.raw', 'x'.repeat(4096));
  await make('image', { adopt: image, read_only: true });
  await assert.rejects(
    snapshot('image', 's1'),
    refusal('volume_without_snapshots', /image is read-only/, /--from image/),
  );
  const view = await clone('c1', 'image');
  assert.deepEqual([view.state, view.layers[1]], ['open', image]);
  assert.equal((await volume('image')).layers.length, 1);
  assert.equal(await commands('volume.cut'), 0);
  await remove('c1');
  await remove('image');
  assert.ok(existsSync(image));
});

test('an adopted file stays when its volume with snapshots goes', async () => {
  const path = dir.file('data.raw', 'x'.repeat(4096));
  await make('d1', { adopt: path });
  await snapshot('d1', 's1');
  await assert.rejects(make('d2', { adopt: path }), refusal('volume_path_taken', /belongs to the volume d1/));
  assert.equal((await make('d1', { adopt: path })).adopted, true, 'still the same volume');
  await remove('d1');
  assert.ok(existsSync(path));
  assert.deepEqual(files(), []);
});

test('a volume of several files cannot be kept as one', async () => {
  await make('d1');
  await snapshot('d1', 's1');
  await assert.rejects(
    api.call('DELETE', `${pathOf('d1')}?keep=true`),
    refusal('volume_layered', /d1 is in 2 files/, /volume export d1 FILE/),
  );
});

test('a chain has a bound, and a way out of it', async () => {
  await make('d1');
  for (let n = 1; n < LAYERS_MAX; n++) {
    await snapshot('d1', `s${n}`);
  }
  await assert.rejects(snapshot('d1', 'last'), refusal('volume_too_deep', /d1 has 64 layers/, /volume export d1/));
  assert.equal((await volume('d1')).state, 'open');
});

test('without an engine there is nothing to cut', async () => {
  await make('d1');
  await life.supervisor.stop();
  await assert.rejects(snapshot('d1', 's1'), refusal('engine_unavailable', /not running/));
  assert.deepEqual((await volume('d1')).snapshots, []);
});

test('a volume that may have lost data is no base', async () => {
  await make('d1');
  await attach('web', 'd1');
  life.store.setFault('d1', 'flush: EIO');
  await assert.rejects(clone('c1', 'd1'), refusal('volume_not_ready', /may have lost data \(flush: EIO\)/));
  await assert.rejects(snapshot('d1', 's1'), refusal('volume_not_ready', /may have lost data/));
});

test('a volume that cannot be opened is not cut: a killed engine may have left writes to it', async () => {
  await make('bad1');
  await assert.rejects(snapshot('bad1', 's1'), refusal('volume_not_ready', /bad1 cannot be opened/));
  await assert.rejects(clone('c1', 'bad1'), refusal('volume_not_ready', /bad1 cannot be opened/));
  assert.deepEqual((await volume('bad1')).snapshots, []);
});

test('a volume that is being opened is cut when it is open', async () => {
  const made = make('slow1');
  await until('it is being opened', async () => (await commands('volume.open')) === 1);
  assert.equal(life.supervisor.isVolumeOpen('slow1'), false);
  await snapshot('slow1', 's1');
  assert.equal(await commands('volume.cut'), 1);
  await made;
});

test('the command line', async () => {
  await make('d1');
  const created = await cli('volume', 'snapshot', 'create', 'd1', 'before');
  assert.match(created.stdout, /^name +d1@before\ntaken +20.*Z\nsize +1M, of which .* in its own file\nclones +-\n$/);
  assert.match(
    (await cli('volume', 'create', 'web1', '--from', 'd1@before', '--size', '2M')).stdout,
    /clone of +d1@before/,
  );
  assert.match(
    (await cli('volume', 'snapshot', 'ls', 'd1')).stdout,
    /^NAME +TAKEN +SIZE +STORED +STATE +CLONES\nbefore +20.*Z +1M +\S+ +ready +web1\n$/,
  );
  const shown = (await cli('volume', 'show', 'd1')).stdout;
  assert.match(shown, /\nover +\S+d1\.raw\nclones +web1\nsnapshots +before\n/);
  assert.match((await cli('volume', 'ls')).stdout, /web1 +file +2M +open .* d1@before /);
  const refused = await cli('volume', 'snapshot', 'rm', 'd1', 'before');
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /hint: remove them first: outrigger volume rm web1;/);
  await cli('volume', 'rm', 'web1');
  assert.match((await cli('volume', 'snapshot', 'rollback', 'd1', 'before')).stdout, /^name +d1\n/);
  assert.equal((await cli('volume', 'snapshot', 'rm', 'd1', 'before')).stdout, 'removed d1@before\n');
  assert.match((await cli('volume', 'snapshot', 'ls', 'd1')).stdout, /no snapshots; take one with/);
  assert.match((await cli('volume', 'snapshot')).stderr, /which of: create, ls, rm, rollback/);
  assert.match((await cli('volume', 'create', 'x')).stderr, /a clone --from BASE/);
});
