// Which worker serves what: the policies, the measure of load, and the dispatcher that holds both.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Dispatcher } from '../../../src/supervisor/dispatcher.js';
import { LoadMeter } from '../../../src/supervisor/load-meter.js';
import type { Desired } from '../../../src/supervisor/model.js';
import {
  Balancer,
  type Burden,
  choose,
  type Move,
  NEGLIGIBLE_LOAD,
  PATIENCE,
  type Policy,
  REST,
  type VolumeLoad,
} from '../../../src/supervisor/placement.js';
import type { VolumeRow } from '../../../src/supervisor/protocol.js';

const MB = 2 ** 20;
const idle = (count: number) => ({ load: 0, count });

describe('a volume that is opened', () => {
  test('goes by its name alone: static', () => {
    const burdens = [idle(0), idle(9), idle(0), idle(0)];
    const places = Array.from({ length: 400 }, (_, i) => choose('static', `disk${i}`, i, burdens));
    assert.deepEqual(
      places,
      Array.from({ length: 400 }, (_, i) => choose('static', `disk${i}`, 7 * i, [...burdens].reverse())),
    );
    for (const worker of burdens.keys()) {
      const share = places.filter((place) => place === worker).length;
      assert.ok(share > 60 && share < 140, `worker ${worker} has ${share} of 400`);
    }
  });

  test('goes in turn: round-robin', () => {
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((turn) => choose('round-robin', 'x', turn, [idle(0), idle(0), idle(0)])),
      [0, 1, 2, 0, 1],
    );
  });

  for (const policy of ['least-loaded', 'isolate'] as const) {
    test(`goes where the least load is, and of workers that do next to nothing where the fewest are: ${policy}`, () => {
      const busy = { load: 900 * MB, count: 0 };
      assert.equal(choose(policy, 'x', 0, [busy, { load: 100 * MB, count: 9 }]), 1);
      assert.equal(
        choose(policy, 'x', 0, [
          { load: 3000, count: 1 },
          { load: 5000, count: 0 },
        ]),
        1,
      );
      assert.equal(choose(policy, 'x', 0, [idle(1), idle(1)]), 0);
    });

    test(`of workers that do next to nothing the one with the most clones of the base is the first choice: ${policy}`, () => {
      const kin = (burden: Burden, count: number) => ({ ...burden, kin: count });
      assert.equal(choose(policy, 'x', 0, [idle(0), kin(idle(7), 1), kin(idle(9), 3)]), 2);
      assert.equal(choose(policy, 'x', 0, [idle(0), kin({ load: 900 * MB, count: 3 }, 3)]), 0);
    });
  }
});

/** Volumes with constant loads that a balancer moves. */
class World {
  readonly volumes: VolumeLoad[];
  readonly balancer: Balancer;
  readonly moves: (Move & { interval: number })[] = [];
  private interval = 0;

  constructor(policy: Policy, loads: Record<string, [worker: number, megabytes: number]>, fixed: string[] = []) {
    this.balancer = new Balancer(policy);
    this.volumes = Object.entries(loads).map(([name, [worker, mb]]) => ({
      ...{ name, worker, load: mb * MB, fixed: fixed.includes(name) },
    }));
  }

  run(intervals: number, workers = 2): this {
    for (let i = 0; i < intervals; i++) {
      this.interval++;
      const move = this.balancer.next(this.volumes, workers);
      if (move !== undefined) {
        this.moves.push({ ...move, interval: this.interval });
        this.of(move.name).worker = move.to;
      }
    }
    return this;
  }

  of(name: string): VolumeLoad {
    const volume = this.volumes.find((one) => one.name === name);
    assert.ok(volume, name);
    return volume;
  }

  names(): string[] {
    return this.moves.map(({ name, from, to }) => `${name} ${from}>${to}`);
  }

  /** The names at each worker. */
  places(workers = 2): string[] {
    return Array.from({ length: workers }, (_, worker) =>
      this.volumes
        .filter((volume) => volume.worker === worker)
        .map(({ name }) => name)
        .join(' '),
    );
  }
}

