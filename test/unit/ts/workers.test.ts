// Several workers as one engine: src/engine/iohv-commands.ts.
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { nativeConfigs } from '../../../src/engine/commands.js';
import { Gate } from '../../../src/engine/gate.js';
import { IohvCommands, isOfEngine } from '../../../src/engine/iohv-commands.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { CommandName, EngineCommands, EngineConfig, EngineEvent } from '../../../src/supervisor/protocol.js';
import { Shelf, WorkerDouble } from './worker-double.js';

const WORKERS = 3;
let workers: WorkerDouble[];
let events: EngineEvent[];
let commands: IohvCommands;

beforeEach(() => {
  const shelf = new Shelf();
  workers = Array.from({ length: WORKERS }, () => new WorkerDouble(shelf));
  events = [];
  commands = new IohvCommands(workers, (event) => events.push(event));
});

async function ask<C extends CommandName>(command: C, args: EngineCommands[C]['args']) {
  const handler = commands.handlers[command] as (args: unknown) => unknown;
  return (await handler(args)) as EngineCommands[C]['result'];
}

const open = (name: string, worker: number, placement = 0) =>
  ask('volume.open', {
    ...({ name, kind: 'ram', size: 4096, blockSize: 512, readOnly: false, flushFailed: false } as const),
    ...{ worker, placement },
  });
const row = (id: number, volume: string, pending = false, worker = 0) => ({
  ...{ id, generation: id, volume, readOnly: false, pending, worker, host: 'h1' },
});
const addHost = (exports: ReturnType<typeof row>[] = [], nics: EngineCommands['host.add']['args']['nics'] = []) =>
  ask('host.add', { name: 'h1', keyBase64: 'AAAA', keyId: 'k', exports, nics });
const nic = (id: number, worker: number) => ({
  ...{ id, generation: id, name: `n${id}`, kind: 'tap' as const, interface: `tap${id}`, hub: null, worker },
  ...{ mac: '52:54:00:00:00:01', mtu: 1500, addresses: [], spoofCheck: true, limit: NO_LIMIT, linkUp: true },
});
/** Of each worker, where it takes the export to be. */
const places = (id: number) =>
  workers.map(({ exports }) => {
    const state = exports.get(id);
    return state === undefined ? 'unknown' : state.here ? (state.pending ? 'pending' : 'here') : 'elsewhere';
  });
const numbers = (id: number) => workers.map(({ exports }) => exports.get(id)?.placement);
const owners = (volume: string) => workers.map(({ volumes }) => volumes.has(volume));
const listed = async (volume: string) => (await ask('volume.list', {})).find(({ name }) => name === volume)?.worker;

