// NICs over the REST interface: a real server, store and engine's double. These NICs are of hubs, which need no
// network interface; those that do are in net-setup.test.ts.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { afterEach, beforeEach, test } from 'node:test';
import type { NicView } from '../../../src/api/nic-schemas.js';
import type { IohvStatus, Problem, VmView, VolumeView } from '../../../src/api/schemas.js';
import type { ReportEntry } from '../../../src/supervisor/documents.js';
import type { NicRow } from '../../../src/supervisor/protocol.js';
import { beginIohv, type Life } from './iohv-life.js';
import { commandsOf, emit, type Scratch, scratch, tellEngine, until } from './support.js';

let dir: Scratch;
let life: Life;

beforeEach(async () => {
  dir = scratch();
  life = await beginIohv(dir);
  await until('the engine runs', () => life.supervisor.engineStatus().state === 'running');
});

afterEach(async () => {
  await life.end();
  dir.remove();
});

interface Answer<T> {
  status: number;
  body: T;
}

function call<T = Problem>(method: string, path: string, body?: unknown): Promise<Answer<T>> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const sent = request({ socketPath: `${dir.dir}/api.sock`, method, path, headers }, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => {
        const isJson = (response.headers['content-type'] ?? '').includes('json');
        resolve({ status: response.statusCode ?? 0, body: (isJson ? JSON.parse(text) : text) as T });
      });
    });
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

const create = (name: string, body: object = { hub: 'lab' }) => call<NicView>('PUT', `/v1/nics/${name}`, body);
const set = (name: string, body: object) => call<NicView>('PATCH', `/v1/nics/${name}`, body);
const show = async (name: string) => (await call<NicView>('GET', `/v1/nics/${name}`)).body;
const attach = (vm: string, host: string, ...nics: object[]) =>
  call<VmView>('POST', '/v1/attachments', { vm, host, nics });
const rows = async () => (await tellEngine(dir.dir, 'nic.list')) as NicRow[];

async function refused(answer: Promise<Answer<unknown>>, status: number, code: string, detail: RegExp, hint = /./) {
  const { body, status: got } = await answer;
  const problem = body as Problem;
  assert.deepEqual([got, problem.code], [status, code], JSON.stringify(body));
  assert.match(problem.detail, detail);
  assert.match(problem.hint, hint);
}

async function documents(): Promise<{ devices: Record<string, unknown>[] }[]> {
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: { document: string } }[];
  return log.filter(({ cmd }) => cmd === 'document.set').map(({ args }) => JSON.parse(args.document));
}

async function report(...devices: Partial<ReportEntry>[]): Promise<void> {
  const full = devices.map((device) => ({ id: 1, state: 'running', reason: '', socket: '/s', ...device }));
  const document = JSON.stringify({ version: 1, host: 'h1', agentVersion: '1', devices: full });
  await emit(dir.dir, { event: 'host.report', data: { host: 'h1', document } });
}

test('a NIC has an address of its own making, which is the same whenever it is made', async () => {
  const { status, body } = await create('nic1');
  assert.equal(status, 201);
  assert.match(body.mac, /^52:54:00:/);
  assert.deepEqual([body.mtu, body.spoof_check, body.link, body.state], [1500, true, 'up', 'ready']);
  assert.equal((await create('nic1')).status, 200);
  assert.equal((await call('DELETE', '/v1/nics/nic1')).status, 204);
  await refused(call('GET', '/v1/nics/nic1'), 404, 'nic_not_found', /no NIC nic1/, /known NICs: none yet/);
  assert.equal((await create('nic1')).body.mac, body.mac);
});

test('a NIC that makes no sense is refused', async () => {
  const wrong = (body: object, detail: RegExp) => refused(create('nic1', body), 400, 'invalid_request', detail);
  await wrong({}, /needs one of: bridge and\/or tap, macvtap, hub/);
  await wrong({ hub: 'lab', bridge: 'br0' }, /needs one of/);
  await wrong({ hub: 'lab', mac: '01:00:5e:00:00:01' }, /multicast address/);
  await wrong({ hub: 'lab', mac: '00:00:00:00:00:00' }, /not an address/);
  await wrong({ hub: 'lab', mac: 'here' }, /mac/);
  await wrong({ hub: 'lab', mtu: 67 }, /mtu/);
  await wrong({ hub: 'lab', addresses: ['10.0.0.5/24'] }, /within a network: say 10\.0\.0\.5/);
  await wrong({ hub: 'lab', addresses: ['10.0.0'] }, /10\.0\.0 is not an address/);
  await wrong({ hub: 'lab', addresses: ['10.0.0.0/33'] }, /not an address/);
  await wrong({ hub: 'lab', addresses: ['fe80::1%eth0'] }, /not an address/);
  const many = Array.from({ length: 17 }, (_, i) => `10.0.0.${i}`);
  await wrong({ hub: 'lab', addresses: many }, /17 addresses are too many/);
  await wrong({ hub: 'lab', rate: { tx: { bits_per_s: 7 } } }, /bits_per_s/);
  await refused(create('nic1', { bridge: 'nobridge0' }), 422, 'bridge_not_found', /no bridge nobridge0/, /ip link add/);
  await refused(create('nic1', { macvtap: { parent: 'noparent0' } }), 422, 'parent_not_found', /noparent0/);
  await refused(create('nic1', { tap: 'lo' }), 422, 'interface_unsuitable', /lo is not a tap/);
  assert.deepEqual((await call<NicView[]>('GET', '/v1/nics')).body, []);
});

