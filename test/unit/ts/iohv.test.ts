// The I/O hypervisor's supervisor and REST interface: a real server on a real unix socket, a real store, a
// child process that speaks the engine's protocol.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { afterEach, beforeEach, test } from 'node:test';
import { claimSocket } from '../../../src/api/listen.js';
import type { DiskView, EventView, IohvStatus, Problem, VmView, VolumeView } from '../../../src/api/schemas.js';
import { OutriggerError } from '../../../src/errors.js';
import { CACHE_DEFAULT } from '../../../src/supervisor/cache.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { EngineConfig } from '../../../src/supervisor/protocol.js';
import { beginIohv, type Life } from './iohv-life.js';
import { commandsOf, emit, type Scratch, scratch, tellEngine, until } from './support.js';

let dir: Scratch;
let life: Life;
const socket = () => `${dir.dir}/api.sock`;
const begin = (port: Partial<EngineConfig['port']> = {}) => beginIohv(dir, { port });

const engineIs = (state: string) => until(`engine ${state}`, () => life.supervisor.engineStatus().state === state);

beforeEach(async () => {
  dir = scratch();
  life = await begin();
  await engineIs('running');
});

afterEach(async () => {
  await life.end();
  dir.remove();
});

interface Answer<T> {
  status: number;
  type: string;
  body: T;
}

function call<T = Problem>(method: string, path: string, body?: unknown): Promise<Answer<T>> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const sent = request({ socketPath: socket(), method, path, headers }, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => {
        const type = response.headers['content-type'] ?? '';
        const parsed: unknown = type.includes('json') ? JSON.parse(text) : text;
        resolve({ status: response.statusCode ?? 0, type, body: parsed as T });
      });
    });
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

const create = (name: string, body: unknown = { size: 1 << 20 }) =>
  call<VolumeView>('PUT', `/v1/volumes/${name}`, body);
const attach = (vm: string, host: string, ...disks: object[]) =>
  call<VmView>('POST', '/v1/attachments', { vm, host, disks });

async function refused(answer: Promise<Answer<unknown>>, status: number, code: string, detail: RegExp, hint?: RegExp) {
  const { body, status: got, type } = await answer;
  const problem = body as Problem;
  assert.equal(got, status, JSON.stringify(body));
  assert.match(type, /^application\/problem\+json/);
  assert.equal(problem.code, code);
  assert.equal(problem.status, status);
  assert.equal(problem.type, `/v1/errors/${code}`);
  assert.match(problem.detail, detail);
  assert.match(problem.hint, hint ?? /./);
}

test('a new volume is a sparse file that the engine has open', async () => {
  const { status, body } = await create('d1', { size: 10 * 2 ** 30 });
  assert.equal(status, 201);
  assert.equal(body.state, 'open');
  assert.equal(body.path, `${dir.dir}/volumes/d1.raw`);
  const file = statSync(body.path ?? '');
  assert.equal(file.size, 10 * 2 ** 30);
  assert.ok(file.blocks < 100);
  assert.equal(file.mode & 0o077, 0);
});

test('creating the same volume again is no error, another one of its name is', async () => {
  await create('d1');
  assert.equal((await create('d1')).status, 200);
  await refused(create('d1', { size: 2 << 20 }), 409, 'volume_exists', /its size is 1048576, not 2097152/);
  await refused(create('d1', { size: 1 << 20, kind: 'ram' }), 409, 'volume_exists', /its kind is file, not ram/);
});

test('ram and null volumes need no file', async () => {
  const { body } = await create('r1', { size: 8192, kind: 'ram', block_size: 4096 });
  assert.deepEqual([body.kind, body.path, body.block_size, body.state], ['ram', null, 4096, 'open']);
  assert.equal((await create('n1', { size: 8192, kind: 'null' })).status, 201);
});