describe('least-loaded', () => {
  test('moves the volume that evens it out best, after three uneven intervals in a row', () => {
    const world = new World('least-loaded', { a: [0, 500], b: [0, 300], c: [0, 100], d: [1, 300] });
    assert.deepEqual(world.run(PATIENCE - 1).names(), []);
    assert.deepEqual(world.run(1).names(), ['b 0>1']);
    assert.deepEqual(world.run(50).names(), ['b 0>1'], '600 and 600');
  });

  test('forgets what was uneven when it is even again', () => {
    const world = new World('least-loaded', { a: [0, 500], b: [0, 400], c: [1, 100] });
    world.run(PATIENCE - 1);
    world.of('c').load = 900 * MB;
    world.run(1);
    world.of('c').load = 100 * MB;
    assert.deepEqual(world.run(PATIENCE - 1).names(), []);
    assert.equal(world.run(1).names().length, 1);
  });

  test('takes a difference of less than a fifth, or of next to nothing, as it is', () => {
    assert.deepEqual(new World('least-loaded', { a: [0, 60], b: [0, 45], c: [1, 90] }).run(50).names(), []);
    const little = NEGLIGIBLE_LOAD / MB / 4;
    assert.deepEqual(new World('least-loaded', { a: [0, little], b: [0, little] }).run(50).names(), []);
    assert.deepEqual(new World('least-loaded', { a: [0, 0], b: [0, 0], c: [0, 0] }).run(50).names(), []);
  });

  test('does not move a volume that would only take the load along', () => {
    assert.deepEqual(new World('least-loaded', { a: [0, 900], b: [1, 0] }).run(50).names(), []);
    assert.deepEqual(new World('least-loaded', { a: [0, 900], b: [0, 10], c: [1, 5] }).run(50).names(), []);
  });

  test('does not move what is fixed', () => {
    const world = new World('least-loaded', { a: [0, 500], b: [0, 480], c: [1, 0] }, ['b']);
    assert.deepEqual(world.run(50).names(), ['a 0>1']);
    assert.deepEqual(new World('least-loaded', { a: [0, 5], b: [0, 500] }, ['a', 'b']).run(50).names(), []);
  });

  test('moves one per interval, and lets who has moved rest', () => {
    const loads = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`v${i}`, [0, 100]])) as Record<
      string,
      [number, number]
    >;
    const world = new World('least-loaded', loads).run(40);
    assert.deepEqual(
      world.moves.map(({ interval }) => interval),
      [3, 4, 5, 6],
    );
    assert.deepEqual(
      world.places().map((names) => names.split(' ').length),
      [4, 4],
    );
    const [{ name } = { name: '' }] = world.moves;
    for (const volume of world.volumes) {
      volume.load = volume.worker === 1 && volume.name !== name ? 100 * MB : 0;
    }
    world.of(name).load = 300 * MB; // now it would be the one to move back
    world.moves.length = 0;
    world.run(2);
    assert.ok(!world.names().some((line) => line.startsWith(name)), world.names().join());
  });

  test('rests what an operator has moved', () => {
    const world = new World('least-loaded', { a: [0, 100], b: [0, 100], c: [1, 0] });
    world.run(PATIENCE - 1);
    world.balancer.moved('a');
    world.balancer.moved('b');
    assert.deepEqual(world.run(REST).names(), []);
    assert.equal(world.run(1).names().length, 1);
  });

  test('comes to an end with any loads, and does not play ping-pong with loads that sway', () => {
    let seed = 1;
    const random = () => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) / 2 ** 24;
    };
    for (let round = 0; round < 100; round++) {
      const volumes = Array.from({ length: 2 + Math.floor(random() * 20) }, (_, i): [string, [number, number]] => [
        `v${i}`,
        [Math.floor(random() * 4), random() * 500],
      ]);
      const world = new World('least-loaded', Object.fromEntries(volumes)).run(200, 4);
      assert.ok((world.moves.at(-1)?.interval ?? 0) < 60, `round ${round}: ${world.names().join()}`);
      const bases = world.volumes.map(({ load }) => load);
      world.moves.length = 0;
      for (let i = 0; i < 300; i++) {
        world.volumes.forEach((volume, n) => {
          volume.load = (bases[n] ?? 0) * (0.95 + 0.1 * random());
        });
        world.run(1, 4);
      }
      assert.ok(world.moves.length <= 3, `round ${round}: ${world.names().join()}`);
    }
  });

  test('of static and round-robin nothing moves', () => {
    for (const policy of ['static', 'round-robin'] as const) {
      assert.deepEqual(new World(policy, { a: [0, 500], b: [0, 500] }).run(50).names(), []);
    }
  });
});