test('addresses are kept in one way of writing', async () => {
  const addresses = ['2001:DB8:0:0::5', '10.0.0.0/24', '2001:db8::5', '::ffff:10.0.0.1', '2001:db8:1::/48'];
  const { body } = await create('nic1', { hub: 'lab', addresses });
  assert.deepEqual(body.addresses, ['10.0.0.0/24', '2001:db8:1::/48', '2001:db8::5', '::ffff:a00:1']);
});

test('two NICs share neither name nor address', async () => {
  const { mac } = (await create('nic1')).body;
  await refused(create('nic1', { hub: 'other' }), 409, 'nic_exists', /its hub is lab, not other/, /nic show nic1/);
  await refused(create('nic1', { hub: 'lab', mtu: 9000 }), 409, 'nic_exists', /its mtu is 1500, not 9000/);
  await refused(create('nic2', { hub: 'lab', mac }), 409, 'nic_mac_taken', /is the address of the NIC nic1/);
});

test('an attached NIC is opened, then its host hears of it', async () => {
  await create('nic1', { hub: 'lab', mtu: 9000, rate: { tx: { bits_per_s: 8e6 }, rx: { packets_per_s: 500 } } });
  const { status, body } = await attach('web', 'h1', { nic: 'nic1', queues: 2, qmp: '/run/web.qmp' });
  assert.equal(status, 201);
  const { mac } = await show('nic1');
  assert.deepEqual(
    body.nics.map(({ nic, queues, qmp, state, socket }) => ({ nic, queues, qmp, state, socket })),
    [
      {
        ...{ nic: 'nic1', queues: 2, qmp: '/run/web.qmp', state: 'pending' },
        socket: '/run/outrigger/vhost/web/nic1.nic',
      },
    ],
  );
  assert.deepEqual((await commandsOf(dir.dir)).slice(-2), ['nic.open', 'document.set']);
  const limit = (changes: object) => ({ bytesPerS: 0, bytesBurst: 0, opsPerS: 0, opsBurst: 0, ...changes });
  assert.deepEqual((await documents()).at(-1)?.devices, [
    {
      ...{ kind: 'net', id: 1, generation: 1, vm: 'web', nic: 'nic1', mac, mtu: 9000, queues: 2, linkUp: true },
      ...{ limit: limit({ bytesPerS: 1e6 }), qmp: '/run/web.qmp' },
    },
  ]);
  const [row] = await rows();
  assert.deepEqual([row?.host, row?.hub, row?.mac, row?.limit], ['h1', 'lab', mac, limit({ opsPerS: 500 })]);
  assert.equal((await attach('web', 'h1', { nic: 'nic1', queues: 2, qmp: '/run/web.qmp' })).status, 200);
  const { state, attachment, counters } = await show('nic1');
  assert.deepEqual([state, attachment?.vm, attachment?.state], ['open', 'web', 'pending']);
  assert.equal((counters as unknown as NicRow['stats'] & { tx: { packets: number } }).tx.packets, 3);
});

