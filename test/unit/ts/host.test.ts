// The host agent's supervisor against a child process that speaks the engine's protocol.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, statSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import { HostViews } from '../../../src/api/host-views.js';
import type { DeviceEntry, DiskEntry, NetEntry, ReportDocument } from '../../../src/supervisor/documents.js';
import { HostSupervisor } from '../../../src/supervisor/host-supervisor.js';
import type { DeviceArgs, EngineEvent } from '../../../src/supervisor/protocol.js';
import {
  doubleSettings,
  emit as emitTo,
  type Scratch,
  scratch,
  silent,
  tellEngine as tellEngineOf,
  until,
} from './support.js';

let dir: Scratch;
let supervisor: HostSupervisor;
const emit = (runDir: string, event: EngineEvent) => emitTo(runDir, event, 'host');
const tellEngine = (runDir: string, cmd: string) => tellEngineOf(runDir, cmd, {}, 'host');
const socketOf = (disk: string) => `${dir.dir}/vhost/web/${disk}.sock`;

beforeEach(async () => {
  dir = scratch();
  supervisor = new HostSupervisor({
    ...{ name: 'h1', version: '0.1.0', socketDir: `${dir.dir}/vhost`, log: silent },
    socketAccess: { mode: 0o660, groupId: process.getgid?.() ?? 0 },
    engine: doubleSettings(dir.dir, {
      role: 'host',
      port: { interfaces: ['lo'], mtu: 0, ethertype: 0x88b5 },
      worker: { cpu: null, nice: 0, spinUs: 0 },
      host: { name: 'h1', keyBase64: '', serverMacs: ['02:00:00:00:00:01'], integrityMin: 'mac' },
    }),
    openKeep: () => ({ devices: () => [], close() {} }),
  });
  supervisor.start();
  await until('the engine runs', () => supervisor.engineStatus().state === 'running');
});

afterEach(async () => {
  await supervisor.stop();
  dir.remove();
});

function device(id: number, changes: Partial<DiskEntry> = {}): DiskEntry {
  const disk = `d${id}`;
  return {
    ...{ id, generation: id, vm: 'web', disk, volume: disk, size: 1 << 20, blockSize: 512, physicalBlockSize: 4096 },
    ...{ queues: 1, readOnly: false, discard: true, writeZeroes: true, serial: disk, ...changes },
  };
}

async function announce(version: number, ...devices: DeviceEntry[]): Promise<void> {
  await emit(dir.dir, { event: 'session.up', data: {} });
  await emit(dir.dir, { event: 'document', data: { document: JSON.stringify({ version, devices }) } });
}

const devices = async () => (await tellEngine(dir.dir, 'devices')) as DeviceArgs[];
const hasIds = (...ids: number[]) =>
  until(`devices ${ids}`, async () => String((await devices()).map(({ id }) => id).sort()) === String(ids));

async function reports(): Promise<ReportDocument[]> {
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: { document: string } }[];
  return log.filter(({ cmd }) => cmd === 'report.put').map(({ args }) => JSON.parse(args.document) as ReportDocument);
}

test('devices appear because the I/O hypervisor says so, with sockets that the group may use', async () => {
  assert.deepEqual(await devices(), []);
  await announce(1, device(1));
  await hasIds(1);
  await until('the socket is open to the group', () => (statSync(socketOf('d1')).mode & 0o777) === 0o660);
  assert.equal(statSync(`${dir.dir}/vhost/web`).mode & 0o777, 0o755);
});

test('devices that are no longer announced go, with their sockets and folders', async () => {
  await announce(1, device(1), device(2));
  await hasIds(1, 2);
  await announce(2, device(2));
  await hasIds(2);
  await until('the socket is gone', () => !existsSync(socketOf('d1')));
  assert.ok(existsSync(socketOf('d2')));
  await announce(3);
  await until('the folder is gone', () => !existsSync(`${dir.dir}/vhost/web`));
});

test('a device that another worker serves from now on keeps its socket', async () => {
  await announce(1, device(1));
  await hasIds(1);
  await announce(2, device(1, { worker: 2, placement: 4 }));
  await until('the engine knows the worker', async () => (await devices())[0]?.worker === 2);
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: object }[];
  assert.deepEqual(
    log.filter(({ cmd }) => /device\.(set|remove)/.test(cmd)).map(({ args }) => args),
    [{ id: 1, worker: 2, placement: 4 }],
  );
});

test('a device with a new generation is made anew', async () => {
  await announce(1, device(1));
  await hasIds(1);
  await announce(2, device(1, { generation: 7 }));
  await until('generation 7', async () => (await devices())[0]?.generation === 7);
});

test('the I/O hypervisor hears of every change, and again when it comes back', async () => {
  await announce(1, device(1));
  const first = await until('a report', async () => (await reports()).find((r) => r.devices.length === 1));
  assert.deepEqual([first.host, first.agentVersion], ['h1', '0.1.0']);
  assert.deepEqual(first.devices, [{ id: 1, state: 'listening', reason: '', socket: socketOf('d1') }]);
  await emit(dir.dir, { event: 'device.state', data: { id: 1, state: 'broken', reason: 'no shared memory' } });
  const last = await until('the change', async () => (await reports()).find((r) => r.devices[0]?.state === 'broken'));
  assert.equal(last.devices[0]?.reason, 'no shared memory');
  const count = (await reports()).length;
  await emit(dir.dir, { event: 'session.down', data: { reason: 'cable' } });
  await emit(dir.dir, { event: 'session.up', data: {} });
  await until('once more', async () => (await reports()).length > count);
});

