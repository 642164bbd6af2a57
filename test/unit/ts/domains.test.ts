// Protection domains, through a real REST interface on a unix socket, with the engine's double.
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import type { CommitAnswer, CutAnswer, DomainView, FencedAnswer } from '../../../src/api/domain-schemas.js';
import type { NicView } from '../../../src/api/nic-schemas.js';
import type { EventView, IohvStatus, VmView, VolumeView } from '../../../src/api/schemas.js';
import { ApiClient } from '../../../src/cli/client.js';
import { OutriggerError } from '../../../src/errors.js';
import { journalBytesMin } from '../../../src/supervisor/domain-operations.js';
import type { DomainRow, EngineCommands, ExportRow, NicRow, VolumeRow } from '../../../src/supervisor/protocol.js';
import { beginIohv, type Life } from './iohv-life.js';
import { commandsOf, emit, outrigger, type Scratch, scratch, tellEngine, until } from './support.js';

const MIB = 1 << 20;

let dir: Scratch;
let life: Life;
let api: ApiClient;

const running = () => until('the engine runs', () => life.supervisor.engineStatus().state === 'running');

async function begin(options = {}): Promise<void> {
  life = await beginIohv(dir, options);
  api = new ApiClient({ socket: `${dir.dir}/api.sock` });
  await running();
}

beforeEach(async () => {
  dir = scratch();
  await begin();
});

afterEach(async () => {
  await life.end();
  dir.remove();
});

const PATH = '/v1/domains/ft';
const make = (name: string) => api.call('PUT', `/v1/volumes/${name}`, { size: MIB });
const makeNic = (name: string) => api.call('PUT', `/v1/nics/${name}`, { hub: 'lab' });
const attach = (vm: string, volumes: string[], nics: string[] = [], host = 'h1') =>
  api.call('POST', '/v1/attachments', {
    ...{ vm, host, disks: volumes.map((volume) => ({ volume })), nics: nics.map((nic) => ({ nic })) },
  });
const create = (body: object = {}) =>
  api.call<DomainView>('POST', '/v1/domains', { name: 'ft', vms: ['web'], bytes: MIB, ...body });
const show = () => api.get<DomainView>(PATH);
const act = <T = FencedAnswer>(what: string, body: object = {}) => api.call<T>('POST', `${PATH}/${what}`, body);
const rows = async () => (await tellEngine(dir.dir, 'domain.list')) as DomainRow[];
const volumes = async () => (await tellEngine(dir.dir, 'volume.list')) as VolumeRow[];
const kill = async () => {
  process.kill(life.supervisor.engineStatus().pid ?? 0, 'SIGKILL');
  await until('the engine is gone', () => life.supervisor.engineStatus().state !== 'running');
  await running();
};

const refusal =
  (code: string, detail = /./, hint = /./) =>
  (error: unknown) => {
    assert.ok(error instanceof OutriggerError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, detail);
    assert.match(error.hint, hint);
    return true;
  };

/** `web gen 1`, `copy standby`, `copy pending`, in the order of ids. */
async function exported(): Promise<string[]> {
  const list = (await tellEngine(dir.dir, 'export.list')) as ExportRow[];
  const vms = new Map(life.store.desired().attachments.map(({ id, vm }) => [id, vm]));
  const how = ({ pending, standby, domainGeneration }: ExportRow) =>
    pending ? 'pending' : standby ? 'standby' : domainGeneration ? `gen ${domainGeneration}` : 'free';
  return list.sort((a, b) => a.id - b.id).map((row) => `${vms.get(row.id)} ${how(row)}`);
}

async function nicsOpen(): Promise<string[]> {
  const list = (await tellEngine(dir.dir, 'nic.list')) as NicRow[];
  const vms = new Map(life.store.desired().nicAttachments.map(({ id, vm }) => [id, vm]));
  return list.map(({ id, domain }) => `${vms.get(id)} ${domain ? `gen ${domain.generation}` : 'free'}`);
}

const order = async (...cmds: (keyof EngineCommands)[]) =>
  (await commandsOf(dir.dir)).filter((cmd) => cmds.includes(cmd as keyof EngineCommands));