test('disks and NICs share ids, and a VM is on one host with both', async () => {
  await call<VolumeView>('PUT', '/v1/volumes/d1', { size: 1 << 20 });
  await create('nic1');
  await create('d1');
  const body = { vm: 'web', host: 'h1', disks: [{ volume: 'd1' }], nics: [{ nic: 'd1' }] };
  const { body: vm } = await call<VmView>('POST', '/v1/attachments', body);
  assert.deepEqual([vm.disks[0]?.id, vm.nics[0]?.id], [1, 2]);
  assert.notEqual(vm.disks[0]?.socket, vm.nics[0]?.socket, 'though they have the same name');
  await refused(attach('web', 'h2', { nic: 'nic1' }), 409, 'vm_on_other_host', /web is on h1/);
  await refused(attach('web', 'h1', { nic: 'nic9' }), 404, 'nic_not_found', /no NIC nic9/, /d1, nic1/);
  await refused(attach('web', 'h1'), 400, 'invalid_request', /nothing to attach/);
  await refused(attach('db', 'h1', { nic: 'd1' }), 409, 'nic_busy', /attached to the VM web/, /detach web --nic d1/);
  await refused(attach('web', 'h1', { nic: 'd1', queues: 4 }), 409, 'nic_busy', /queues 1/);
  await refused(call('DELETE', '/v1/nics/d1'), 409, 'nic_in_use', /attached to web/, /outrigger detach web --nic d1/);
  await refused(
    call('DELETE', '/v1/attachments/web/nics/nic1'),
    404,
    'nic_not_attached',
    /web has no NIC nic1/,
    /NICs of web: d1/,
  );
  const { body: status } = await call<IohvStatus>('GET', '/v1/status');
  assert.ok(status.problems.includes('host h1 is not connected and has 1 disk and 1 NIC'));
  assert.equal(status.nics.length, 2);
});

test('rate, link, addresses and the check are set while the NIC is open', async () => {
  await create('nic1');
  await attach('web', 'h1', { nic: 'nic1' });
  const change = { link: 'down', addresses: ['10.0.0.5'], rate: { rx: { bits_per_s: 8000, burst_bytes: 3000 } } };
  const { body } = await set('nic1', change);
  assert.deepEqual([body.link, body.addresses, body.rate.rx.bits_per_s], ['down', ['10.0.0.5'], 8000]);
  const changed = async () => (await rows())[0];
  await until('the engine follows', async () => (await changed())?.linkUp === false);
  assert.deepEqual((await changed())?.addresses, ['10.0.0.5']);
  assert.deepEqual((await changed())?.limit, { bytesPerS: 1000, bytesBurst: 3000, opsPerS: 0, opsBurst: 0 });
  assert.equal((await documents()).at(-1)?.devices[0]?.linkUp, false);
  await set('nic1', { rate: { rx: { packets_per_s: 5 } } });
  assert.equal((await show('nic1')).rate.rx.bits_per_s, 8000, 'what is not told stays');
  await set('nic1', { rate: { rx: { bits_per_s: 0 } }, spoof_check: false });
  assert.equal((await show('nic1')).rate.rx.burst_bytes, 0, 'no burst without a rate');
  await until('no check', async () => (await changed())?.spoofCheck === false);
  assert.equal((await commandsOf(dir.dir)).filter((cmd) => cmd === 'nic.open').length, 1);
  await refused(set('nic1', {}), 400, 'invalid_request', /./);
  await refused(set('nic9', { link: 'up' }), 404, 'nic_not_found', /nic9/);
});

test('the engine hears what the guest negotiated and wants to receive', async () => {
  await create('nic1');
  await attach('web', 'h1', { nic: 'nic1' });
  const filter = { promiscuous: true, allMulticast: false, macs: ['52:54:00:00:00:01'] };
  await report({ features: '0x100000000000182', filter });
  await until('the features', async () => (await rows())[0]?.features === '0x100000000000182');
  assert.deepEqual((await rows())[0]?.filter, filter);
  assert.equal((await call<VmView>('GET', '/v1/vms/web')).body.nics[0]?.features, '0x100000000000182');
  await report({ state: 'listening', features: '0x0' });
  await until('none', async () => (await rows())[0]?.features === '0x0' && (await rows())[0]?.filter === null);
});