test('a volume that makes no sense is refused', async () => {
  await refused(create('d1', {}), 400, 'invalid_request', /needs a size .* or adopt/);
  await refused(create('d1', { size: 1000 }), 400, 'invalid_request', /1000 is not a multiple of the block size 512/);
  await refused(create('d1', { size: 4096, block_size: 4096 }), 400, 'invalid_request', /leave block_size out/);
  await refused(create('d1', { size: 4096, adopt: '/x' }), 400, 'invalid_request', /adopt takes size/);
  await refused(create('d1', { siez: 4096 }), 400, 'invalid_request', /unknown key siez \(did you mean size\?\)/);
  await refused(create('d1', { size: '4096' }), 400, 'invalid_request', /size must be integer/);
  await refused(create('-d1'), 400, 'invalid_request', /name: "-d1" is not 1 to 63 letters/);
  await refused(call('GET', '/v1/volume'), 404, 'route_not_found', /nothing at GET \/v1\/volume/);
});

test('a file that is there already is not overwritten but may be adopted, and stays', async () => {
  await create('first');
  const path = `${dir.dir}/volumes/d1.raw`;
  writeFileSync(path, 'x'.repeat(1024));
  await refused(
    create('d1'),
    409,
    'volume_file_exists',
    /d1\.raw exists/,
    /outrigger volume create d1 --adopt .*d1\.raw/,
  );
  const { status, body } = await create('d1', { adopt: path });
  assert.equal(status, 201);
  assert.deepEqual([body.size, body.adopted], [1024, true]);
  assert.equal((await create('d1', { adopt: path })).status, 200);
  symlinkSync(path, `${dir.dir}/alias`);
  await refused(create('d2', { adopt: `${dir.dir}/alias` }), 409, 'volume_path_taken', /belongs to the volume d1/);
  assert.equal((await call('DELETE', '/v1/volumes/d1')).status, 204);
  assert.equal(readFileSync(path, 'utf8').length, 1024);
});

test('what cannot be a volume is not adopted', async () => {
  await refused(create('d1', { adopt: '/nonexistent' }), 422, 'volume_unsuitable', /\/nonexistent does not exist/);
  await refused(create('d1', { adopt: dir.dir }), 422, 'volume_unsuitable', /is a directory/);
  await refused(create('d1', { adopt: '/dev/null' }), 422, 'volume_unsuitable', /neither a regular file nor a block/);
  const odd = dir.file('odd', 'abc');
  await refused(
    create('d1', { adopt: odd }),
    422,
    'volume_unsuitable',
    /has 3 bytes, which is not a positive multiple/,
  );
});

test('a volume that cannot be made leaves nothing behind', async () => {
  dir.file('volumes', 'a file where the folder should be');
  await refused(create('d1'), 507, 'storage_failed', /d1\.raw cannot be made/);
  assert.deepEqual((await call<VolumeView[]>('GET', '/v1/volumes')).body, []);
});

test('a volume that the engine cannot open says so and hinders no other', async () => {
  assert.deepEqual((({ body }) => [body.state, body.reason])(await create('bad1')), [
    'failed',
    'bad1 cannot be opened',
  ]);
  assert.equal((await create('d1')).body.state, 'open');
  const { body } = await call<IohvStatus>('GET', '/v1/status');
  assert.ok(body.problems.includes('volume bad1: bad1 cannot be opened'));
});

test('removing a volume removes its file, unless it is kept', async () => {
  const [path1, path2] = [(await create('d1')).body.path ?? '', (await create('d2')).body.path ?? ''];
  assert.equal((await call('DELETE', '/v1/volumes/d1')).status, 204);
  assert.equal((await call('DELETE', '/v1/volumes/d2?keep=true')).status, 204);
  assert.deepEqual([existsSync(path1), existsSync(path2)], [false, true]);
  await refused(call('DELETE', '/v1/volumes/d1'), 404, 'volume_not_found', /no volume d1/, /known volumes: none yet/);
});