describe('an engine with several workers', () => {
  test('lets a host in when each knows all its exports, and which are elsewhere; the first worker last', async () => {
    await open('v1', 1);
    await open('v2', 2);
    const order: string[] = [];
    workers.forEach((worker, number) => {
      worker.refuse = (command) => {
        order.push(`${number} ${command}`);
        return false;
      };
    });
    await addHost([row(1, 'v1'), row(2, 'v2'), row(3, 'v3', true, 1)]);
    assert.deepEqual(places(1), ['elsewhere', 'here', 'elsewhere']);
    assert.deepEqual(places(2), ['elsewhere', 'elsewhere', 'here']);
    assert.deepEqual(places(3), ['elsewhere', 'pending', 'elsewhere']);
    const firstAdmission = order.findIndex((line) => line.endsWith('host.admit'));
    assert.ok(
      order.slice(firstAdmission).every((line) => line.endsWith('host.admit')),
      order.join(),
    );
    assert.equal(order.at(-1), '0 host.admit');
  });

  test('adds a host that it could not add everywhere at first', async () => {
    const [, second] = workers as [WorkerDouble, WorkerDouble];
    second.refuse = (command) => command === 'host.add';
    await assert.rejects(addHost(), { code: 'ENOMEM' });
    second.refuse = () => false;
    await addHost();
    assert.ok(workers.every(({ hosts }) => hosts.get('h1')?.admitted));
  });

  test('shows a host once, with what it does at all of them', async () => {
    await addHost();
    const [host] = await ask('hosts', {});
    assert.deepEqual([host?.requests, host?.inFlight, host?.workers], [9, 3, [true, true, true]]);
  });

  test('has an export with the worker that has its volume, whatever it is told', async () => {
    await open('v1', 2);
    await addHost();
    await ask('export.add', row(1, 'v1', false, 0));
    assert.deepEqual(places(1), ['elsewhere', 'elsewhere', 'here']);
  });

  test('serves an export that waited for its volume where that was opened', async () => {
    await addHost([row(1, 'v1', true, 1)]);
    await open('v1', 2);
    await ask('export.add', row(1, 'v1', false, 2));
    assert.deepEqual(places(1), ['elsewhere', 'elsewhere', 'here']);
  });

  test('removes an export and a host everywhere, and says when there was none anywhere', async () => {
    await open('v1', 1);
    await addHost([row(1, 'v1')]);
    workers[2]?.exports.delete(1); // an earlier removal got so far
    await ask('export.remove', { id: 1 });
    assert.deepEqual(places(1), ['unknown', 'unknown', 'unknown']);
    await assert.rejects(ask('export.remove', { id: 1 }), { code: 'ENOENT' });
    await ask('host.remove', { name: 'h1' });
    await assert.rejects(ask('host.remove', { name: 'h1' }), { code: 'ENOENT' });
  });

  test('opens, changes and closes a NIC at its worker', async () => {
    await addHost([], [nic(1, 2)]);
    assert.deepEqual(
      workers.map(({ nics }) => nics.size),
      [0, 0, 1],
    );
    await ask('nic.set', { id: 1, linkUp: false });
    assert.deepEqual(
      (await ask('nic.list', {})).map(({ name, worker, linkUp }) => ({ name, worker, linkUp })),
      [{ name: 'n1', worker: 2, linkUp: false }],
    );
    await ask('nic.close', { id: 1 });
    assert.equal(workers[2]?.nics.size, 0);
  });

  test('tells which worker a load is at', async () => {
    await open('v1', 1);
    await addHost([row(1, 'v1')]);
    const { exports } = await ask('loads', {});
    assert.deepEqual(
      exports.map(({ id, worker }) => [id, worker]),
      [
        [1, 0],
        [1, 1],
        [1, 2],
      ],
    );
  });

  test('opens a volume once for all that ask for the same, and closes it for who asks for something else', async () => {
    const fixed = { name: 'v', kind: 'file', readOnly: false, flushFailed: false, worker: 1 } as const;
    const [head, below] = [
      { path: '/h2', content: 'h2' },
      { path: '/h1', content: 'h1' },
    ] as const;
    const asked: string[] = [];
    for (const worker of workers) {
      worker.refuse = (command) => {
        asked.push(command);
        return false;
      };
    }
    const before = { ...fixed, ...below, layers: [below] };
    const since = { ...fixed, ...head, layers: [head, below] }; // a cut was recorded meanwhile
    const answers = await Promise.all([before, before, since, since].map((args) => ask('volume.open', args)));
    assert.deepEqual(answers[3], answers[2]);
    assert.deepEqual(asked, ['volume.open', 'volume.close', 'volume.open']);
    assert.deepEqual(
      (await ask('volume.list', {})).map(({ content, layers }) => [content, layers]),
      [['h2', [head, below]]],
    );
  });

  test('refuses a worker that it does not have, and touches nothing', async () => {
    await open('v1', 1);
    await addHost([row(1, 'v1')]);
    await assert.rejects(ask('volume.move', { name: 'v1', to: 3 }), { code: 'EINVAL', message: /no worker 3/ });
    await assert.rejects(open('v2', 7), { code: 'EINVAL' });
    await assert.rejects(ask('volume.move', { name: 'v9', to: 1 }), { code: 'ENOENT' });
    assert.deepEqual(places(1), ['elsewhere', 'here', 'elsewhere']);
  });

  test('tells hosts and ports of the first worker only, and storage errors of all', () => {
    const up: EngineEvent = { event: 'host.up', data: { host: 'h1' } };
    const error = { volume: 'v', op: 'read', error: 'EIO', offset: 0, count: 1, flushFailed: false };
    assert.deepEqual([isOfEngine(up, 0), isOfEngine(up, 1)], [true, false]);
    assert.equal(isOfEngine({ event: 'volume.error', data: error }, 2), true);
  });
});