/** web runs on d1 and nic1, copy has them too. */
async function pair(): Promise<void> {
  await make('d1');
  await makeNic('nic1');
  await attach('web', ['d1'], ['nic1']);
  await create({ standbys: ['copy'] });
  await attach('copy', ['d1'], ['nic1'], 'h2');
}

test('a VM that runs is protected: its disks first, and then its NICs hold what they have', async () => {
  await make('d1');
  await make('ro');
  await makeNic('nic1');
  await api.call('POST', '/v1/attachments', {
    ...{ vm: 'web', host: 'h1', nics: [{ nic: 'nic1' }] },
    disks: [{ volume: 'd1' }, { volume: 'ro', read_only: true }],
  });
  assert.deepEqual(await exported(), ['web free', 'web free']);
  const view = await create();
  assert.deepEqual([view.state, view.generation, view.counters?.committed], ['running', 1, 0]);
  assert.deepEqual(view.volumes, [{ volume: 'd1', state: 'protected' }]);
  assert.deepEqual(view.members, [{ vm: 'web', role: 'active', generation: 1 }]);
  assert.equal(view.counters?.times.sync.mean_us, 1.5);
  assert.deepEqual(await exported(), ['web gen 1', 'web free']);
  assert.deepEqual(await nicsOpen(), ['web gen 1']);
  assert.deepEqual(await order('journal.create', 'domain.open', 'volume.protect'), [
    'journal.create',
    'domain.open',
    'volume.protect',
  ]);
  assert.deepEqual(await create(), await show(), 'it is there already');
  assert.match((await outrigger(['protect', 'domain', 'ls'], env())).stdout, /^ft +running +1 +1 +0 +0 of 1M +web$/m);
});

const env = () => ({ OUTRIGGER_SOCKET: `${dir.dir}/api.sock` });

test('the next engine has the domain before its volumes, and these in it before anything can use them', async () => {
  await make('d1');
  await make('d2');
  await attach('web', ['d1']);
  await create();
  await kill();
  await until('it is served', async () => (await exported()).join() === 'web gen 1');
  assert.deepEqual((await volumes()).map(({ name, domain }) => `${name} ${domain?.id}`).sort(), [
    'd1 1',
    'd2 undefined',
  ]);
  assert.deepEqual(await order('domain.open', 'host.add', 'volume.protect'), ['domain.open', 'host.add', 'host.add']);
});

test('a disk that comes later is protected, and one that goes is released when it is applied', async () => {
  await make('d1');
  await make('d2');
  await attach('web', ['d1']);
  await create();
  await attach('web', ['d2']);
  assert.deepEqual(await exported(), ['web gen 1', 'web gen 1']);
  await api.call('DELETE', '/v1/attachments/web/d2?force=true');
  await until('it is out', async () => (await show()).volumes.length === 1);
  assert.deepEqual((await volumes()).map(({ name, domain }) => `${name} ${domain?.id}`).sort(), [
    'd1 1',
    'd2 undefined',
  ]);
  await api.call('DELETE', '/v1/volumes/d2');
});

test('a copy shares disks and NICs, waits, and is told to its host; anybody else is refused', async () => {
  await pair();
  await assert.rejects(attach('other', ['d1']), refusal('volume_busy'));
  await assert.rejects(attach('other', [], ['nic1']), refusal('nic_busy'));
  assert.deepEqual(await exported(), ['web gen 1', 'copy standby']);
  assert.deepEqual(await nicsOpen(), ['web gen 1']);
  const copy = await api.get<VmView>('/v1/vms/copy');
  assert.match(copy.disks[0]?.reason ?? '', /wait until copy takes over in the protection domain ft/);
  assert.equal((await api.get<NicView>('/v1/nics/nic1')).attachment?.vm, 'web');
  const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: { host: string; document: string } }[];
  const last = log.filter(({ cmd, args }) => cmd === 'document.set' && args.host === 'h2').at(-1);
  assert.equal((JSON.parse(last?.args.document ?? '{}') as { devices: unknown[] }).devices.length, 2);
});

