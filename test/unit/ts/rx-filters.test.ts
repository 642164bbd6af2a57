// The host agent at QEMU's monitor: a QEMU of the tests' own that speaks QMP over a real unix socket. The real one is
// tested in test/integration.
import assert from 'node:assert/strict';
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, test } from 'node:test';
import type { NetEntry } from '../../../src/supervisor/documents.js';
import { RxFilters, toFilter } from '../../../src/supervisor/rx-filters.js';
import { type Scratch, scratch, until } from './support.js';

const entry = {
  ...{ name: 'outrigger.nic.nic1', promiscuous: false, unicast: 'normal', multicast: 'normal' },
  ...{ 'unicast-overflow': false, 'multicast-overflow': false, 'main-mac': '52:54:00:00:00:01' },
  ...{ 'unicast-table': [] as string[], 'multicast-table': ['01:00:5E:00:00:01'] },
  ...{ vlan: 'all', 'vlan-table': [0], 'broadcast-allowed': true },
} as const;
type Entry = Parameters<typeof toFilter>[0];

let dir: Scratch;
let server: Server | undefined;
let sockets: Socket[];
let filters: RxFilters;
let changes: number;
let failures: string[];
let answer: unknown;
let greeting: string;
let questions: number;
const path = () => `${dir.dir}/qmp.sock`;
const nic = (name: string, mac = '52:54:00:00:00:01'): NetEntry => ({
  ...{ kind: 'net', id: 1, generation: 1, vm: 'web', nic: name, mac, mtu: 1500, queues: 1, linkUp: true, qmp: path() },
});

function startQemu(): Promise<void> {
  server = createServer((socket) => {
    sockets.push(socket);
    socket.write(greeting);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().trim().split('\n')) {
        const isQuestion = line.includes('query-rx-filter');
        questions += Number(isQuestion);
        socket.write(`${JSON.stringify({ return: isQuestion ? answer : {} })}\n`);
      }
    });
  });
  return new Promise((resolve) => server?.listen(path(), resolve));
}

const say = (event: string) => sockets.at(-1)?.write(`${JSON.stringify({ event, data: {} })}\n`);

beforeEach(() => {
  dir = scratch();
  sockets = [];
  [changes, questions, failures] = [0, 0, []];
  answer = [entry];
  greeting = '{"QMP": {"version": {}, "capabilities": []}}\n';
  filters = new RxFilters({
    onChange: () => {
      changes++;
    },
    onFailure: (_, reason) => failures.push(reason),
  });
});

afterEach(() => {
  filters.stop();
  sockets.forEach((socket) => {
    socket.destroy();
  });
  server?.close();
  dir.remove();
});

test('the filter of a NIC is what QEMU says, and follows its changes', async () => {
  await startQemu();
  filters.follow([nic('nic1')]);
  await until('known', () => changes === 1);
  const macs = ['01:00:5e:00:00:01', '52:54:00:00:00:01'];
  assert.deepEqual(filters.filterOf(nic('nic1')), { promiscuous: false, allMulticast: false, macs });
  answer = [{ ...entry, promiscuous: true }];
  say('NIC_RX_FILTER_CHANGED');
  await until('promiscuous', () => filters.filterOf(nic('nic1'))?.promiscuous);
  say('RESUME');
  say('NIC_RX_FILTER_CHANGED');
  await until('asked again', () => questions === 3);
  assert.equal(changes, 2, 'the same answer is no change');
});

test('a NIC that has another id in QEMU is known by its address, unless two have it', async () => {
  answer = [{ ...entry, name: 'net0' }];
  await startQemu();
  filters.follow([nic('nic1')]);
  await until('known', () => filters.filterOf(nic('nic1')));
  assert.equal(filters.filterOf(nic('nic1', '52:54:00:00:00:02')), undefined);
  answer = [
    { ...entry, name: 'net0' },
    { ...entry, name: 'net1' },
  ];
  say('NIC_RX_FILTER_CHANGED');
  await until('doubtful', () => filters.filterOf(nic('nic1')) === undefined);
});

test('a QEMU that comes, goes and comes again is found', async () => {
  filters.follow([nic('nic1')]);
  await until('told', () => failures.length === 1);
  await startQemu();
  await until('known', () => filters.filterOf(nic('nic1')));
  sockets.at(-1)?.destroy();
  await until('the default filter', () => filters.filterOf(nic('nic1')) === undefined);
  await until('known again', () => filters.filterOf(nic('nic1')));
});

test('what is not a QEMU gets nothing from us', async () => {
  for (const [text, reason] of [
    ['SSH-2.0\n', /no JSON/],
    ['{"hello": 1}\n', /no greeting/],
    ['{"event": "X"}\n', /no greeting/],
  ] as const) {
    greeting = text;
    await startQemu();
    let heard = '';
    server?.on('connection', (socket) => socket.on('data', (chunk) => (heard += chunk)));
    filters.follow([nic('nic1')]);
    await until(`refused: ${text}`, () => failures.some((failure) => reason.test(failure)));
    assert.equal(heard, '');
    filters.stop();
    await new Promise((resolve) => server?.close(resolve));
  }
});

test('an answer of another form is refused', async () => {
  answer = [{ ...entry, 'main-mac': 7 }];
  await startQemu();
  filters.follow([nic('nic1')]);
  await until('refused', () => failures.some((failure) => /does not know/.test(failure)));
  assert.equal(filters.filterOf(nic('nic1')), undefined);
});

test('more addresses than can be told one by one become all', () => {
  const many = Array.from({ length: 200 }, (_, i) => `02:00:00:00:00:${i.toString(16).padStart(2, '0')}`);
  const full = { ...entry, 'unicast-table': many, 'multicast-table': [] } as unknown as Entry;
  assert.deepEqual(toFilter(full), { promiscuous: true, allMulticast: true, macs: [] });
  const none = { ...entry, unicast: 'none', multicast: 'none' } as unknown as Entry;
  assert.deepEqual(toFilter(none), { promiscuous: false, allMulticast: false, macs: [] });
  const all = { ...entry, unicast: 'all', 'multicast-overflow': true } as unknown as Entry;
  assert.deepEqual([toFilter(all).promiscuous, toFilter(all).allMulticast], [true, true]);
});
