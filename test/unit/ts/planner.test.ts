import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CACHE_DEFAULT } from '../../../src/supervisor/cache.js';
import { type DeviceEntry, type DiskEntry, isDisk } from '../../../src/supervisor/documents.js';
import { planHost, toDeviceArgs } from '../../../src/supervisor/host-planner.js';
import { emptyActual, type IohvActual, type IohvStep, planIohv } from '../../../src/supervisor/iohv-planner.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import {
  type Attachment,
  type Desired,
  devicesOf,
  type KnownHost,
  type LayerMerge,
  ONE_WORKER,
  type Placement,
  serialOf,
  type Volume,
} from '../../../src/supervisor/model.js';
import type { ExportRow, Geometry, VolumeRow } from '../../../src/supervisor/protocol.js';

const geometry: Geometry = {
  size: 1 << 30,
  blockSize: 512,
  physicalBlockSize: 4096,
  direct: true,
  discard: true,
  writeZeroes: true,
};
const h1: KnownHost = { name: 'h1', keyBase64: 'k1', keyId: 'id1' };

function volume(name: string, changes: Partial<Volume> = {}): Volume {
  const fixed = {
    kind: 'file',
    size: 1 << 30,
    blockSize: 512,
    readOnly: false,
    adopted: false,
    phase: 'ready',
    fault: null,
    ioTimeoutMs: 0,
    limit: NO_LIMIT,
    cache: CACHE_DEFAULT,
    worker: null,
  } as const;
  const path = changes.path === undefined ? `/v/${name}.raw` : changes.path;
  const file = { content: `content of ${path}`, path: path ?? '', size: 1 << 30, raw: true, adopted: false };
  return { name, path, layers: path === null ? [] : [file], base: null, geometry, ...fixed, ...changes };
}

/** With these layers, head first. */
function layered(name: string, ...contents: string[]): Volume {
  const last = contents.length - 1;
  const layers = contents.map((content, i) => {
    return { content, path: `/v/${content}`, size: 1 << 30, raw: i === last, adopted: false };
  });
  return { ...volume(name), layers };
}

function merge(upper: string, lower: string): LayerMerge {
  const layer = (content: string) => ({ content, path: `/v/${content}`, size: 1 << 30, raw: false, adopted: false });
  return { upper: layer(upper), lower: layer(lower), next: 0 };
}

function attachment(id: number, changes: Partial<Attachment> = {}): Attachment {
  const name = `d${id}`;
  return {
    id,
    generation: id,
    vm: 'web',
    disk: name,
    host: 'h1',
    volume: name,
    readOnly: false,
    queues: 1,
    weight: 100,
    ...changes,
  };
}

function desired(volumes: Volume[], attachments: Attachment[] = []): Desired {
  return {
    revision: 5,
    cacheBytes: null,
    volumes,
    snapshots: [],
    dying: [],
    merges: [],
    attachments,
    nics: [],
    nicAttachments: [],
    domains: [],
  };
}

function openRow({ name, kind, readOnly, layers: [head] }: Volume): VolumeRow {
  const files = head === undefined ? { path: null } : { path: head.path, content: head.content };
  return { name, kind, ...files, readOnly, flushFailed: false, errors: 0, lastError: null, ...geometry };
}

function exportRow({ id, generation, host, volume: of, readOnly, weight }: Attachment): ExportRow {
  return { id, generation, host, volume: of, readOnly, weight, pending: false };
}

/** An engine that has everything that is wanted. */
function settled(state: Desired, hosts: KnownHost[]): IohvActual {
  return {
    hosts: new Map(hosts.map(({ name, keyId }) => [name, keyId])),
    volumes: new Map(state.volumes.map((v) => [v.name, openRow(v)])),
    exports: new Map(state.attachments.map((a) => [a.id, exportRow(a)])),
    nics: new Map(),
    domains: new Map(),
    readyNics: new Set(),
    documents: new Map(hosts.map(({ name }) => [name, devicesOf(name, state)])),
    cacheBytes: 0,
  };
}

const plan = (state: Desired, hosts: KnownHost[], actual: IohvActual, failed: string[] = []) =>
  planIohv(state, hosts, actual, new Set(failed));
