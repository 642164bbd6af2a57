// An I/O hypervisor with several workers as its operator sees it: a real supervisor, store and REST interface, and
// the engine's double.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import type { IohvStatus, VmView, VolumeView, WorkerView } from '../../../src/api/schemas.js';
import type { Policy } from '../../../src/supervisor/placement.js';
import type { VolumeRow } from '../../../src/supervisor/protocol.js';
import { change, getJson, getText } from '../../lab/api.js';
import { beginIohv, type Life } from './iohv-life.js';
import { commandsOf, outrigger, type Scratch, scratch, tellEngine, until } from './support.js';

let dir: Scratch;
let life: Life;
const socket = () => `${dir.dir}/api.sock`;
const settle = () => life.supervisor.apply(5000);

async function begin(workers: number, policy: Policy = 'round-robin'): Promise<void> {
  life = await beginIohv(dir, { workers, policy });
  await until('the engine runs', () => life.supervisor.engineStatus().state === 'running');
  await settle();
}

beforeEach(async () => {
  dir = scratch();
  await begin(2);
});

afterEach(async () => {
  await life.end();
  dir.remove();
});

async function get<T>(path: string): Promise<T> {
  const found = await getJson<T>(socket(), path);
  assert.ok(found !== undefined);
  return found;
}

const create = (name: string) => change(socket(), 'PUT', `/v1/volumes/${name}`, { size: 4096, kind: 'ram' });
const attach = (vm: string, volume: string) =>
  change(socket(), 'POST', '/v1/attachments', { vm, host: 'h1', disks: [{ volume }] });
const move = (name: string, worker: number) => change(socket(), 'POST', `/v1/volumes/${name}/move`, { worker });
const pin = (name: string, worker: number | null) => change(socket(), 'PATCH', `/v1/volumes/${name}`, { worker });

/** What the engine says. */
async function places(): Promise<Record<string, number>> {
  const rows = (await tellEngine(dir.dir, 'volume.list')) as VolumeRow[];
  return Object.fromEntries(rows.map(({ name, worker = 0 }) => [name, worker]));
}

/** The worker of each disk in the last document of h1. */
async function told(): Promise<(number | undefined)[]> {
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: { host: string; document: string } }[];
  const last = log.filter(({ cmd, args }) => cmd === 'document.set' && args.host === 'h1').at(-1);
  const { devices } = JSON.parse(last?.args.document ?? '{"devices":[]}') as { devices: { worker?: number }[] };
  return devices.map(({ worker }) => worker);
}

async function killEngine(): Promise<void> {
  const { pid } = life.supervisor.engineStatus();
  process.kill(pid ?? 0, 'SIGKILL');
  await untilReplaced(pid);
}

async function untilReplaced(pid: number | null): Promise<void> {
  await until('another engine', () => {
    const now = life.supervisor.engineStatus();
    return now.state === 'running' && now.pid !== pid;
  });
  await settle();
}

test('volumes are opened in turn, and hosts hear where', async () => {
  for (const name of ['a', 'b', 'c']) {
    await create(name);
    await attach(`vm-${name}`, name);
  }
  assert.deepEqual(await places(), { a: 0, b: 1, c: 0 });
  assert.deepEqual(await told(), [undefined, 1, undefined]);
  assert.equal((await get<VolumeView>('/v1/volumes/b')).worker, 1);
  assert.equal((await get<VmView>('/v1/vms/vm-b')).disks[0]?.worker, 1);
});

test('a volume is moved under its guest: the host is told when it is there', async () => {
  await create('a');
  await attach('vm', 'a');
  await move('a', 1);
  assert.deepEqual([await places(), await told()], [{ a: 1 }, [1]]);
  assert.deepEqual((await commandsOf(dir.dir)).slice(-2), ['volume.move', 'document.set']);
  const events = await get<{ kind: string; fields: Record<string, unknown> }[]>('/v1/events');
  const { ms, ...fields } = events.find(({ kind }) => kind === 'volume.moved')?.fields ?? {};
  assert.deepEqual(fields, { volume: 'a', from: 0, to: 1, reason: 'operator' });
  assert.equal(typeof ms, 'number');
});

test('a move that makes no sense is refused', async () => {
  await create('a');
  await assert.rejects(move('a', 2), /404.*there is no worker 2.*workers: 0, 1/);
  await assert.rejects(move('z', 1), /volume_not_found/);
  await assert.rejects(move('a', 16), /400/);
  await pin('a', 0);
  await assert.rejects(move('a', 1), /409.*pinned to worker 0/);
  await assert.rejects(pin('a', 2), /worker_not_found/);
});

