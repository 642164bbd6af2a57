// The planner of protection domains, as a pure function: which step is next, and who may do what meanwhile.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isOutdated, Protection } from '../../../src/supervisor/domain-planner.js';
import type {
  Attachment,
  Desired,
  Domain,
  DomainMember,
  NicAttachment,
  ProtectedVolume,
} from '../../../src/supervisor/model.js';
import type { DomainRow, ExportRow, VolumeRow } from '../../../src/supervisor/protocol.js';

const member = (vm: string, role: DomainMember['role'] = 'active', generation = 1): DomainMember => ({
  ...{ vm, role, generation: role === 'standby' ? 0 : generation },
});
const protectedVolume = (volume: string, leaving = false): ProtectedVolume => ({
  volume,
  id: `id of ${volume}`,
  leaving,
});

/** web, which has d1. */
function domain(changes: Partial<Domain> = {}): Domain {
  return {
    ...{
      id: 1,
      name: 'ft',
      bytes: 1 << 20,
      journal: { path: '/j', bytes: 2 << 20, id: 'j' },
      generation: 1,
      worker: 0,
    },
    ...{ overflow: 'push-back', commitTimeoutMs: 0, phase: 'ready', intent: null, resumeEpoch: null, createdAt: 0 },
    ...{ members: [member('web')], volumes: [protectedVolume('d1')] },
    ...changes,
  };
}

const never = { count: 0, totalNs: 0, maxNs: 0 };

/** As the engine has it. */
function domainRow({ id, name, generation, overflow, commitTimeoutMs }: Domain): DomainRow {
  return {
    ...{ id, name, state: 'running', generation, open: 1, committed: 0, applied: 0, bytes: 0, bytesMax: 1 << 20 },
    ...{ waiting: 0, packets: 0, packetsFenced: 0, packetsLost: 0, writesFenced: 0, cuts: 0, commits: 0, overflows: 0 },
    ...{ unprotected: false, connections: 0, recordsBad: 0, overflow, commitTimeoutMs, worker: 0 },
    times: { cut: never, sync: never, release: never, apply: never },
  };
}

/** In the domain of this id; null: in none. */
function volumeRow(name: string, of: number | null = 1): VolumeRow {
  return {
    ...{ name, kind: 'file', path: `/v/${name}`, readOnly: false, flushFailed: false, errors: 0, lastError: null },
    ...{ size: 1 << 20, blockSize: 512, physicalBlockSize: 512, direct: true, discard: true, writeZeroes: true },
    ...(of === null ? {} : { domain: { id: of, volumeId: `id of ${name}` } }),
  };
}

const attachment = (id: number, vm: string, changes: Partial<Attachment> = {}): Attachment => ({
  ...{ id, generation: id, vm, disk: 'd1', host: 'h1', volume: 'd1', readOnly: false, queues: 1, weight: 100 },
  ...changes,
});
const nicAttachment = (vm: string): NicAttachment => ({
  ...{ id: 9, generation: 9, vm, host: 'h1', nic: 'nic1', queues: 1, qmp: null },
});
const exportRow = ({ id, generation, host, volume, readOnly, weight }: Attachment): ExportRow => ({
  ...{ id, generation, host, volume, readOnly, weight, pending: false },
});

interface World {
  domains: Domain[];
  attachments?: Attachment[];
  /** Of the engine: default as is wanted. */
  open?: DomainRow[];
  volumes?: VolumeRow[];
  exports?: ExportRow[];
}

function protection({ domains, attachments = [attachment(1, 'web')], ...engine }: World): Protection {
  const desired: Desired = {
    ...{ revision: 1, cacheBytes: null, volumes: [], snapshots: [], dying: [], merges: [], nics: [] },
    ...{ attachments, nicAttachments: [], domains },
  };
  const { open = domains.map(domainRow), volumes = [volumeRow('d1')], exports = attachments.map(exportRow) } = engine;
  return new Protection({
    desired,
    open: new Map(open.map((row) => [row.id, row])),
    volumes: new Map(volumes.map((row) => [row.name, row])),
    exports: new Map(exports.map((row) => [row.id, row])),
    workerOf: () => 3,
  });
}

const taken = domain({ generation: 2, members: [member('copy', 'active', 2), member('web', 'fenced')] });
const fencing = { ...taken, intent: 'abort' as const };
const older = { ...domainRow(taken), generation: 1 };
const late = attachment(7, 'web');

interface Case extends World {
  name: string;
  steps: string[];
}