describe('isolate', () => {
  test('takes light volumes out of the way of a heavy one, idle ones too', () => {
    const world = new World('isolate', { heavy: [0, 900], a: [0, 20], b: [0, 0], c: [1, 20] });
    assert.deepEqual(world.run(50).names(), ['a 0>1', 'b 0>1']);
  });

  test('packs heavy ones together, where most of them are', () => {
    const world = new World('isolate', { h1: [0, 500], h2: [1, 400], a: [0, 10], b: [1, 10], c: [1, 10], d: [0, 10] });
    world.run(50);
    assert.deepEqual(world.places(), ['h1 h2', 'a b c d']);
    assert.equal(world.names()[0], 'h2 1>0', 'the heavy one first: it hurts most');
  });

  test('gives heavy ones their share of several workers, and leaves one for the light', () => {
    const loads: Record<string, [number, number]> = { h1: [0, 500], h2: [0, 500], h3: [0, 500] };
    for (let i = 0; i < 6; i++) {
      loads[`l${i}`] = [i % 4, 10];
    }
    const world = new World('isolate', loads).run(100, 4);
    const places = world.places(4);
    assert.deepEqual(places.filter((names) => names.includes('h')).sort(), ['h1', 'h2', 'h3']);
    assert.equal(places.filter((names) => names.includes('l')).length, 1);
  });

  test('evens out the load where all are alike', () => {
    const world = new World('isolate', { a: [0, 100], b: [0, 100], c: [0, 100], d: [0, 100] }).run(50);
    assert.deepEqual(
      world.places().map((names) => names.split(' ').length),
      [2, 2],
    );
  });

  test('leaves pinned volumes where they are', () => {
    const world = new World('isolate', { heavy: [0, 900], a: [0, 20], b: [1, 20], c: [1, 5] }, ['a', 'heavy']);
    assert.deepEqual(world.run(50).names(), []);
  });

  test('does not change its mind about what is heavy with every sway', () => {
    // Of four volumes an even share is 25 %: a lies between a light and a heavy one.
    const world = new World('isolate', { a: [0, 380], b: [0, 210], c: [1, 205], d: [1, 205] }).run(20);
    const settled = world.moves.length;
    for (let i = 0; i < 100; i++) {
      world.of('a').load = (i % 2 === 0 ? 330 : 430) * MB;
      world.run(1);
    }
    assert.ok(world.moves.length - settled <= 3, world.names().join());
  });

  test('does nothing where there is no load', () => {
    assert.deepEqual(new World('isolate', { a: [0, 5], b: [0, 0.1], c: [1, 0] }).run(50).names(), []);
  });
});

describe('the measure of load', () => {
  const total = (id: number, requests: number, bytes: number, worker = 0) => ({
    ...{ id, worker, requests, bytes, inFlight: 0 },
  });

  test('counts bytes, and something for each request, smoothed', () => {
    const meter = new LoadMeter();
    assert.equal(meter.take([total(1, 100, 1e9)], 1).get(1), 0, 'what was before does not count');
    assert.equal(meter.take([total(1, 110, 1e9 + 4096)], 1).get(1), (4096 + 10 * 16384) / 2);
    assert.equal(meter.take([total(1, 110, 1e9 + 4096)], 1).get(1), (4096 + 10 * 16384) / 4);
  });

  test('goes on at another worker, and after an attachment was made anew', () => {
    const meter = new LoadMeter();
    meter.take([total(1, 0, 5000, 0)], 1);
    assert.equal(meter.take([total(1, 0, 800, 1)], 2).get(1), 200);
    assert.equal(meter.take([total(1, 0, 600, 1)], 1).get(1), 100 + 300);
    assert.equal(meter.take([], 1).get(1), undefined);
  });
});