test('attaching adds the export, then tells the host', async () => {
  await create('d1');
  const { status, body } = await attach('web', 'h1', { volume: 'd1', queues: 4 });
  assert.equal(status, 201);
  assert.deepEqual(
    body.disks.map(({ disk, volume, queues, state }) => ({ disk, volume, queues, state })),
    [{ disk: 'd1', volume: 'd1', queues: 4, state: 'pending' }],
  );
  assert.equal((await attach('web', 'h1', { volume: 'd1', queues: 4 })).status, 200);
  assert.deepEqual((await commandsOf(dir.dir)).slice(-2), ['export.add', 'document.set']);
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: { document: string } }[];
  const document = JSON.parse(log.filter(({ cmd }) => cmd === 'document.set').at(-1)?.args.document ?? '');
  assert.deepEqual(document.devices, [
    {
      ...{ id: 1, generation: 1, vm: 'web', disk: 'd1', volume: 'd1', queues: 4, readOnly: false, size: 1 << 20 },
      ...{ blockSize: 512, physicalBlockSize: 4096, discard: true, writeZeroes: true, serial: 'd1' },
    },
  ]);
});

test('an attachment to something unknown is answered with what is known', async () => {
  await create('d1');
  await refused(attach('web', 'h9', { volume: 'd1' }), 404, 'host_not_found', /no host h9/, /known hosts: h1, h2;/);
  await refused(attach('web', 'h1', { volume: 'd9' }), 404, 'volume_not_found', /no volume d9/, /known volumes: d1/);
  await refused(attach('web', 'h1', { volume: 'd1' }, { volume: 'd9' }), 404, 'volume_not_found', /d9/);
  assert.deepEqual((await call<DiskView[]>('GET', '/v1/attachments')).body, [], 'all or none');
  await refused(call('GET', '/v1/vms/web'), 404, 'vm_not_found', /no VM web/);
  await refused(call('GET', '/v1/hosts/h9'), 404, 'host_not_found', /h9/);
});

test('a volume is attached read-write once, or read-only many times', async () => {
  await create('d1');
  await attach('web', 'h1', { volume: 'd1' });
  await refused(
    attach('db', 'h2', { volume: 'd1' }),
    409,
    'volume_busy',
    /attached read-write to the VM web on host h1/,
    /outrigger detach web --disk d1/,
  );
  await refused(attach('db', 'h2', { volume: 'd1', read_only: true }), 409, 'volume_busy', /read-write/);
  await create('iso');
  await attach('web', 'h1', { volume: 'iso', read_only: true });
  assert.equal((await attach('db', 'h2', { volume: 'iso', read_only: true })).status, 201);
  await refused(attach('third', 'h2', { volume: 'iso' }), 409, 'volume_busy', /read-only to the VM web/);
});