const cases: Case[] = [
  { name: 'nothing is to be done when the engine has everything', domains: [domain()], steps: [] },
  {
    name: 'its journal is made first',
    domains: [domain({ phase: 'creating' })],
    open: [],
    steps: ['domain.create domain:ft'],
  },
  {
    name: 'one that the engine has, but that is not known to have been open, gets nothing yet',
    domains: [domain({ phase: 'creating' })],
    volumes: [volumeRow('d1', null)],
    steps: ['domain.create domain:ft'],
  },
  { name: 'it is opened', domains: [domain()], open: [], volumes: [], steps: ['domain.open domain:ft'] },
  {
    name: 'a volume that is open comes to it',
    domains: [domain()],
    volumes: [volumeRow('d1', null)],
    steps: ['volume.protect protect:d1'],
  },
  {
    name: 'a volume with another worker does not come: it is moved first',
    domains: [domain()],
    volumes: [{ ...volumeRow('d1', null), worker: 1 }],
    steps: [],
  },
  {
    name: 'a volume does not come while a takeover is not done',
    domains: [fencing],
    volumes: [volumeRow('d1', null)],
    steps: ['domain.fence fence:ft'],
  },
  {
    name: 'a takeover is done though the engine has its generation: what was to be done with it is not',
    domains: [fencing],
    steps: ['domain.fence fence:ft'],
  },
  {
    name: 'an older engine is fenced though nothing else is to be done',
    domains: [taken],
    open: [older],
    steps: ['domain.fence fence:ft'],
  },
  {
    name: 'a policy is set, but a fence goes before it',
    domains: [
      domain({ overflow: 'unprotect' }),
      domain({ id: 2, name: 'two', commitTimeoutMs: 5, volumes: [] }),
      { ...fencing, id: 3, name: 'three', commitTimeoutMs: 5, volumes: [] },
    ],
    open: [domainRow(domain()), domainRow(domain({ id: 2 })), { ...older, id: 3 }],
    steps: ['domain.set domain:ft', 'domain.set domain:two', 'domain.fence fence:three'],
  },
  {
    name: 'a volume that is detached is released',
    domains: [domain({ volumes: [protectedVolume('d1', true)] })],
    attachments: [],
    steps: ['volume.release protect:d1'],
  },
  {
    name: 'a volume is not released while an export of a VM that is detached is there',
    domains: [domain({ volumes: [protectedVolume('d1', true)] })],
    attachments: [],
    exports: [exportRow(late)],
    steps: [],
  },
  {
    name: 'a removal waits for the volumes of which it may hold something',
    domains: [domain({ phase: 'deleting' })],
    volumes: [],
    steps: [],
  },
  {
    name: 'a removal commits what it holds',
    domains: [domain({ phase: 'deleting' })],
    steps: ['domain.remove domain:ft'],
  },
  {
    name: 'a removal that had begun is opened again: what it holds is to be committed',
    domains: [domain({ phase: 'deleting' })],
    open: [],
    steps: ['domain.open domain:ft'],
  },
  {
    name: 'a removal that let everything go is not opened again',
    domains: [domain({ phase: 'deleting', members: [], volumes: [] })],
    open: [],
    steps: ['domain.remove domain:ft'],
  },
  {
    name: 'a domain that nobody knows of is closed',
    domains: [],
    attachments: [],
    open: [domainRow(domain())],
    steps: ['domain.close domain:ft'],
  },
  {
    name: 'a domain that nobody knows of is not closed while a volume of it is exported',
    domains: [],
    open: [domainRow(domain())],
    steps: [],
  },
];

describe('steps of protection domains', () => {
  for (const { name, steps, ...world } of cases) {
    test(name, () => {
      const planned = protection(world).steps();
      assert.deepEqual(
        planned.map((step) => `${step.do} ${step.key}`),
        steps,
      );
    });
  }

  test('bear what the engine needs', () => {
    const [open] = protection({ domains: [domain()], open: [] }).steps();
    assert.equal(open?.do === 'domain.open' && open.worker, 3);
    const [protect] = protection({ domains: [taken], volumes: [volumeRow('d1', null)] }).steps();
    const of = { id: 1, volumeId: 'id of d1' };
    assert.deepEqual(protect, { key: 'protect:d1', do: 'volume.protect', name: 'd1', domain: of, generation: 2 });
    const leaving = { ...taken, volumes: [protectedVolume('d1', true)] };
    const [release] = protection({ domains: [leaving], attachments: [] }).steps();
    assert.deepEqual(release, { key: 'protect:d1', do: 'volume.release', name: 'd1', generation: 2 });
  });
});