const names = (steps: IohvStep[]) => steps.map((step) => `${step.do} ${step.key}`);

interface Case {
  name: string;
  desired: Desired;
  hosts?: KnownHost[];
  change?: (actual: IohvActual) => void;
  failed?: string[];
  steps: string[];
}

const one = desired([volume('d1')], [attachment(1)]);

// Each case starts from an engine that has all of `desired`, changed by `change`.
const cases: Case[] = [
  { name: 'nothing to do when the engine has everything', desired: one, steps: [] },
  {
    name: 'an empty engine opens volumes first: no host before its exports can come with it',
    desired: one,
    change: (actual) => Object.assign(actual, emptyActual()),
    steps: ['volume.open volume:d1'],
  },
  {
    name: 'a host is added when its volumes are open',
    desired: one,
    change: (actual) => {
      actual.hosts.clear();
      actual.exports.clear();
      actual.documents.clear();
    },
    steps: ['host.add host:h1'],
  },
  {
    name: 'a host does not wait for a volume that cannot be opened',
    desired: one,
    change: (actual) => Object.assign(actual, emptyActual()),
    failed: ['volume:d1'],
    steps: ['volume.open volume:d1', 'host.add host:h1'],
  },
  {
    name: 'an export that waits for its volume stays while the volume cannot be opened',
    desired: one,
    change: (actual) => {
      actual.volumes.clear();
      actual.exports.set(1, { ...exportRow(attachment(1)), pending: true });
    },
    failed: ['volume:d1'],
    steps: ['volume.open volume:d1'],
  },
  {
    name: 'an export that waits for its volume is completed when the volume is open',
    desired: one,
    change: (actual) => actual.exports.set(1, { ...exportRow(attachment(1)), pending: true }),
    steps: ['export.add export:1'],
  },
  {
    name: 'another weight is set under the guest, without a new document',
    desired: one,
    change: (actual) => actual.exports.set(1, exportRow(attachment(1, { weight: 300 }))),
    steps: ['export.set export:1'],
  },
  {
    name: 'an engine of an earlier version, which says nothing of weights, has the default',
    desired: one,
    change: (actual) => {
      const { weight: _, ...row } = exportRow(attachment(1));
      actual.exports.set(1, row);
    },
    steps: [],
  },
  {
    name: 'an export that waits for its volume goes when it is detached, after its host was told',
    desired: desired([volume('d1')], []),
    change: (actual) => {
      actual.volumes.clear();
      actual.exports.set(1, { ...exportRow(attachment(1)), pending: true });
    },
    steps: ['volume.open volume:d1', 'export.remove export:1'],
  },
  {
    name: 'a new export comes before its document',
    desired: one,
    change: (actual) => {
      actual.exports.clear();
      actual.documents.set('h1', []);
    },
    steps: ['export.add export:1'],
  },
  {
    name: 'the document follows the export',
    desired: one,
    change: (actual) => actual.documents.set('h1', []),
    steps: ['document.set document:h1'],
  },
  {
    name: 'an adopted engine is told the documents again, for nobody knows what it sent',
    desired: one,
    change: (actual) => actual.documents.clear(),
    steps: ['document.set document:h1'],
  },
  {
    name: 'a detached export stays until its host was told',
    desired: desired([volume('d1')]),
    change: (actual) => {
      actual.exports.set(1, exportRow(attachment(1)));
      actual.documents.set('h1', devicesOf('h1', one));
    },
    steps: ['document.set document:h1'],
  },
  {
    name: 'a detached export goes when its host was told',
    desired: desired([volume('d1')]),
    change: (actual) => actual.exports.set(1, exportRow(attachment(1))),
    steps: ['export.remove export:1'],
  },
  {
    name: 'an export of another generation is replaced, never kept',
    desired: one,
    change: (actual) => actual.exports.set(1, { ...exportRow(attachment(1)), generation: 99 }),
    steps: ['export.remove export:1'],
  },
  {
    name: 'a volume that is deleted is closed, not erased, while it is open',
    desired: desired([volume('d1', { phase: 'deleting' })]),
    steps: ['volume.close volume:d1'],
  },
  {
    name: 'a volume that is deleted and closed is erased',
    desired: desired([volume('d1', { phase: 'deleting' })]),
    change: (actual) => actual.volumes.clear(),
    steps: ['volume.erase volume:d1'],
  },
  {
    name: 'a volume whose file is being made is left alone',
    desired: desired([volume('d1', { phase: 'creating' })]),
    change: (actual) => actual.volumes.clear(),
    steps: [],
  },
  {
    name: 'a volume that is open with another file is closed only after its exports',
    desired: one,
    change: (actual) => actual.volumes.set('d1', { ...openRow(volume('d1')), path: '/old', content: 'old' }),
    steps: ['export.remove export:1'],
  },
  {
    name: 'an engine of an earlier version, which says nothing of contents, is judged by the path',
    desired: one,
    change: (actual) => {
      const { content: _, ...row } = openRow(volume('d1'));
      actual.volumes.set('d1', row);
    },
    steps: [],
  },
  {
    name: 'a new head is put on top of what is open, and the guest goes on',
    desired: desired([layered('d1', 'new', 'old')], [attachment(1)]),
    change: (actual) => actual.volumes.set('d1', openRow(layered('d1', 'old'))),
    steps: ['volume.cut cut:d1'],
  },
  {
    name: 'of two new heads the lower one comes first',
    desired: desired([layered('d1', 'newest', 'new', 'old')], [attachment(1)]),
    change: (actual) => actual.volumes.set('d1', openRow(layered('d1', 'old'))),
    steps: ['volume.cut cut:d1'],
  },
  {
    name: 'a clone waits until the base is cut off from the layer that it needs',
    desired: desired([layered('d1', 'new', 'old'), layered('c1', 'head', 'old')]),
    change: (actual) => {
      actual.volumes.set('d1', openRow(layered('d1', 'old')));
      actual.volumes.delete('c1');
    },
    steps: ['volume.cut cut:d1'],
  },
  {
    name: 'a clone of a read-only volume does not wait',
    desired: desired([layered('c1', 'head', 'image'), { ...layered('image', 'image'), readOnly: true }]),
    change: (actual) => actual.volumes.delete('c1'),
    steps: ['volume.open volume:c1'],
  },
  {
    name: 'a volume that was rolled back is opened anew',
    desired: desired([layered('d1', 'fresh', 'old')]),
    change: (actual) => actual.volumes.set('d1', openRow(layered('d1', 'dropped', 'old'))),
    steps: ['volume.close volume:d1'],
  },
  {
    name: 'a file that nothing needs is erased',
    desired: { ...desired([]), dying: layered('d1', 'old').layers },
    steps: ['layer.erase layer:old'],
  },
  {
    name: 'a file that a volume has open is not erased before it has others',
    desired: { ...desired([layered('d1', 'head', 'upper')]), dying: layered('d1', 'lower').layers },
    change: (actual) => {
      const row = openRow(layered('d1', 'head'));
      actual.volumes.set('d1', { ...row, layers: layered('d1', 'head', 'upper', 'lower').layers });
    },
    steps: ['volume.rebase rebase:d1'],
  },
  {
    name: 'layers are merged from the bottom',
    desired: { ...desired([layered('d1', 'head', 'c', 'b', 'a')]), merges: [merge('b', 'a'), merge('c', 'b')] },
    steps: ['layer.merge merge:a', 'layer.merge merge:b'],
  },
  {
    name: 'a layer that the engine still writes to is merged with nothing',
    desired: { ...desired([layered('d1', 'head', 'b', 'a')]), merges: [merge('b', 'a')] },
    change: (actual) => actual.volumes.set('d1', openRow(layered('d1', 'b', 'a'))),
    steps: ['volume.cut cut:d1'],
  },
  {
    name: 'a layer is not merged into one that is open without it',
    desired: { ...desired([layered('d1', 'head', 'c', 'a')]), merges: [merge('c', 'a')] },
    change: (actual) => {
      const layers = layered('d1', 'head', 'b', 'a').layers;
      actual.volumes.set('d1', { ...openRow(layered('d1', 'head')), layers });
    },
    steps: ['volume.rebase rebase:d1'],
  },
  {
    name: 'a volume that is to use the cache in another way is changed, not opened anew',
    desired: desired([volume('d1', { cache: { ...CACHE_DEFAULT, mode: 'write-back' } })]),
    change: (actual) => actual.volumes.set('d1', { ...openRow(volume('d1')), cache: CACHE_DEFAULT }),
    steps: ['volume.cache cache:d1'],
  },
  {
    name: 'a volume whose use of the cache cannot be changed holds up nobody',
    desired: { ...one, volumes: [volume('d1', { cache: { ...CACHE_DEFAULT, mode: 'none' } })] },
    change: (actual) => {
      actual.volumes.set('d1', { ...openRow(volume('d1')), cache: CACHE_DEFAULT });
      actual.exports.clear();
    },
    failed: ['cache:d1'],
    steps: ['volume.cache cache:d1', 'export.add export:1'],
  },
  {
    name: 'an engine without a cache is not told of it',
    desired: { ...desired([volume('d1', { cache: { ...CACHE_DEFAULT, mode: 'none' } })]), cacheBytes: 1 << 20 },
    steps: [],
  },
  {
    name: 'the cache gets the size that is wanted',
    desired: { ...desired([]), cacheBytes: 1 << 20 },
    change: (actual) => {
      actual.cacheBytes = 2 << 20;
    },
    steps: ['cache.set cache'],
  },
  {
    name: 'a volume that nobody wants is closed',
    desired: desired([]),
    change: (actual) => actual.volumes.set('old', openRow(volume('old'))),
    steps: ['volume.close volume:old'],
  },
  {
    name: 'a host with another key loses its exports first',
    desired: one,
    change: (actual) => actual.hosts.set('h1', 'other'),
    steps: ['export.remove export:1'],
  },
  {
    name: 'a host with another key and no exports is removed',
    desired: one,
    change: (actual) => {
      actual.hosts.set('h1', 'other');
      actual.exports.clear();
    },
    steps: ['host.remove host:h1'],
  },
  {
    name: 'a host that the engine cannot tell the key of is kept',
    desired: one,
    change: (actual) => actual.hosts.set('h1', null),
    steps: [],
  },
  {
    name: 'a host that left the configuration goes with its exports',
    desired: one,
    hosts: [],
    change: (actual) => {
      actual.hosts.set('h1', 'id1');
    },
    steps: ['export.remove export:1'],
  },
  {
    name: 'after a restart a slow volume holds back the document, so that no host drops a device for a moment',
    desired: desired([volume('d1'), volume('d2')], [attachment(1), attachment(2)]),
    change: (actual) => {
      actual.volumes.delete('d2');
      actual.exports.delete(2);
      actual.documents.clear();
    },
    steps: ['volume.open volume:d2'],
  },
];