test('a takeover fences and aborts before the copy may do anything, and says where it may resume', async () => {
  await pair();
  const { epoch } = await act<CutAnswer>('cut');
  await act('commit', { epoch });
  await tellEngine(dir.dir, 'test.dirty', { id: 1 });
  assert.deepEqual(await act('takeover'), { generation: 2, committed: epoch });
  await until('the copy is served', async () => (await exported()).join() === 'web gen 1,copy gen 2');
  await until('and its NIC', async () => (await nicsOpen()).join() === 'copy gen 2');
  assert.deepEqual((await order('domain.fence', 'domain.abort', 'export.add')).slice(-3), [
    'domain.fence',
    'domain.abort',
    'export.add',
  ]);
  assert.deepEqual(
    (await show()).members.map(({ vm, role, generation }) => `${vm} ${role} ${generation}`),
    ['copy active 2', 'web fenced 1'],
  );
  await assert.rejects(act('cut', { generation: 1 }), refusal('domain_stale', /./, /present generation is 2/));
  for (const again of [{}, { vms: ['copy'] }, { force: true }]) {
    assert.deepEqual(await act('takeover', again), { generation: 2, committed: epoch }, 'as it was');
  }
  await kill();
  await until('both are there', async () => (await exported()).join() === 'web gen 1,copy gen 2');
  assert.deepEqual(await act('takeover'), { generation: 2, committed: epoch }, 'for another engine too');
});

test('a copy that has committed since it took over is not said to resume where it began', async () => {
  await pair();
  await act('takeover');
  const { epoch } = await act<CutAnswer>('cut');
  await act('commit', { epoch });
  for (const again of [{}, { vms: ['copy'] }]) {
    await assert.rejects(act('takeover', again), refusal('domain_standby', /./, /also a copy that has taken over/));
  }
  assert.equal((await show()).generation, 2);
});

test('a reset is no takeover, and a copy that must be taken back is not said to resume', async () => {
  await pair();
  await act('takeover');
  dir.file('lost', '');
  await kill();
  await until('it is open', async () => (await show()).state === 'rewind');
  await assert.rejects(act('takeover'), refusal('domain_rewind'));
  await act('reset');
  await api.call('DELETE', '/v1/vms/web?force=true');
  await until('it is gone', async () => (await exported()).length === 1);
  await api.call('DELETE', `${PATH}/members/web`);
  await assert.rejects(act('takeover', { vms: ['copy'] }), refusal('domain_standby'));
});

test('a takeover waits for another one that is decided, and then is one of its own', async () => {
  await pair();
  life.store.domains.takeOver(1, [], 'abort');
  assert.deepEqual(await act('takeover'), { generation: 3, committed: 0 });
  assert.equal(await active(), 'copy');
});

test('a takeover is the same whenever the engine dies, and repeating it decides nothing anew', async () => {
  await pair();
  for (const moment of ['fatal-fence', 'late-fence', 'fatal-abort', 'late-abort']) {
    const { epoch } = await act<CutAnswer>('cut');
    await act('commit', { epoch });
    await tellEngine(dir.dir, 'test.dirty', { id: 1 });
    const before = (await show()).generation;
    dir.file(moment, '');
    const { committed, generation } = await act('takeover', { vms: [await standby()] });
    assert.equal(committed, epoch, moment);
    assert.ok(generation > before && generation <= before + 2, `${moment}: generation ${generation}`);
    const [row] = await rows();
    assert.deepEqual([row?.generation, row?.bytes, row?.open], [generation, 0, epoch + 1], moment);
    await until('the new one is served', async () =>
      (await exported()).includes(`${await active()} gen ${generation}`),
    );
    await rejoin();
  }
});

const named = async (role: string) => (await show()).members.find((member) => member.role === role)?.vm ?? '';
const standby = () => named('standby');
const active = () => named('active');

/** The fenced copy becomes a standby. */
async function rejoin(): Promise<void> {
  const vm = await named('fenced');
  await assert.rejects(api.call('DELETE', `${PATH}/members/${vm}`), refusal('domain_shared', /./, /detach/));
  await api.call('DELETE', `/v1/vms/${vm}?force=true`);
  await until('it is gone', async () => (await exported()).length === 1);
  await api.call('DELETE', `${PATH}/members/${vm}`);
  await act('members', { vm, role: 'standby' });
  await attach(vm, ['d1'], ['nic1'], vm === 'web' ? 'h1' : 'h2');
}