test('a disk of a VM cannot be two things, nor a VM on two hosts', async () => {
  await create('d1');
  await create('d2');
  await attach('web', 'h1', { volume: 'd1', name: 'root' });
  await refused(
    attach('web', 'h1', { volume: 'd2', name: 'root' }),
    409,
    'disk_exists',
    /has a disk root \(volume d1,/,
  );
  await refused(attach('web', 'h2', { volume: 'd2' }), 409, 'vm_on_other_host', /web is on h1/, /--host h1/);
  const file = dir.file('ro.raw', 'x'.repeat(512));
  await create('ro', { adopt: file, read_only: true });
  await refused(attach('web', 'h1', { volume: 'ro' }), 409, 'volume_read_only', /ro is read-only/, /--disk ro,ro/);
});

test('an attached volume is not removed', async () => {
  await create('d1');
  await attach('web', 'h1', { volume: 'd1', name: 'root' });
  await refused(
    call('DELETE', '/v1/volumes/d1'),
    409,
    'volume_in_use',
    /attached to web \(disk root\)/,
    /outrigger detach web --disk root/,
  );
});

async function report(host: string, id: number, state: 'listening' | 'running', reason = '') {
  const devices = [{ id, state, reason, socket: `/vhost/web/${id}.sock` }];
  const document = JSON.stringify({ version: 1, host, agentVersion: '0.1.0', devices });
  await emit(dir.dir, { event: 'host.report', data: { host, document } });
  await until('the report is known', () => life.supervisor.reports.of(host)?.devices[0]?.state === state);
}

test('a disk that a guest uses is detached by force only', async () => {
  await create('d1');
  await attach('web', 'h1', { volume: 'd1' });
  await emit(dir.dir, { event: 'host.up', data: { host: 'h1' } });
  await report('h1', 1, 'running');
  const { body } = await call<VmView>('GET', '/v1/vms/web');
  assert.deepEqual(
    body.disks.map(({ state, socket: at, socket_reported }) => [state, at, socket_reported]),
    [['running', '/vhost/web/1.sock', true]],
  );
  await refused(
    call('DELETE', '/v1/attachments/web/d1'),
    409,
    'device_running',
    /host h1 reports that a guest/,
    /--force/,
  );
  await emit(dir.dir, { event: 'host.down', data: { host: 'h1', reason: 'cable' } });
  await until('h1 is down', () => !life.supervisor.hostIsUp('h1'));
  await refused(call('DELETE', '/v1/vms/web'), 409, 'device_running', /h1 is not connected, and last reported, that/);
  assert.equal((await call('DELETE', '/v1/vms/web?force=true')).status, 204);
  assert.deepEqual((await call<VmView[]>('GET', '/v1/vms')).body, []);
  assert.deepEqual((await commandsOf(dir.dir)).slice(-2), ['document.set', 'export.remove']);
});

test('a guest that has just ended may be reported late', async () => {
  await create('d1');
  await attach('web', 'h1', { volume: 'd1' });
  await emit(dir.dir, { event: 'host.up', data: { host: 'h1' } });
  await report('h1', 1, 'running');
  const detached = call('DELETE', '/v1/vms/web');
  await report('h1', 1, 'listening');
  assert.equal((await detached).status, 204);
});

test('a disk that no guest uses is detached', async () => {
  await create('d1');
  await create('d2');
  await attach('web', 'h1', { volume: 'd1' }, { volume: 'd2' });
  await report('h1', 1, 'listening');
  await refused(call('DELETE', '/v1/attachments/web/d9'), 404, 'disk_not_found', /no disk d9/, /disks of web: d1, d2/);
  assert.equal((await call('DELETE', '/v1/attachments/web/d1')).status, 204);
  const { body } = await call<VmView>('GET', '/v1/vms/web');
  assert.deepEqual(
    body.disks.map(({ disk }) => disk),
    ['d2'],
  );
});

test('a dead engine is replaced and gets the desired state again, hosts last', async () => {
  await create('d1');
  await create('slow1');
  await attach('web', 'h1', { volume: 'd1' }, { volume: 'slow1' });
  const { pid } = life.supervisor.engineStatus();
  process.kill(pid ?? 0, 'SIGKILL');
  await until('another engine', () => {
    const now = life.supervisor.engineStatus();
    return now.state === 'running' && now.pid !== pid;
  });
  await life.supervisor.apply(10_000);
  const commands = await commandsOf(dir.dir);
  assert.deepEqual(
    commands.filter((cmd) => cmd === 'export.add'),
    [],
    'exports come with their host',
  );
  assert.ok(commands.lastIndexOf('volume.open') < commands.lastIndexOf('host.add'));
  assert.equal(((await tellEngine(dir.dir, 'export.list')) as unknown[]).length, 2);
  assert.equal(life.supervisor.engineStatus().deaths, 1);
});

test('an engine that cannot start is tried again, and its last words are told', async () => {
  await life.end();
  life = await begin({ interfaces: ['none'] });
  await engineIs('waiting');
  const { body } = await call<IohvStatus>('GET', '/v1/status');
  assert.match(
    body.problems[0] ?? '',
    /the engine is waiting: the engine could not be activated: no interface called none/,
  );
  assert.equal((await create('d1')).body.state, 'waiting', 'the desired state is kept meanwhile');
  await refused(call('GET', '/v1/stats'), 503, 'engine_unavailable', /not running/);
});

test('a host whose key changed or that left is replaced in the engine', async () => {
  await create('d1');
  await attach('web', 'h1', { volume: 'd1' });
  life.supervisor.setHosts([{ name: 'h1', keyBase64: 'BBBB', keyId: 'new' }]);
  await life.supervisor.apply(5000);
  const rows = (await tellEngine(dir.dir, 'hosts')) as { name: string; keyId: string }[];
  assert.deepEqual(
    rows.map(({ name, keyId }) => [name, keyId]),
    [['h1', 'new']],
  );
  assert.equal(((await tellEngine(dir.dir, 'export.list')) as unknown[]).length, 1);
});

test('a volume whose making was interrupted is finished at the next start', async () => {
  const { path } = (await create('d1')).body;
  const db = life.store;
  db.addVolume({
    ...{ name: 'd2', kind: 'file', path: `${dir.dir}/volumes/d2.raw`, size: 4096, blockSize: 512 },
    ...{ readOnly: false, adopted: false, phase: 'creating', geometry: null, fault: null, ioTimeoutMs: 0 },
    limit: NO_LIMIT,
    cache: CACHE_DEFAULT,
    worker: null,
    layers: [{ content: 'd2'.repeat(8), path: `${dir.dir}/volumes/d2.raw`, size: 4096, raw: true, adopted: false }],
    base: null,
  });
  await life.end();
  truncateSync(path ?? '', 1 << 20);
  life = await begin();
  await engineIs('running');
  await life.supervisor.apply(5000);
  assert.equal(statSync(`${dir.dir}/volumes/d2.raw`).size, 4096);
  assert.equal((await call<VolumeView>('GET', '/v1/volumes/d2')).body.state, 'open');
});

test('a volume that cannot be finished at the start can be created again later', async () => {
  life.store.addVolume({
    ...{ name: 'd1', kind: 'file', path: `${dir.dir}/volumes/d1.raw`, size: 4096, blockSize: 512 },
    ...{ readOnly: false, adopted: false, phase: 'creating', geometry: null, fault: null, ioTimeoutMs: 0 },
    limit: NO_LIMIT,
    cache: CACHE_DEFAULT,
    worker: null,
    layers: [{ content: 'd1'.repeat(8), path: `${dir.dir}/volumes/d1.raw`, size: 4096, raw: true, adopted: false }],
    base: null,
  });
  await life.end();
  const obstacle = dir.file('volumes', 'a file where the folder should be');
  life = await begin();
  assert.equal((await call<VolumeView>('GET', '/v1/volumes/d1')).body.state, 'creating');
  rmSync(obstacle);
  const { status, body } = await create('d1', { size: 4096 });
  assert.deepEqual([status, body.state], [200, 'open']);
});

test('counters are shown as JSON and for Prometheus', async () => {
  await create('d1');
  const stats = await call<{ server: { requests: number } }>('GET', '/v1/stats');
  assert.equal(stats.body.server.requests, 7);
  const { body, type } = await call<string>('GET', '/metrics');
  assert.match(type, /^text\/plain; version=0\.0\.4/);
  const lines = body.split('\n');
  for (const line of [
    'outrigger_volumes 1',
    'outrigger_engine_up 1',
    'outrigger_host_up{host="h1"} 0',
    'outrigger_host_srtt_us{host="h2"} 0',
    'outrigger_engine_server_refused{reason="digest"} 2',
    'outrigger_engine_volumes_bytes_read{volume="disk1"} 4096',
  ]) {
    assert.ok(lines.includes(line), line);
  }
});

const eventsAfter = async (after?: number, waitS = 0) => {
  const { status, body } = await call<EventView[]>(
    'GET',
    after === undefined ? '/v1/events' : `/v1/events?after=${after}&wait_s=${waitS}`,
  );
  assert.equal(status, 200);
  return body;
};
const lastSeq = async () => (await eventsAfter()).at(-1)?.seq ?? 0;

/** The start is over: both hosts were told of their devices, after which nothing happens by itself. */
async function settle(): Promise<void> {
  const isTold = (key: string) => (event: EventView) => event.kind === 'step.done' && event.fields.key === key;
  await until('both hosts were told', async () => {
    const events = await eventsAfter();
    return ['document:h1', 'document:h2'].every((key) => events.some(isTold(key)));
  });
}

test('what happens is told in order, each once', async () => {
  const start = await lastSeq();
  await create('disk1');
  await attach('web', 'h1', { volume: 'disk1' });
  await emit(dir.dir, { event: 'host.up', data: { host: 'h1' } });
  const id = life.store.desired().attachments[0]?.id ?? 0;
  const report = (state: string) => {
    const devices = [{ id, state, reason: '', socket: '/s' }];
    const document = JSON.stringify({ version: 1, host: 'h1', agentVersion: '1', devices });
    return emit(dir.dir, { event: 'host.report', data: { host: 'h1', document } });
  };
  await report('listening');
  await report('listening');
  await report('running');
  const events = await until('the guest runs', async () => {
    const all = await eventsAfter(start);
    return all.some(({ fields }) => fields.state === 'running') && all;
  });
  assert.deepEqual(
    events.map(({ seq }) => seq),
    events.map((_, i) => start + 1 + i),
  );
  const told = events.filter(({ kind }) => /^(volume|attachment|host|device)\./.test(kind));
  assert.deepEqual(
    told.map(({ kind, fields }) => [kind, fields.volume ?? fields.state ?? fields.host]),
    [
      ['volume.created', 'disk1'],
      ['attachment.added', 'disk1'],
      ['host.up', 'h1'],
      ['device.state', 'listening'],
      ['device.state', 'running'],
    ],
  );
  assert.deepEqual(told.at(-1)?.fields, { host: 'h1', id, vm: 'web', disk: 'disk1', state: 'running' });
});

test('a reader that waits is answered when something happens', async () => {
  await settle();
  const start = await lastSeq();
  const waiting = eventsAfter(start, 25);
  await emit(dir.dir, { event: 'host.down', data: { host: 'h2', reason: 'silent' } });
  const [event] = await waiting;
  assert.deepEqual(
    [event?.seq, event?.kind, event?.fields],
    [start + 1, 'host.down', { host: 'h2', reason: 'silent' }],
  );
  assert.equal(event?.level, 'warn');
});

test('a reader that is too slow is told how much it missed, and nothing is kept for it', async () => {
  await settle();
  const start = await lastSeq();
  for (let n = 0; n < 1500; n++) {
    life.log.info('volume.resumed', { volume: `v${n}` });
  }
  const [notice, ...rest] = await eventsAfter(start);
  assert.deepEqual([notice?.kind, notice?.fields], ['events.dropped', { reason: 'overrun', count: 1500 - 1024 }]);
  assert.deepEqual([rest.length, rest[0]?.fields.volume, rest.at(-1)?.fields.volume], [1024, 'v476', 'v1499']);
  assert.deepEqual(await eventsAfter(rest.at(-1)?.seq), []);
});

test('a reader from before a restart is told so', async () => {
  const start = await lastSeq();
  await life.end();
  life = await begin();
  const events = await eventsAfter(start);
  assert.deepEqual([events[0]?.kind, events[0]?.fields], ['events.dropped', { reason: 'restart' }]);
  assert.ok((events[1]?.seq ?? 0) > start);
});

test('a server that closes does not wait for its readers', async () => {
  await settle();
  const waiting = eventsAfter(await lastSeq(), 25);
  waiting.catch(() => {});
  await eventsAfter(); // the first one has been received by now
  await life.end();
  await assert.rejects(waiting);
  life = await begin();
});

test('a wrong question about events is explained', async () => {
  await refused(call('GET', '/v1/events?after=-1'), 400, 'invalid_request', /after: "-1" is not the sequence number/);
  await refused(call('GET', '/v1/events?since=1'), 400, 'invalid_request', /unknown key since/);
});

test('the type of a problem leads to its explanation', async () => {
  const { body } = await call('GET', '/v1/volumes/none');
  const info = await call<{ code: string; title: string }>('GET', body.type);
  assert.deepEqual([info.status, info.body.code, info.body.title], [200, 'volume_not_found', body.title]);
});

test('a second supervisor finds the socket in use', async () => {
  await assert.rejects(
    claimSocket(socket()),
    (error) => error instanceof OutriggerError && error.code === 'socket_in_use',
  );
  assert.equal(statSync(socket()).mode & 0o777, 0o660);
});