// With two workers, of which the second is to have d1.
const atOne: Placement = { ...ONE_WORKER, volumes: new Map([['d1', { worker: 1, placement: 7, reason: 'why' }]]) };
const planAt = (actual: IohvActual, placement: Placement, failed: string[] = []) =>
  planIohv(one, [h1], actual, new Set(failed), new Map(), placement);

describe('with several workers', () => {
  const openAt = (worker: number) => ({ ...openRow(volume('d1')), worker, placement: 7 * worker });
  const settledAt = (worker: number, told: number) => {
    const actual = settled(one, [h1]);
    actual.volumes.set('d1', openAt(worker));
    actual.documents.set('h1', devicesOf('h1', one, told === 1 ? atOne : ONE_WORKER));
    return actual;
  };

  test('a volume is opened where it belongs', () => {
    const [step] = planAt(emptyActual(), atOne);
    assert.ok(step?.do === 'volume.open');
    assert.equal(step.worker, 1);
  });

  test('a volume that belongs elsewhere is moved, then the host hears of it', () => {
    const before = planAt(settledAt(0, 0), atOne);
    assert.deepEqual(before, [{ key: 'move:d1', do: 'volume.move', name: 'd1', from: 0, to: 1, reason: 'why' }]);
    const [step, ...others] = planAt(settledAt(1, 0), atOne);
    assert.ok(step?.do === 'document.set');
    assert.deepEqual(others, []);
    assert.deepEqual(
      step.devices.filter(isDisk).map(({ worker, placement }) => [worker, placement]),
      [[1, 7]],
    );
    assert.deepEqual(planAt(settledAt(1, 1), atOne), []);
  });

  test('a host is told where a volume is, not where it is to be', () => {
    const actual = settledAt(0, 0);
    actual.documents.clear();
    const step = planAt(actual, atOne, ['move:d1']).find((other) => other.do === 'document.set');
    assert.ok(step?.do === 'document.set');
    assert.deepEqual(
      step.devices.map(({ worker }) => worker),
      [undefined],
    );
  });

  test('a volume that cannot be opened waits, with its exports, where it belongs', () => {
    const step = planAt(emptyActual(), atOne, ['volume:d1']).find((other) => other.do === 'host.add');
    assert.ok(step?.do === 'host.add');
    assert.deepEqual(
      step.exports.map(({ pending, worker }) => [pending, worker]),
      [[true, 1]],
    );
    const waiting = settledAt(0, 1);
    waiting.volumes.clear();
    waiting.exports.set(1, { ...exportRow(attachment(1)), pending: true, worker: 1 });
    assert.deepEqual(names(planAt(waiting, atOne, ['volume:d1'])), ['volume.open volume:d1']);
  });

  test('an export follows its volume, and is not made anew for that', () => {
    const actual = settledAt(1, 1);
    actual.exports.set(1, { ...exportRow(attachment(1)), worker: 0 });
    assert.deepEqual(planAt(actual, atOne), []);
  });

  test('a volume that nobody wants is closed, not moved', () => {
    const actual = settledAt(0, 0);
    actual.exports.clear();
    const gone = desired([volume('d1', { phase: 'deleting' })]);
    actual.documents.set('h1', []);
    const steps = planIohv(gone, [h1], actual, new Set(), new Map(), atOne);
    assert.deepEqual(names(steps), ['volume.close volume:d1']);
  });
});