test('a supervisor that comes after one that died in a takeover ends it', async () => {
  await pair();
  await tellEngine(dir.dir, 'test.dirty', { id: 1 });
  life.store.domains.takeOver(1, ['copy'], 'abort');
  await life.end();
  await begin();
  await until('it is done', async () => (await show()).state === 'running');
  assert.deepEqual([(await rows())[0]?.generation, (await rows())[0]?.bytes], [2, 0]);
  assert.equal((await show()).resume_epoch, 0);
  await until('the copy is served', async () => (await exported()).join() === 'web gen 1,copy gen 2');
});

test('a takeover that keeps what is not committed does not abort; fence_only lets nobody run', async () => {
  await pair();
  await tellEngine(dir.dir, 'test.dirty', { id: 1 });
  await act('takeover', { keep_uncommitted: true });
  assert.equal((await rows())[0]?.bytes, 4096);
  const { generation } = await act('takeover', { fence_only: true });
  assert.equal(generation, 3);
  assert.deepEqual(
    (await show()).members.map(({ role }) => role),
    ['fenced', 'fenced'],
  );
  assert.equal((await act('takeover', { fence_only: true })).generation, 3);
  await api.call('POST', `${PATH}/abort`);
});

test('to fence only is told in other words than a takeover, and cannot name who takes over', async () => {
  await pair();
  const cli = (...args: string[]) => outrigger(['protect', 'domain', 'takeover', 'ft', '--fence-only', ...args], env());
  const { code, stderr } = await cli('--vm', 'copy');
  assert.equal(code, 2, stderr);
  assert.match(stderr, /vm and fence-only are mutually exclusive|fence-only and vm are mutually exclusive/);
  const both = act('takeover', { vms: ['copy'], fence_only: true });
  await assert.rejects(both, refusal('domain_fence_only', /copy/, /leave one of them out/));
  assert.equal((await show()).generation, 1);
  assert.equal((await cli()).stdout, 'everything is fenced, and nobody may run; committed up to epoch 0\n');
});

test('what is fenced already is not fenced again, and a standby that waits can take over later', async () => {
  await pair();
  assert.deepEqual(await act('takeover', { fence_only: true }), { generation: 2, committed: 0 });
  assert.deepEqual(await act('takeover', { fence_only: true }), { generation: 2, committed: 0 });
  assert.deepEqual(await act('takeover'), { generation: 3, committed: 0 });
  assert.equal(await active(), 'copy');
});

test('the status has a line for each domain, with its members, epochs and what it holds', async () => {
  const section = async () =>
    /^NAME +STATE +GENERATION.*\n(.*)\n/m.exec((await outrigger(['status'], env())).stdout)?.[1];
  assert.equal(await section(), undefined, 'there is none');
  await pair();
  await act<CutAnswer>('cut');
  await tellEngine(dir.dir, 'test.dirty', { id: 1 });
  assert.match((await section()) ?? '', /^ft +running +1 +2 +0 +4K of 1M +web, copy \(standby\)$/);
  const { domains } = await api.get<IohvStatus>('/v1/status');
  assert.deepEqual(domains, [await show()]);
});

test('what runs without protection is taken over only by force', async () => {
  await pair();
  dir.file('unprotected', '');
  await assert.rejects(act('takeover'), refusal('domain_unprotected', /./, /--force/));
  assert.match((await api.get<IohvStatus>('/v1/status')).problems.join(), /ft: more is out/);
  assert.equal((await act('takeover', { force: true })).generation, 2);
});

test('while no engine can say whether it is protected it is taken over only by force', async () => {
  await pair();
  dir.file('unprotected', '');
  dir.file('unfit', '');
  process.kill(life.supervisor.engineStatus().pid ?? 0, 'SIGKILL');
  await until('the engine is gone', () => life.supervisor.engineStatus().state !== 'running');
  await assert.rejects(act('takeover'), refusal('engine_unavailable', /what ft has let out is not known/));
  assert.equal((await show()).generation, 1);
  dir.removeFile('unfit');
  await until('it is open', async () => (await show()).state === 'running');
  await assert.rejects(act('takeover'), refusal('domain_unprotected', /./, /--force/));
});