test('a document that is not one is refused and changes nothing', async () => {
  await announce(1, device(1));
  await hasIds(1);
  for (const document of [
    'not JSON',
    '{"version":2}',
    JSON.stringify({ version: 2, devices: [device(2, { vm: '../../etc' })] }),
  ]) {
    await emit(dir.dir, { event: 'document', data: { document } });
  }
  await announce(3, device(1), device(3));
  await hasIds(1, 3);
  assert.ok(!existsSync(`${dir.dir}/etc`));
});

test('a socket path that does not fit is reported, and the other devices work', async () => {
  const long = 'x'.repeat(60);
  await announce(1, device(1, { vm: long, disk: long }), device(2));
  const report = await until('both are reported', async () => (await reports()).find((r) => r.devices.length === 2));
  assert.match(report.devices.find(({ id }) => id === 1)?.reason ?? '', /more than 106 bytes.*shorter socket_dir/);
  await hasIds(2);
});

test('a dead engine is replaced and gets its devices back before the I/O hypervisor speaks again', async () => {
  await announce(1, device(1));
  await hasIds(1);
  const { pid } = supervisor.engineStatus();
  process.kill(pid ?? 0, 'SIGKILL');
  await until('another engine', () => {
    const now = supervisor.engineStatus();
    return now.state === 'running' && now.pid !== pid;
  });
  await hasIds(1);
});

test('a device that a dead engine left is restored on its socket as it is', async () => {
  await announce(1, device(1));
  await hasIds(1);
  await until('the socket is open to the group', () => (statSync(socketOf('d1')).mode & 0o777) === 0o660);
  chmodSync(socketOf('d1'), 0o600); // what is made anew gets its mode anew
  process.kill(supervisor.engineStatus().pid ?? 0, 'SIGKILL');
  await until('another engine', () => supervisor.engineStatus().deaths === 1);
  await until('device 1', async () => String((await devices().catch(() => [])).map(({ id }) => id)) === '1');
  await announce(2, device(1), device(2)); // so that the step for device 1 is over
  await hasIds(1, 2);
  assert.equal(statSync(socketOf('d1')).mode & 0o777, 0o600);
});

test('the counters are those of the engine and of every disk', async () => {
  await announce(1, device(1));
  await hasIds(1);
  const stats = await until('the disk counts', async () => {
    const all = await supervisor.stats();
    return JSON.stringify(all.devices) !== '{}' && all;
  });
  assert.deepEqual(stats.devices, { 'web/d1': { reads: 5 } });
  assert.deepEqual(stats.server, { requests: 7, refused: { digest: 2 } });
});

test('the status tells what is wrong', async () => {
  const views = new HostViews('h1', supervisor, {
    version: '1',
    interfaces: ['lo'],
    mode: 'packet' as const,
    startedAt: performance.now(),
  });
  await emit(dir.dir, { event: 'session.down', data: { reason: 'no answer' } });
  await until('down', () => supervisor.sessionStatus().reason === 'no answer');
  assert.deepEqual((await views.status()).problems, ['no session with the I/O hypervisor: no answer']);
  await announce(1, device(1));
  await until('listening', () => views.vms()[0]?.disks[0]?.state === 'listening');
  assert.deepEqual((await views.status()).problems, []);
  assert.equal(views.vm('web').disks[0]?.socket, socketOf('d1'));
  assert.throws(() => views.vm('db'), /no VM db on this host/);
});

const nicEntry: NetEntry = {
  ...{ kind: 'net', id: 7, generation: 7, vm: 'web', nic: 'd1', mac: '52:54:00:00:00:01', mtu: 9000 },
  ...{ queues: 2, linkUp: true },
};

test('NICs appear beside disks, change under their guests, and report what these negotiated', async () => {
  await announce(1, device(1), nicEntry);
  await hasIds(1, 7);
  const of = async (id: number) => (await devices()).find((other) => other.id === id);
  const { kind, socket } = (await of(7)) ?? assert.fail();
  assert.deepEqual([kind, socket], ['net', `${dir.dir}/vhost/web/d1.nic`]);
  const limit = { bytesPerS: 1, bytesBurst: 2, opsPerS: 3, opsBurst: 4 };
  await announce(2, device(1, { limit }), { ...nicEntry, linkUp: false, limit });
  await until('changed', async () => JSON.stringify((await of(7))?.limit) === JSON.stringify(limit));
  await until('the disk too', async () => JSON.stringify((await of(1))?.limit) === JSON.stringify(limit));
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: object }[];
  const sets = log.filter(({ cmd }) => cmd === 'device.set').map(({ args }) => args);
  assert.ok(
    sets.some((args) => JSON.stringify(args) === JSON.stringify({ id: 1, limit })),
    JSON.stringify(sets),
  );
  const state = { id: 7, state: 'running', reason: '', features: '0x182' } as const;
  await emit(dir.dir, { event: 'device.state', data: state });
  const last = await until('the report', async () =>
    (await reports()).find((report) => report.devices.some(({ features }) => features === '0x182')),
  );
  assert.equal(last.devices.find(({ id }) => id === 7)?.state, 'running');
  const views = new HostViews('h1', supervisor, {
    version: '1',
    interfaces: ['lo'],
    mode: 'packet' as const,
    startedAt: performance.now(),
  });
  const [nic] = views.vm('web').nics;
  assert.deepEqual([nic?.nic, nic?.link, nic?.features, nic?.mtu], ['d1', 'down', '0x182', 9000]);
  assert.deepEqual((await supervisor.stats()).nics, { 'web/d1': { txPackets: 4 } });
  await announce(3, device(1));
  await hasIds(1);
  await until('its socket is gone', () => !existsSync(`${dir.dir}/vhost/web/d1.nic`));
});