for (const { name, desired: state, hosts = [h1], change, failed = [], steps } of cases) {
  test(name, () => {
    const actual = settled(state, hosts);
    change?.(actual);
    assert.deepEqual(names(plan(state, hosts, actual, failed)), steps);
  });
}

test('a host brings all its exports, and says of which the volume is not open', () => {
  const state = desired([volume('d1'), volume('d2')], [attachment(1), attachment(2)]);
  const actual = emptyActual();
  actual.volumes.set('d1', openRow(volume('d1')));
  const step = plan(state, [h1], actual, ['volume:d2']).find(({ key }) => key === 'host:h1');
  assert.ok(step?.do === 'host.add');
  assert.deepEqual(step.exports, [
    { id: 1, generation: 1, volume: 'd1', readOnly: false, weight: 100, pending: false, worker: 0, placement: 0 },
    { id: 2, generation: 2, volume: 'd2', readOnly: false, weight: 100, pending: true, worker: 0, placement: 0 },
  ]);
});

test('a device is announced as soon as its size is known, and its entry depends on nothing else', () => {
  const state = desired([volume('d1'), volume('d2', { geometry: null })], [attachment(1), attachment(2)]);
  const devices = devicesOf('h1', state).filter(isDisk);
  assert.deepEqual(
    devices.map(({ id, size, serial }) => ({ id, size, serial })),
    [{ id: 1, size: 1 << 30, serial: 'd1' }],
  );
  assert.deepEqual(devicesOf('h2', state), []);
});