test('who cuts and commits hears that protection was dropped meanwhile', async () => {
  await pair();
  const cli = (...args: string[]) => outrigger(['protect', 'domain', ...args], env());
  const drop = () => dir.file('unprotected', '');
  assert.deepEqual(await act<CutAnswer>('cut'), { generation: 1, epoch: 1, unprotected: false });
  drop();
  assert.deepEqual(await act<CommitAnswer>('commit', { epoch: 1 }), { generation: 1, committed: 1, unprotected: true });
  const late = await cli('commit', 'ft', '1');
  assert.deepEqual([late.stdout, late.code], ['committed up to epoch 1\n', 0]);
  assert.match(late.stderr, /^warning: protection was dropped since the last cut: .*; cut and commit again\n$/);
  assert.deepEqual(await act<CutAnswer>('cut'), { generation: 1, epoch: 2, unprotected: true });
  drop();
  const cut = await cli('cut', 'ft');
  assert.deepEqual([cut.stdout, cut.code], ['3\n', 0]);
  assert.match(cut.stderr, /^warning: protection was dropped since the cut before: .* it protects again\n$/);
  assert.deepEqual(JSON.parse((await cli('cut', 'ft', '--json')).stdout), {
    generation: 1,
    epoch: 4,
    unprotected: false,
  });
  assert.equal((await cli('commit', 'ft', '4')).stderr, '');
});

test('a domain whose held writes are lost waits for a reset, which lets the same VM run', async () => {
  await pair();
  await assert.rejects(act('reset'), refusal('domain_not_rewind', /is running/));
  dir.file('lost', '');
  await kill();
  await until('it is open', async () => (await show()).state === 'rewind');
  await assert.rejects(act('cut'), refusal('domain_refused'));
  await assert.rejects(api.call('DELETE', PATH), refusal('domain_rewind'));
  assert.match((await show()).reason, /protect domain reset ft/);
  assert.deepEqual(await act('reset'), { generation: 2, committed: 0 });
  await until('it is served', async () => (await exported()).join() === 'web gen 2,copy standby');
  await until('and its NIC', async () => (await nicsOpen()).join() === 'web gen 2');
});

test('an abort alone is refused while the present generation runs', async () => {
  await pair();
  await assert.rejects(api.call('POST', `${PATH}/abort`), refusal('domain_running', /./, /takeover ft/));
  await assert.rejects(act('commit', { epoch: 9 }), refusal('domain_epoch'));
});

test('a domain is removed when no copy is left; its VM goes on, and its journal is gone', async () => {
  await pair();
  await assert.rejects(api.call('DELETE', PATH), refusal('domain_shared', /copy/, /detach copy/));
  await api.call('DELETE', '/v1/vms/copy?force=true');
  await api.call('DELETE', PATH);
  await until('it is gone', () => life.store.desired().domains.length === 0);
  assert.deepEqual(await exported(), ['web free']);
  assert.deepEqual(await nicsOpen(), ['web free']);
  assert.deepEqual(readdirSync(`${dir.dir}/volumes`), ['d1.raw']);
  assert.deepEqual((await order('volume.protect', 'domain.cut', 'domain.commit', 'domain.close')).slice(-4), [
    'volume.protect',
    'domain.cut',
    'domain.commit',
    'domain.close',
  ]);
});

test('a removal ends though the engine dies when it has forgotten the domain, and the VM goes on', async () => {
  await make('d1');
  await attach('web', ['d1']);
  await create();
  dir.file('late-close', '');
  await api.call('DELETE', PATH).catch(() => {}); // whose engine is gone
  await until('it is gone', () => life.store.desired().domains.length === 0);
  await until('it is served', async () => (await exported()).join() === 'web free');
  assert.deepEqual(await order('domain.open'), [], 'what holds nothing any more was opened once more');
  assert.deepEqual(readdirSync(`${dir.dir}/volumes`), ['d1.raw']);
});