describe('what a VM may do', () => {
  const copies = [member('web'), member('copy', 'standby')];

  test('one that runs has its generation, a copy waits, anybody else needs no permission', () => {
    const plan = protection({ domains: [domain({ members: copies })] });
    assert.deepEqual(plan.permissionOf(attachment(1, 'web')), { domainGeneration: 1 });
    assert.deepEqual(plan.permissionOf(attachment(2, 'copy')), { standby: true });
    assert.deepEqual(plan.permissionOf(attachment(3, 'other')), {});
    assert.deepEqual(plan.permissionOf(attachment(1, 'web', { readOnly: true })), {});
    const early = protection({ domains: [domain()], volumes: [volumeRow('d1', null)] });
    assert.deepEqual(early.permissionOf(attachment(1, 'web')), {}, 'the volume is not in the domain yet');
  });

  test('after a takeover nobody new runs before the engine has fenced; the old one keeps what is refused', () => {
    const [web, copy] = [attachment(1, 'web'), attachment(2, 'copy')];
    for (const [what, world] of Object.entries({
      'an intent is there': { domains: [fencing] },
      'the engine is behind': { domains: [taken], open: [older] },
    })) {
      assert.deepEqual(protection(world).permissionOf(copy), { standby: true }, what);
      assert.deepEqual(protection(world).permissionOf(web), { domainGeneration: 1 }, what);
      assert.equal(protection(world).mayOpen(nicAttachment('copy')), false, what);
    }
    const done = protection({ domains: [taken] });
    assert.deepEqual(done.permissionOf(copy), { domainGeneration: 2 });
    assert.deepEqual(done.permissionOf(web), { domainGeneration: 1 });
    assert.deepEqual([done.mayOpen(nicAttachment('copy')), done.mayOpen(nicAttachment('web'))], [true, false]);
  });

  test('a NIC is open for who runs, and for who is in no domain', () => {
    const plan = protection({ domains: [domain({ members: copies })] });
    const mayOpen = ['web', 'copy', 'other'].map((vm) => plan.mayOpen(nicAttachment(vm)));
    assert.deepEqual(mayOpen, [true, false, true]);
    assert.equal(protection({ domains: [domain()], open: [] }).mayOpen(nicAttachment('web')), false);
  });

  test('what a NIC sends is held as soon as it can be, and stays so until the domain is removed', () => {
    const held = { id: 1, generation: 1 };
    const nic = nicAttachment('web');
    const plan = protection({ domains: [domain()] });
    assert.deepEqual(
      [undefined, null, held].map((present) => plan.nicDomainOf(nic, present)),
      [held, held, held],
    );
    assert.equal(plan.nicDomainOf(nicAttachment('other'), held), null);
    const away = protection({ domains: [domain()], open: [] });
    assert.equal(away.nicDomainOf(nic, null), null, 'it goes on without until the domain is there');
    assert.deepEqual(away.nicDomainOf(nic, undefined), held, 'one that is not open does not open without');
    const removed = protection({ domains: [domain({ phase: 'deleting' })] });
    assert.equal(removed.nicDomainOf(nic, null), null);
    assert.deepEqual(removed.nicDomainOf(nic, held), held);
  });
});

describe('a volume of a domain', () => {
  test('is opened in it, when it is there', () => {
    const plan = protection({ domains: [domain()] });
    assert.deepEqual(plan.domainOf('d1'), { id: 1, volumeId: 'id of d1' });
    assert.equal(plan.domainOf('d2'), undefined);
    assert.deepEqual([plan.canOpen('d1'), plan.canOpen('d2')], [true, true]);
    assert.deepEqual(plan.keysFor('d1'), ['domain:ft', 'move:d1', 'protect:d1']);
    assert.deepEqual(plan.keysFor('d2'), []);
    assert.equal(protection({ domains: [domain()], open: [] }).canOpen('d1'), false);
  });

  test('is where it shall be, on its way, or in a domain that nobody knows of', () => {
    const where = (row: VolumeRow, leaving = false) => {
      const plan = protection({ domains: [domain({ volumes: [protectedVolume('d1', leaving)] })] });
      return [plan.isInPlace(row), plan.isStray(row)];
    };
    assert.deepEqual(where(volumeRow('d1')), [true, false]);
    assert.deepEqual(where(volumeRow('d1'), true), [false, false]);
    assert.deepEqual(where(volumeRow('d1', null)), [false, false]);
    assert.deepEqual(where(volumeRow('d1', 2)), [false, true]);
    assert.deepEqual(where(volumeRow('d2')), [false, true]);
    assert.deepEqual(where(volumeRow('d2', null)), [true, false]);
  });
});

test('an export is added again when it waits no longer, or has another generation, but never to wait', () => {
  const row = exportRow(attachment(1, 'web'));
  const waits: ExportRow = { ...row, standby: true };
  const runs: ExportRow = { ...row, domainGeneration: 1 };
  const outdated = (wanted: Parameters<typeof isOutdated>[0]) =>
    [row, waits, runs].map((one) => isOutdated(wanted, one));
  assert.deepEqual(outdated({}), [false, true, true]);
  assert.deepEqual(outdated({ domainGeneration: 1 }), [true, true, false]);
  assert.deepEqual(outdated({ domainGeneration: 2 }), [true, true, true]);
  assert.deepEqual(outdated({ standby: true }), [false, false, false]);
});