test('serial numbers fit and differ', () => {
  const [a, b] = [serialOf('a-very-long-name-of-a-volume-1'), serialOf('a-very-long-name-of-a-volume-2')];
  assert.ok(a.length <= 20 && b.length <= 20);
  assert.notEqual(a, b);
  assert.equal(serialOf('disk1'), 'disk1');
});

test('every plan that is carried out in any order ends where all is settled', () => {
  const state = desired([volume('d1'), volume('d2')], [attachment(1), attachment(2, { host: 'h2' })]);
  const hosts = [h1, { name: 'h2', keyBase64: 'k2', keyId: 'id2' }];
  for (const pick of [(n: number) => n - 1, () => 0, (n: number) => n >> 1]) {
    const actual = emptyActual();
    for (let round = 0; round < 50; round++) {
      const steps = plan(state, hosts, actual);
      const step = steps[pick(steps.length)];
      if (step === undefined) {
        break;
      }
      apply(step, actual);
    }
    assert.deepEqual(plan(state, hosts, actual), []);
    assert.deepEqual([...actual.exports.keys()].sort(), [1, 2]);
  }
});

function apply(step: IohvStep, actual: IohvActual): void {
  if (step.do === 'volume.open') {
    actual.volumes.set(step.volume.name, openRow(step.volume));
  } else if (step.do === 'host.add') {
    actual.hosts.set(step.host.name, step.host.keyId);
    for (const row of step.exports) {
      actual.exports.set(row.id, { ...row, host: step.host.name });
    }
  } else if (step.do === 'export.add') {
    actual.exports.set(step.row.id, step.row);
  } else if (step.do === 'document.set') {
    actual.documents.set(step.host, step.devices);
  } else {
    assert.fail(`unexpected ${step.do}`);
  }
}