test('a VM that leaves its domain goes on without it', async () => {
  await make('d1');
  await attach('web', ['d1']);
  await create();
  await api.call('DELETE', `${PATH}/members/web`);
  await until('it is free', async () => (await exported()).join() === 'web free');
  assert.deepEqual((await show()).volumes, []);
});

test('a domain that cannot be opened keeps its disks from being served, and says why; force gives it up', async () => {
  await make('d1');
  await attach('web', ['d1']);
  await create();
  dir.file('damaged', '');
  await kill();
  await until('its host is let in', async () => (await exported()).join() === 'web pending');
  const view = await show();
  assert.deepEqual([view.state, view.volumes[0]?.state], ['failed', 'waiting']);
  assert.match(view.reason, /is damaged/);
  const volume = await api.get<VolumeView>('/v1/volumes/d1');
  assert.deepEqual([volume.state, volume.reason], ['opening', `it waits for the protection domain ft: ${view.reason}`]);
  await assert.rejects(api.call('DELETE', PATH), refusal('domain_unusable', /is damaged/));
  await api.call('DELETE', `${PATH}?force=true`);
  await until('it is served', async () => (await exported()).join() === 'web free');
  assert.equal(existsSync(view.journal), false);
});

test('the memory of a domain that cannot be opened is given up, also when the engine dies meanwhile', async () => {
  await make('d1');
  await attach('web', ['d1']);
  const { id } = await create();
  dir.file('damaged', '');
  await kill();
  await until('it cannot be opened', async () => (await show()).state === 'failed');
  const forgets = async () => {
    const log = (await tellEngine(dir.dir, 'test.log')) as { cmd: string; args: object }[];
    return log.filter(({ cmd }) => cmd === 'domain.close').map(({ args }) => args);
  };
  dir.file('late-close', '');
  const { pid } = life.supervisor.engineStatus();
  await api.call('DELETE', `${PATH}?force=true`);
  await until('it is gone', () => life.store.desired().domains.length === 0);
  await running();
  assert.notEqual(life.supervisor.engineStatus().pid, pid, 'it did not die');
  assert.deepEqual(await forgets(), [{ id, forget: true }], 'nobody knows whether the first one had done it');
  assert.deepEqual(readdirSync(`${dir.dir}/volumes`), ['d1.raw']);
});

test('a domain that cannot be opened is not made: the answer says why, its VM goes on, and nothing is left', async () => {
  await make('d1');
  await attach('web', ['d1']);
  for (const [trouble, why] of [
    ['no-journals', /ft is not created: .*File too large/],
    ['damaged', /ft is not created: .*is damaged/],
  ] as const) {
    dir.file(trouble, '');
    await assert.rejects(create(), refusal('domain_not_created', why, /protect\.journal_dir/));
    await assert.rejects(show(), refusal('domain_not_found'));
    assert.deepEqual(readdirSync(`${dir.dir}/volumes`), ['d1.raw'], trouble);
    assert.deepEqual([await exported(), (await volumes())[0]?.domain], [['web free'], undefined], trouble);
    dir.removeFile(trouble);
  }
  assert.equal((await create()).state, 'running');
});

test('one that the engine could not open yet is removed without force', async () => {
  await make('d1');
  await attach('web', ['d1']);
  dir.file('unfit', '');
  process.kill(life.supervisor.engineStatus().pid ?? 0, 'SIGKILL');
  await until('the engine is gone', () => life.supervisor.engineStatus().state !== 'running');
  assert.equal((await create()).state, 'creating');
  dir.file('damaged', '');
  dir.removeFile('unfit');
  await until('it says why', async () => /is damaged/.test((await show()).reason));
  assert.match((await api.get<IohvStatus>('/v1/status')).problems.join(), /domain ft: .*is damaged/);
  await api.call('DELETE', PATH);
  await until('it is gone', () => life.store.desired().domains.length === 0);
  await until('its VM goes on', async () => (await exported()).join() === 'web free');
});