describe('a volume that is moved', () => {
  beforeEach(async () => {
    await open('v1', 0, 4);
    await open('other', 0);
    await addHost([row(1, 'v1'), row(2, 'v1'), row(3, 'other')]);
  });

  test('is with the new worker, with all its exports and nobody else', async () => {
    const { ms } = await ask('volume.move', { name: 'v1', to: 2 });
    assert.ok(ms >= 0);
    assert.deepEqual([places(1), places(2)], Array(2).fill(['elsewhere', 'elsewhere', 'here']));
    assert.deepEqual(places(3), ['here', 'elsewhere', 'elsewhere']);
    assert.deepEqual(owners('v1'), [false, false, true]);
    assert.equal(await listed('v1'), 2);
    assert.deepEqual(events, [{ event: 'volume.moved', data: { volume: 'v1', to: 2, placement: 5 } }]);
    assert.deepEqual(numbers(1), [4, 4, 5], 'requests under the old number are refused');
    await ask('volume.move', { name: 'v1', to: 0 });
    assert.deepEqual(owners('v1'), [true, false, false]);
    assert.equal(numbers(1)[0], 6);
    await ask('export.add', row(8, 'v1'));
    assert.deepEqual(numbers(8), [6, 6, 6]);
  });

  test('to where it is stays untouched', async () => {
    const before = workers.map(({ log }) => log.length);
    await ask('volume.move', { name: 'v1', to: 0 });
    assert.deepEqual([workers.map(({ log }) => log.length), events], [before, []]);
  });

  test('is given away only when what executes has ended', async () => {
    let end = () => {};
    const [first] = workers as [WorkerDouble];
    first.executing = new Promise((resolve) => {
      end = resolve;
    });
    const moved = ask('volume.move', { name: 'v1', to: 1 });
    await turn();
    assert.deepEqual([owners('v1'), await listed('v1')], [[true, false, false], 0]);
    assert.ok(!first.log.includes('volume.give'));
    end();
    await moved;
    assert.deepEqual(owners('v1'), [false, true, false]);
  });

  test('goes one way after the other, and what is added meanwhile comes after', async () => {
    await Promise.all([
      ask('volume.move', { name: 'v1', to: 1 }),
      ask('export.add', row(4, 'v1')),
      ask('volume.move', { name: 'v1', to: 2 }),
      ask('export.remove', { id: 2 }),
      ask('volume.move', { name: 'v1', to: 1 }),
    ]);
    assert.deepEqual([places(1), places(4)], Array(2).fill(['elsewhere', 'here', 'elsewhere']));
    assert.deepEqual(places(2), ['unknown', 'unknown', 'unknown']);
    assert.deepEqual(owners('v1'), [false, true, false]);
  });

  test('holds up nothing of other volumes', async () => {
    const [first] = workers as [WorkerDouble];
    first.executing = new Promise(() => {});
    void ask('volume.move', { name: 'v1', to: 1 });
    await turn();
    await ask('export.add', row(9, 'other'));
    assert.deepEqual(places(9), ['here', 'elsewhere', 'elsewhere']);
  });

  const failures: [string, number, (command: string, args: unknown) => boolean][] = [
    ['its exports cannot be taken away', 0, (command, args) => command === 'export.add' && isElsewhere(args, 2)],
    ['it cannot be given', 0, (command) => command === 'volume.give'],
    ['the new worker cannot take it', 1, (command) => command === 'volume.open'],
    ['the new worker cannot export it', 1, (command, args) => command === 'export.add' && isHere(args, 2)],
  ];
  const isElsewhere = (args: unknown, id: number) => JSON.stringify(args).includes(`"id":${id},`) && !isHere(args, id);
  const isHere = (args: unknown, id: number) => {
    const { id: of, elsewhere = false } = args as { id: number; elsewhere?: boolean };
    return of === id && !elsewhere;
  };

  for (const [when, worker, refuse] of failures) {
    test(`is back with the old worker when ${when}`, async () => {
      const failing = workers[worker] as WorkerDouble;
      failing.refuse = refuse;
      await assert.rejects(ask('volume.move', { name: 'v1', to: 1 }), { code: 'ENOMEM' });
      assert.deepEqual([places(1), places(2)], Array(2).fill(['here', 'elsewhere', 'elsewhere']));
      assert.deepEqual(owners('v1'), [true, false, false]);
      assert.equal(await listed('v1'), 0);
      assert.deepEqual([events, numbers(1)[0]], [[], 4]);
      failing.refuse = () => false;
      await ask('volume.move', { name: 'v1', to: 1 });
      assert.deepEqual(owners('v1'), [false, true, false]);
    });
  }
});