test('a pinned volume goes there and comes back there, also with another supervisor', async () => {
  await create('a');
  await pin('a', 1);
  assert.deepEqual(await places(), { a: 1 });
  assert.equal((await get<VolumeView>('/v1/volumes/a')).pinned, true);
  await life.end();
  await begin(2, 'static');
  assert.deepEqual(await places(), { a: 1 });
  await pin('a', null);
  assert.equal((await get<VolumeView>('/v1/volumes/a')).pinned, false);
});

test('a pin to a worker that is no longer there is told, and the volume is served', async () => {
  await create('a');
  await pin('a', 1);
  await life.end();
  await begin(1);
  assert.deepEqual(await places(), { a: 0 });
  const { problems } = await get<IohvStatus>('/v1/status');
  assert.match(problems.join(), /volume a: pinned to worker 1, which does not exist/);
});

test('the next engine has volumes where the last one had them, and the next supervisor leaves them there', async () => {
  await create('a');
  await create('b');
  await attach('vm', 'b');
  await move('a', 1);
  await killEngine();
  assert.deepEqual(await places(), { a: 1, b: 1 });
  assert.deepEqual(await told(), [1]);
  await life.supervisor.stop(true);
  await life.end();
  await begin(2, 'least-loaded');
  assert.deepEqual(await places(), { a: 1, b: 1 });
  assert.ok(!(await commandsOf(dir.dir)).includes('volume.move'));
});

test('an engine that dies while it moves a volume is replaced, and the volume is where it was to go', async () => {
  await create('a');
  await attach('vm', 'a');
  const { pid } = life.supervisor.engineStatus();
  dir.file('fatal-move', '');
  const moved = move('a', 1).catch(() => {});
  await until('its death', () => life.supervisor.engineStatus().deaths === 1);
  rmSync(`${dir.dir}/fatal-move`);
  await untilReplaced(pid);
  await moved;
  assert.deepEqual([await places(), await told()], [{ a: 1 }, [1]]);
});

test('a volume that cannot be moved is served where it is, and moved later', async () => {
  await create('a');
  await attach('vm', 'a');
  dir.file('unmovable', '');
  await assert.rejects(move('a', 1), /502.*a cannot be moved/);
  const volume = await get<VolumeView>('/v1/volumes/a');
  assert.deepEqual([volume.state, volume.worker], ['open', 0]);
  rmSync(`${dir.dir}/unmovable`);
  await until('the next try', async () => (await places()).a === 1);
  await settle();
  assert.deepEqual(await told(), [1]);
});

test('another supervisor that hears late of a move follows it', async () => {
  await create('a');
  await attach('vm', 'a');
  await tellEngine(dir.dir, 'test.emit', { event: 'volume.moved', data: { volume: 'a', to: 1, placement: 1 } });
  await until('it puts it back', async () => (await commandsOf(dir.dir)).includes('volume.move'));
});

test('workers are listed with what they have and do', async () => {
  await create('a');
  await create('b');
  const workers = await get<WorkerView[]>('/v1/workers');
  assert.deepEqual(
    workers.map(({ worker, cpu, sessions, volumes, nics }) => ({ worker, cpu, sessions, volumes, nics })),
    [0, 1].map((worker) => ({ worker, cpu: null, sessions: 1, volumes: 1, nics: 0 })),
  );
  const metrics = await getText(socket(), '/metrics');
  assert.match(metrics, /^outrigger_worker_busy_seconds_total\{worker="1"\} 0\.5$/m);
  assert.match(metrics, /^outrigger_worker_requests_total\{worker="0"\} 7$/m);
});

test('the command line pins, moves and lists', async () => {
  await create('a');
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await outrigger([...args, '--socket', socket()]);
    return `${code} ${stdout}${stderr}`;
  };
  assert.match(await run('volume', 'set', 'a', '--worker', '1'), /^0 [\s\S]*worker +1 \(pinned\)/);
  assert.match(await run('volume', 'ls'), /WORKER[\s\S]*1 \(pinned\)/);
  assert.match(await run('volume', 'move', 'a', '0'), /^1 error: .*pinned/);
  assert.match(await run('volume', 'set', 'a', '--worker', 'auto'), /^0 [\s\S]*worker +1\n/);
  assert.match(await run('volume', 'move', 'a', '0'), /^0 [\s\S]*worker +0\n/);
  assert.match(await run('volume', 'move', 'a', 'x'), /^2 error: x is not a worker/);
  assert.match(await run('worker', 'ls'), /^0 WORKER +CPU +BUSY[\s\S]*\n0 +- +\d+ %[\s\S]*\n1 /);
});

test('with one worker no host hears of any', async () => {
  await life.end();
  await begin(1);
  await create('a');
  await attach('vm', 'a');
  assert.deepEqual(await told(), [undefined]);
  assert.equal((await get<WorkerView[]>('/v1/workers')).length, 1);
});