test('a NIC that a guest uses is detached by force only, after its host was told', async () => {
  await create('nic1');
  await attach('web', 'h1', { nic: 'nic1' });
  await report({});
  await until('running', async () => (await show('nic1')).attachment?.state === 'running');
  await refused(call('DELETE', '/v1/attachments/web/nics/nic1'), 409, 'device_running', /web's NIC nic1/, /--force/);
  await refused(call('DELETE', '/v1/vms/web'), 409, 'device_running', /NIC nic1/);
  assert.equal((await call('DELETE', '/v1/attachments/web/nics/nic1?force=true')).status, 204);
  assert.deepEqual((await commandsOf(dir.dir)).slice(-2), ['document.set', 'nic.close']);
  assert.equal((await show('nic1')).state, 'ready');
  await attach('db', 'h2', { nic: 'nic1' });
  assert.deepEqual(
    (await rows()).map(({ id, generation, host }) => [id, generation, host]),
    [[2, 2, 'h2']],
  );
});

test('a NIC that the engine cannot open says so and hinders no other', async () => {
  await create('bad1');
  await create('nic1');
  await attach('web', 'h1', { nic: 'bad1' }, { nic: 'nic1' });
  const { state, reason } = await show('bad1');
  assert.deepEqual([state, reason], ['failed', 'bad1 cannot be opened']);
  assert.equal((await show('nic1')).state, 'open');
  const { body } = await call<IohvStatus>('GET', '/v1/status');
  assert.ok(body.problems.includes('NIC bad1: bad1 cannot be opened'));
  assert.equal((await documents()).at(-1)?.devices.length, 2, 'the host has both');
});

test('a NIC whose interface went is closed and opened anew', async () => {
  await create('nic1');
  await attach('web', 'h1', { nic: 'nic1' });
  await tellEngine(dir.dir, 'test.gone', { id: 1 });
  await until('opened anew', async () => (await commandsOf(dir.dir)).filter((cmd) => cmd === 'nic.open').length === 2);
  assert.equal((await rows())[0]?.gone, false);
});

test('a dead engine is replaced and gets its hosts back with their NICs', async () => {
  await create('nic1');
  await create('bad1');
  await set('nic1', { link: 'down' });
  await attach('web', 'h1', { nic: 'nic1' }, { nic: 'bad1' });
  process.kill(life.supervisor.engineStatus().pid ?? 0, 'SIGKILL');
  await until('another engine', () => life.supervisor.engineStatus().deaths === 1);
  await until('open again', async () => (await rows().catch(() => []))[0]?.name === 'nic1');
  assert.equal((await rows())[0]?.linkUp, false);
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: { nics?: { name: string }[] } }[];
  const added = log.find(({ cmd, args }) => cmd === 'host.add' && args.nics?.length);
  assert.deepEqual(
    added?.args.nics?.map(({ name }) => name),
    ['nic1', 'bad1'],
    'no NIC is missing when the host may connect',
  );
});

test('a supervisor that comes back leaves the open NICs alone', async () => {
  await create('nic1');
  await attach('web', 'h1', { nic: 'nic1' });
  const { pid } = life.supervisor.engineStatus();
  await life.supervisor.stop(true);
  await life.end().catch(() => {});
  life = await beginIohv(dir);
  await until('adopted', () => life.supervisor.engineStatus().state === 'running');
  await until('known', async () => (await show('nic1')).state === 'open');
  assert.equal(life.supervisor.engineStatus().pid, pid);
  assert.equal((await commandsOf(dir.dir)).filter((cmd) => cmd === 'nic.open').length, 1);
});

test('an engine of a build without NICs serves on, and its NICs say what they wait for', async () => {
  dir.file('without-nics', '');
  process.kill(life.supervisor.engineStatus().pid ?? 0, 'SIGKILL');
  await until(
    'it runs',
    () => life.supervisor.engineStatus().deaths === 1 && life.supervisor.engineStatus().state === 'running',
  );
  assert.equal((await call<VolumeView>('PUT', '/v1/volumes/d1', { size: 1 << 20 })).body.state, 'open');
});

test('the rate of a volume is told to its host', async () => {
  await call<VolumeView>('PUT', '/v1/volumes/d1', { size: 1 << 20, rate: { iops: 100 } });
  await call('POST', '/v1/attachments', { vm: 'web', host: 'h1', disks: [{ volume: 'd1' }] });
  const { body } = await call<VolumeView>('PATCH', '/v1/volumes/d1', { rate: { bytes_per_s: 4096 } });
  assert.deepEqual(body.rate, { bytes_per_s: 4096, burst_bytes: 0, iops: 100, burst_ops: 0 });
  const limit = { bytesPerS: 4096, bytesBurst: 0, opsPerS: 100, opsBurst: 0 };
  assert.deepEqual((await documents()).at(-1)?.devices[0]?.limit, limit);
  await call('PATCH', '/v1/volumes/d1', { rate: { iops: 0, bytes_per_s: 0 } });
  assert.ok(!('limit' in ((await documents()).at(-1)?.devices[0] ?? {})), 'an older host agent hears nothing new');
  await refused(call('PATCH', '/v1/volumes/d1', {}), 400, 'invalid_request', /./);
});

test('metrics have every NIC, by direction and reason of drops', async () => {
  await create('nic1');
  await attach('web', 'h1', { nic: 'nic1' });
  const { body } = await call<string>('GET', '/metrics');
  for (const line of [
    'outrigger_nic_open{nic="nic1"} 1',
    'outrigger_nic_tx_packets{nic="nic1"} 3',
    'outrigger_nic_tx_dropped{nic="nic1",reason="spoofed"} 2',
    'outrigger_host_nics{host="h1"} 1',
  ]) {
    assert.ok(body.includes(`${line}\n`), line);
  }
});
