import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Protection } from '../../../src/supervisor/domain-planner.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import { type Desired, type Nic, type NicAttachment, ONE_WORKER } from '../../../src/supervisor/model.js';
import { type NicPlanInput, planNics, portOf } from '../../../src/supervisor/nic-planner.js';

const nic: Nic = {
  ...{ name: 'n1', kind: 'tap', interface: 'tap1', bridge: 'br0', parent: null, mode: null, hub: null },
  ...{ mac: '52:54:00:00:00:01', mtu: 1500, addresses: [], spoofCheck: true, linkUp: true },
  ...{ rate: { tx: NO_LIMIT, rx: NO_LIMIT }, phase: 'ready' },
};
const use: NicAttachment = { id: 1, generation: 1, vm: 'web', host: 'h1', nic: 'n1', queues: 1, qmp: null };
const told = { ...({ kind: 'net', id: 1, generation: 1, vm: 'web', nic: 'n1', mac: nic.mac } as const), mtu: 1500 };
const desired = (nics: Nic[], nicAttachments: NicAttachment[]): Desired => ({
  ...{
    revision: 1,
    cacheBytes: null,
    volumes: [],
    snapshots: [],
    dying: [],
    merges: [],
    attachments: [],
    nics,
    nicAttachments,
    domains: [],
  },
});

/** The engine has n1 open for web, and h1 was told. */
function steps(wanted: Desired, changes: Partial<NicPlanInput> = {}): string[] {
  const documents = new Map([['h1', [{ ...told, queues: 1, linkUp: true }]]]);
  const open = new Map([[1, portOf(nic, use, ONE_WORKER)]]);
  const settled = { hostIsCurrent: (name: string) => name === 'h1', ready: new Set(['n1']), open, documents };
  const engine = { open: new Map(), volumes: new Map(), exports: new Map(), workerOf: () => 0 };
  const protection = new Protection({ desired: wanted, ...engine });
  return planNics({
    desired: wanted,
    ...settled,
    guests: new Map(),
    placement: ONE_WORKER,
    protection,
    ...changes,
  }).map((step) => step.do);
}

const both = desired([nic], [use]);
const nothing = { open: new Map() };

const atTwo = { ...ONE_WORKER, nics: new Map([['n1', 2]]) };

test('it is opened with the worker of its place, and stays with the one where it is open', () => {
  assert.equal(portOf(nic, use, atTwo).worker, 2);
  assert.equal(portOf(nic, use, ONE_WORKER).worker, 0);
  assert.deepEqual(steps(both, { placement: atTwo }), []);
});

const cases: [string, string[], string[]][] = [
  ['nothing to do when all is there', steps(both), []],
  ['the interface comes first', steps(both, { ...nothing, ready: new Set() }), ['nic.setup']],
  ['then it is opened', steps(both, nothing), ['nic.open']],
  ['not before its host is there', steps(both, { ...nothing, hostIsCurrent: () => false }), []],
  [
    'one that is not attached is set up only',
    steps(desired([nic], []), { ...nothing, ready: new Set() }),
    ['nic.setup'],
  ],
  ['it stays open until its host was told of the detach', steps(desired([nic], [])), []],
  ['then it is closed', steps(desired([nic], []), { documents: new Map([['h1', []]]) }), ['nic.close']],
  ['it is closed when its host left', steps(both, { hostIsCurrent: () => false }), ['nic.close']],
  [
    'another generation is opened after the old one is closed',
    steps(desired([nic], [{ ...use, generation: 2 }])),
    ['nic.close'],
  ],
  [
    'one whose interface went is closed',
    steps(both, { open: new Map([[1, { ...portOf(nic, use, ONE_WORKER), gone: true }]]) }),
    ['nic.close'],
  ],
  ['it is erased when it is closed', steps(desired([{ ...nic, phase: 'deleting' }], []), nothing), ['nic.erase']],
  ['what can be changed is set', steps(desired([{ ...nic, linkUp: false }], [use])), ['nic.set']],
  [
    'what the guest negotiated is set',
    steps(both, { guests: new Map([[1, { features: '0x2', filter: null }]]) }),
    ['nic.set'],
  ],
];

for (const [name, planned, expected] of cases) {
  test(name, () => {
    assert.deepEqual(planned, expected);
  });
}