test('a journal that an epoch may not fit is refused, and one that differs is named', async () => {
  await make('d1');
  await attach('web', ['d1']);
  const least = journalBytesMin(MIB);
  const small = create({ journal_bytes: least - 1 });
  await assert.rejects(small, refusal('domain_journal', /too small for a domain that may hold 1M/, /1044K or more/));
  await create({ journal_bytes: least });
  await create({ journal_bytes: least });
  await assert.rejects(create(), refusal('domain_exists', new RegExp(`journal_bytes is ${least}, not ${3 * MIB}$`)));
  const other = create({ journal_bytes: least, overflow: 'unprotect', standbys: ['copy'] });
  const how = /ft exists: overflow is push-back, not unprotect; standbys is none, not copy$/;
  await assert.rejects(other, refusal('domain_exists', how));
});

test('a domain, a VM and a bound are refused that do not fit', async () => {
  await make('d1');
  await attach('web', ['d1']);
  await assert.rejects(create({ bytes: 4096 }), refusal('domain_bytes', /too little/));
  await assert.rejects(create({ bytes: 2 ** 31 }), refusal('domain_bytes', /all domains together/, /1G/));
  await assert.rejects(create({ vms: ['none'] }), refusal('vm_not_found'));
  await create();
  await assert.rejects(create({ bytes: 2 * MIB }), refusal('domain_exists'));
  const second = { name: 'two', vms: ['web'], bytes: MIB };
  await assert.rejects(api.call('POST', '/v1/domains', second), refusal('domain_member', /ft/));
  await assert.rejects(api.get('/v1/domains/none'), refusal('domain_not_found', /./, /ft/));
  await assert.rejects(act('takeover'), refusal('domain_standby'));
});

test('with several workers a domain has all its disks at one of them, and they stay there', async () => {
  await life.end();
  await begin({ workers: 2, policy: 'round-robin' });
  for (const name of ['d1', 'd2', 'd3']) {
    await make(name);
  }
  await attach('web', ['d1', 'd2', 'd3']);
  const view = await create();
  assert.deepEqual(new Set((await volumes()).map(({ worker }) => worker)), new Set([view.worker]));
  assert.deepEqual(
    (await show()).volumes.map(({ state }) => state),
    ['protected', 'protected', 'protected'],
  );
  const elsewhere = { worker: 1 - view.worker };
  await assert.rejects(api.call('POST', '/v1/volumes/d1/move', elsewhere), refusal('volume_protected'));
  await assert.rejects(api.call('PATCH', '/v1/volumes/d1', elsewhere), refusal('volume_protected'));
});

test('policies are set, epochs are told as events, and the command line cuts, commits and takes over', async () => {
  await pair();
  const cli = (...args: string[]) => outrigger(['protect', 'domain', ...args], env());
  const set = await cli('set', 'ft', '--overflow', 'unprotect', '--commit-timeout', '2s');
  assert.match(set.stdout, /overflow +unprotect; commit timeout 2 s/);
  assert.deepEqual([(await rows())[0]?.overflow, (await rows())[0]?.commitTimeoutMs], ['unprotect', 2000]);
  const { stdout: epoch } = await cli('cut', 'ft');
  assert.equal((await cli('commit', 'ft', epoch.trim())).stdout, `committed up to epoch ${epoch}`);
  await emit(dir.dir, { event: 'domain.epochs', data: { id: 1, name: 'ft', open: 5, committed: 4 } });
  await emit(dir.dir, { event: 'domain.epochs', data: { id: 1, name: 'ft', open: 9, committed: 6 } });
  await emit(dir.dir, { event: 'domain.overflow', data: { id: 1, name: 'ft' } });
  const kinds = async () => {
    const events = await api.get<EventView[]>('/v1/events');
    return events.filter(({ kind }) => /^epoch|overflow/.test(kind)).map(({ kind, fields }) => [kind, fields.count]);
  };
  await until('they are told', async () => (await kinds()).length === 5);
  assert.deepEqual((await kinds()).slice(2), [
    ['epoch.cut', 4],
    ['epoch.committed', 2],
    ['domain.overflow', undefined],
  ]);
  assert.match((await cli('takeover', 'ft')).stdout, /^generation 2 may run: resume at epoch 1/);
  const stale = await cli('commit', 'ft', '1', '--generation', '1');
  assert.match(stale.stderr, /domain_stale/);
  assert.match((await cli('show', 'ft')).stdout, /^fenced +web$/m);
});