describe('a volume that is cut', () => {
  const head = { name: 'v1', path: '/v/new', content: 'b'.repeat(16) };
  const cuts = () => workers.flatMap(({ log }) => log.filter((command) => command === 'volume.cut'));
  const openFile = () =>
    ask('volume.open', {
      ...({ name: 'v1', kind: 'file', path: '/v/old', content: 'a'.repeat(16) } as const),
      ...{ readOnly: false, flushFailed: false, worker: 1 },
    });
  const headNow = async () => {
    const [row] = await ask('volume.list', {});
    return [row?.path, row?.content];
  };

  test('is cut once, however often it is told by supervisors that have not heard of it, and wherever it is', async () => {
    await openFile();
    await Promise.all([ask('volume.cut', head), ask('volume.cut', head)]);
    assert.deepEqual(await headNow(), ['/v/new', head.content]);
    await ask('volume.move', { name: 'v1', to: 2 });
    await ask('volume.cut', head);
    assert.equal(cuts().length, 1);
    assert.deepEqual(await headNow(), ['/v/new', head.content]);
  });

  test('has its old head when that failed, and can be cut again', async () => {
    await openFile();
    const [, second] = workers as [WorkerDouble, WorkerDouble];
    second.refuse = (command) => command === 'volume.cut';
    await assert.rejects(ask('volume.cut', head), { code: 'ENOMEM' });
    assert.deepEqual(await headNow(), ['/v/old', 'a'.repeat(16)]);
    second.refuse = () => false;
    await ask('volume.cut', head);
    assert.equal(cuts().length, 2);
  });
});

describe('a gate', () => {
  test('lets an owner in alone, in the order in which they came, and forgets what is over', async () => {
    const gate = new Gate();
    const log: string[] = [];
    const work = (name: string) => async () => {
      log.push(`+${name}`);
      await turn();
      log.push(`-${name}`);
    };
    await Promise.allSettled([
      gate.share('k', work('a')),
      gate.share('k', work('b')),
      gate.own('k', work('C')),
      gate.share('k', work('d')),
      gate.own('k', () => Promise.reject(new Error('failed'))),
      gate.share('k', work('e')),
      gate.own('other', work('O')),
    ]);
    const ofKey = log.filter((line) => !line.endsWith('O'));
    assert.deepEqual(ofKey, ['+a', '+b', '-a', '-b', '+C', '-C', '+d', '-d', '+e', '-e']);
  });
});

describe('the settings of workers', () => {
  const config = (workerCpus?: (number | null)[]): EngineConfig => ({
    role: 'iohv',
    port: { interfaces: ['lo'], mtu: 0, ethertype: 0x88b5 },
    worker: { cpu: 5, nice: 0, spinUs: 0 },
    iohv: { integrity: 'mac', slots: 8, bufferBytes: 64 << 20, ...(workerCpus ? { workerCpus } : {}) },
  });
  const brief = (of: EngineConfig) =>
    nativeConfigs(of).map((native) => [native.worker, native.cpu, native.role === 'iohv' ? native.bufferBytes : 0]);

  test('share the buffers, and have a CPU each', () => {
    assert.deepEqual(brief(config()), [[0, 5, 64 << 20]]);
    assert.deepEqual(brief(config([2, null])), [
      [0, 2, 32 << 20],
      [1, -1, 32 << 20],
    ]);
    assert.equal(brief(config(Array(16).fill(null))).length, 16);
    const small = { ...config(Array(16).fill(null)) };
    assert.ok(small.role === 'iohv');
    small.iohv.bufferBytes = 16 << 20;
    assert.deepEqual(new Set(brief(small).map(([, , bytes]) => bytes)), new Set([4 << 20]));
  });
});