// --- host agent ---

const entry: DiskEntry = {
  ...{ id: 1, generation: 1, vm: 'web', disk: 'd1', volume: 'd1', size: 1 << 30, blockSize: 512 },
  ...{ physicalBlockSize: 4096, queues: 1, readOnly: false, discard: true, writeZeroes: true, serial: 'd1' },
};
const hostNames = (devices: DeviceEntry[] | undefined, actual: DeviceEntry[], left: number[] = []) =>
  planHost(devices, '/s', new Map(actual.map((device) => [device.id, toDeviceArgs(device, '/s')])), new Set(left)).map(
    (step) => `${step.do} ${'device' in step ? `${step.device.id} ${step.device.socket}` : step.id}`,
  );

test('a host agent drops what the last engine left and nobody wants, when it knows what is wanted', () => {
  assert.deepEqual(hostNames(undefined, [], [1, 2]), []);
  assert.deepEqual(hostNames([entry], [], [1, 2]), ['device.add 1 /s/web/d1.sock', 'device.drop 2']);
  assert.deepEqual(hostNames([entry], [entry], [1]), []);
});

test('a host agent touches nothing before the I/O hypervisor has spoken', () => {
  assert.deepEqual(hostNames(undefined, [entry]), []);
});

test('a host agent keeps a device that has not changed', () => {
  assert.deepEqual(hostNames([entry], [entry]), []);
});

test('a host agent adds and removes devices', () => {
  assert.deepEqual(hostNames([entry], []), ['device.add 1 /s/web/d1.sock']);
  assert.deepEqual(hostNames([], [entry]), ['device.remove 1 /s/web/d1.sock']);
});

test('a device with a new generation or size is removed before it is added', () => {
  assert.deepEqual(hostNames([{ ...entry, generation: 2 }], [entry]), ['device.remove 1 /s/web/d1.sock']);
  assert.deepEqual(hostNames([{ ...entry, size: 1 << 20 }], [entry]), ['device.remove 1 /s/web/d1.sock']);
});

test('a device that another worker serves is told so, and stays', () => {
  const steps = planHost([{ ...entry, worker: 3 }], '/s', new Map([[1, toDeviceArgs(entry, '/s')]]));
  assert.deepEqual(
    steps.map((step) => step.do === 'device.set' && step.change),
    [{ id: 1, worker: 3, placement: 0 }],
  );
  assert.deepEqual(hostNames([{ ...entry, worker: 0 }], [entry]), [], 'left out, it is the first');
});

test('a device that takes over the socket of another waits until that is gone', () => {
  assert.deepEqual(hostNames([{ ...entry, id: 2 }], [entry]), ['device.remove 1 /s/web/d1.sock']);
});

test('a volume that lost data stays as it is while it is attached, and is opened anew when it is not', () => {
  const fault = 'flush: EIO';
  const attached = desired([volume('d1', { fault })], [attachment(1)]);
  const actual = settled(attached, [h1]);
  actual.volumes.set('d1', { ...openRow(volume('d1')), flushFailed: true });
  assert.deepEqual(plan(attached, [h1], actual), []);
  const detached = desired([volume('d1')]);
  actual.exports.clear();
  actual.documents.clear();
  assert.ok(names(plan(detached, [h1], actual)).includes('volume.close volume:d1'));
});