describe('the dispatcher', () => {
  const volume = (name: string, worker: number | null = null, ...contents: string[]) => ({
    ...{ name, worker },
    layers: contents.map((content) => ({ content })),
  });
  const desired = (volumes: object[], nics: object[] = []) =>
    ({ volumes, nics, domains: [], nicAttachments: [] }) as unknown as Desired;
  const opened = (name: string, worker: number) => ({ name, worker }) as VolumeRow;
  const made = (policy: Policy, workers: number, rows: VolumeRow[] = [], moves = true) => {
    const dispatcher = new Dispatcher(policy, moves);
    dispatcher.adopt(workers, rows, []);
    return dispatcher;
  };
  const where = (dispatcher: Dispatcher, state: Desired) =>
    Object.fromEntries([...dispatcher.follow(state).volumes].map(([name, { worker }]) => [name, worker]));

  test('leaves what an engine has where it is, and spreads the rest', () => {
    const dispatcher = made('least-loaded', 2, [opened('a', 0), opened('b', 0)]);
    const state = desired(['a', 'b', 'c', 'd', 'e'].map((name) => volume(name)));
    assert.deepEqual(where(dispatcher, state), { a: 0, b: 0, c: 1, d: 1, e: 0 });
  });

  test('puts clones of one base together while nobody has anything to do', () => {
    const dispatcher = made('least-loaded', 2);
    const clones = ['c1', 'c2', 'c3'].map((name) => volume(name, null, name, 'frozen'));
    const state = desired([volume('a', null, 'a'), volume('base', null, 'base', 'frozen'), ...clones]);
    assert.deepEqual(where(dispatcher, state), { a: 0, base: 1, c1: 1, c2: 1, c3: 1 });
    const fixed = made('least-loaded', 2, [], false);
    assert.deepEqual(where(fixed, state), { a: 0, base: 1, c1: 0, c2: 1, c3: 0 }, 'they could not leave');
  });

  test('keeps its places for the next engine, and forgets what is gone', () => {
    const dispatcher = made('round-robin', 2);
    const state = desired([volume('a'), volume('b'), volume('c')]);
    const before = where(dispatcher, state);
    dispatcher.noteMoved('b', 9);
    dispatcher.adopt(2, [], []);
    assert.deepEqual(where(dispatcher, state), before);
    assert.equal(dispatcher.follow(state).volumes.get('b')?.placement, 9);
    assert.deepEqual(Object.keys(where(dispatcher, desired([volume('c')]))), ['c']);
  });

  test('finds places anew for what an engine with fewer workers cannot have', () => {
    const dispatcher = made('round-robin', 4);
    const state = desired(['a', 'b', 'c', 'd'].map((name) => volume(name)));
    where(dispatcher, state);
    dispatcher.adopt(2, [], []);
    assert.deepEqual(new Set(Object.values(where(dispatcher, state))), new Set([0, 1]));
  });

  test('obeys a pin, unless there is no such worker', () => {
    const dispatcher = made('least-loaded', 2, [opened('a', 0), opened('b', 0)]);
    const pinned = desired([volume('a', 1), volume('b', 5)]);
    assert.deepEqual(where(dispatcher, pinned), { a: 1, b: 0 });
    assert.equal(dispatcher.follow(pinned).volumes.get('a')?.reason, 'pinned');
    assert.deepEqual(where(dispatcher, desired([volume('a'), volume('b')])), { a: 1, b: 0 }, 'it stays when unpinned');
    assert.equal(dispatcher.follow(desired([volume('a')])).volumes.get('a')?.reason, 'least-loaded');
  });

  test('of static puts a volume back to where its name wants it, but not what the operator moved', () => {
    const dispatcher = made('static', 4);
    const state = desired(['a', 'b', 'c', 'd'].map((name) => volume(name)));
    const byName = where(dispatcher, state);
    const wrong = ((byName.a ?? 0) + 1) % 4;
    assert.deepEqual(where(dispatcher, desired([volume('a', wrong), volume('b')])).a, wrong);
    assert.deepEqual(where(dispatcher, state), byName);
    dispatcher.assign('a', wrong);
    assert.deepEqual(where(dispatcher, state), { ...byName, a: wrong });
  });

  test('has all NICs of a hub with one worker', () => {
    const dispatcher = made('round-robin', 4);
    const nics = [1, 2, 3, 4].map((i) => ({ name: `n${i}`, hub: i % 2 === 0 ? 'lan' : null }));
    const placed = dispatcher.follow(desired([], nics)).nics;
    assert.equal(placed.get('n2'), placed.get('n4'));
    assert.equal(new Set(placed.values()).size, 3);
  });

  test('moves by load, and not what is on its way or pinned', () => {
    const dispatcher = made('least-loaded', 2, [opened('a', 0), opened('b', 0), opened('p', 0)]);
    const state = desired([volume('a'), volume('b'), volume('p', 0)]);
    dispatcher.follow(state);
    const exports = new Map([1, 2, 3].map((id) => [id, { id, volume: 'abp'[id - 1] ?? '' }])) as never;
    const open = new Map([opened('a', 0), opened('b', 0), opened('p', 0)].map((row) => [row.name, row]));
    let bytes = 0;
    const look = () => {
      bytes += 1e12; // however short the interval is
      const rows = [1, 2, 3].map((id) => ({
        id,
        worker: 0,
        requests: 0,
        bytes: bytes * (id === 3 ? 4 : id),
        inFlight: 0,
      }));
      return dispatcher.balance(rows, exports, open);
    };
    const moved = Array.from({ length: PATIENCE + 1 }, look);
    assert.deepEqual(moved, [false, false, false, true]);
    assert.deepEqual(where(dispatcher, state), { a: 0, b: 1, p: 0 }, 'the greater one of those that may');
    assert.deepEqual(dispatcher.follow(state).volumes.get('b'), { worker: 1, placement: 0, reason: 'least-loaded' });
  });
});
