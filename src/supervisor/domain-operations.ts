// What an operator, or a checkpointing program, can do to protection domains: see operations.ts for the rules that all
// operations follow, and docs/intercept.md for what they mean.
//
// A takeover is decided by the store, in one transaction; the reconciler then makes the engine follow, however often
// either of them dies meanwhile. What was decided is never decided again: who asks once more, because no answer came,
// waits for the same one and gets its answer. That is so until the copies commit: whoever makes them do that has had the
// answer, and the epoch at which it said they resume is behind them.
import { formatSize } from '../config/size.js';
import { type ErrorCode, listNames, refuse } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { domainKey, fenceKey } from './domain-planner.js';
import { assertDetached, assertNicsFit, findDomain, sharers } from './domain-rules.js';
import { EngineCommandError } from './engine-client.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import type { Desired, Domain, DomainMember } from './model.js';
import { devicesOfVm } from './operations.js';
import type { CommandName, DomainOverflow, DomainRow, EngineCommands } from './protocol.js';
import type { Store } from './store.js';
import { newContent } from './volume-files.js';

export interface ProtectSettings {
  journalDir: string;
  /** That all domains together may hold. */
  totalBytes: number;
}

export interface DomainOperationsOptions {
  store: Store;
  supervisor: IohvSupervisor;
  protect: ProtectSettings;
  log: Logger;
  /** How long an operation waits for the engine to follow. */
  applyTimeoutMs: number;
}

export interface DomainSpec {
  vms: readonly string[];
  standbys: readonly string[];
  /** Default: BYTES_DEFAULT. */
  bytes?: number | undefined;
  /** Default: journalBytesFor(). */
  journalBytes?: number | undefined;
  overflow?: DomainOverflow | undefined;
  commitTimeoutMs?: number | undefined;
}

export type DomainChanges = Pick<DomainSpec, 'overflow' | 'commitTimeoutMs'>;

export interface TakeoverSpec {
  /** The copies that run from now on; left out: all standbys. */
  vms?: readonly string[] | undefined;
  /** They go on with what is not committed yet. */
  keepUncommitted: boolean;
  /** Nobody runs from now on. */
  fenceOnly: boolean;
  /** Also where the domain ran without protection since its last checkpoint. */
  force: boolean;
}

export interface Cut {
  generation: number;
  /** That was closed. */
  epoch: number;
  /** Since the cut before, output went out without a checkpoint. */
  unprotected: boolean;
}

export interface Committed {
  generation: number;
  /** The last epoch that is. */
  committed: number;
  /** Likewise since the last cut. */
  unprotected: boolean;
}

/** After a takeover or a reset: a VM may resume at the epoch `committed`. */
export interface Fenced {
  generation: number;
  committed: number;
}

const BYTES_DEFAULT = 256 << 20;
/** OR_DOMAIN_BYTES_MIN of native/intercept/intercept.h. */
export const DOMAIN_BYTES_MIN = 256 << 10;
/** A commit waits for the journal's disk. */
const COMMIT_TIMEOUT_MS = 60_000;

/** An epoch that fills the domain, with its tables, while the one before is still being applied. */
const journalBytesFor = (bytes: number) => 2 * bytes + (1 << 20);

/** The superblocks and one epoch that fills the domain: what or_domain_open() of native/intercept/domain.c asks for. */
export function journalBytesMin(bytes: number): number {
  const page = 4096;
  const slots = Math.floor(bytes / page);
  const tablePages = Math.ceil((64 + 32 * slots) / page);
  return (2 + slots + tablePages) * page;
}

export class DomainOperations {
  private readonly options: DomainOperationsOptions;

  constructor(options: DomainOperationsOptions) {
    this.options = options;
  }

  /** Returns whether the domain is new. Throws domain_not_created, and nothing is left of it. */
  async create(name: string, spec: DomainSpec): Promise<boolean> {
    const { store, protect, log } = this.options;
    const desired = store.desired();
    const bytes = spec.bytes ?? BYTES_DEFAULT;
    const { overflow = 'push-back', commitTimeoutMs = 0, journalBytes = journalBytesFor(bytes) } = spec;
    const twin = desired.domains.find((other) => other.name === name);
    if (twin !== undefined) {
      assertSame(twin, { ...spec, bytes, journalBytes, overflow, commitTimeoutMs });
      await this.made(name);
      return false;
    }
    this.assertRoom(desired, bytes);
    assertJournalFits(bytes, journalBytes);
    const members = [
      ...spec.vms.map((vm) => ({ vm, role: 'active' as const })),
      ...spec.standbys.map((vm) => ({ vm, role: 'standby' as const })),
    ];
    if (spec.vms.length === 0 || new Set(members.map(({ vm }) => vm)).size < members.length) {
      throw refuse('invalid_request', 'a domain needs at least one VM that runs, and each VM once');
    }
    const worker = this.workerFor(desired, spec.vms);
    for (const { vm, role } of members) {
      this.assertCanJoin(desired, { worker }, vm, role);
    }
    const id = newContent();
    const journal = { path: `${protect.journalDir}/${name}-${id}.journal`, bytes: journalBytes, id };
    store.domains.add({ name, bytes, journal, worker, overflow, commitTimeoutMs, createdAt: Date.now() }, members);
    const vms = spec.vms.join(' ');
    log.info('domain.created', { domain: name, vms, bytes, overflow, commit_timeout_ms: commitTimeoutMs });
    await this.made(name);
    return true;
  }

  async set(name: string, { overflow, commitTimeoutMs }: DomainChanges): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const domain = this.find(name);
    const changed = {
      overflow: overflow ?? domain.overflow,
      commitTimeoutMs: commitTimeoutMs ?? domain.commitTimeoutMs,
    };
    if (changed.overflow !== domain.overflow || changed.commitTimeoutMs !== domain.commitTimeoutMs) {
      store.domains.set(domain.id, changed);
      log.info('domain.changed', {
        domain: name,
        overflow: changed.overflow,
        commit_timeout_ms: changed.commitTimeoutMs,
      });
    }
    await supervisor.apply(applyTimeoutMs);
  }

  /** Returns whether it is new there. */
  async addMember(name: string, vm: string, role: 'active' | 'standby'): Promise<boolean> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const domain = this.find(name);
    const present = domain.members.find((other) => other.vm === vm);
    if (present?.role === role) {
      return false;
    }
    if (present !== undefined) {
      throw refuse('domain_member', `the VM ${vm} is ${present.role} in ${name}`, { domain: name, vm });
    }
    this.assertCanJoin(store.desired(), domain, vm, role);
    store.domains.addMember(domain.id, vm, role);
    log.info('domain.member-added', { domain: name, vm, role });
    await supervisor.apply(applyTimeoutMs);
    return true;
  }

  async removeMember(name: string, vm: string): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const domain = this.find(name);
    const member = domain.members.find((other) => other.vm === vm);
    if (member === undefined) {
      const known = listNames(domain.members.map((other) => other.vm));
      throw refuse('domain_member_not_found', `the VM ${vm} is not in ${name}`, { domain: name, known });
    }
    const desired = store.desired();
    const copies = sharers(
      desired,
      vm,
      domain.members.map((other) => other.vm),
    );
    const isLate = (other: DomainMember) => (member.role === 'active' ? copies.includes(other.vm) : other === member);
    assertDetached(desired, domain.members.filter(isLate));
    store.domains.removeMember(vm);
    log.info('domain.member-removed', { domain: name, vm, role: member.role });
    await supervisor.apply(applyTimeoutMs);
  }

  /** generation: default the present one. Throws domain_stale, domain_busy, domain_rewind, engine_unavailable. */
  async cut(name: string, generation?: number): Promise<Cut> {
    const domain = this.find(name);
    const args = { id: domain.id, generation: generation ?? domain.generation };
    const { epoch, unprotected = false } = await this.ask(domain, 'domain.cut', args);
    return { generation: args.generation, epoch, unprotected };
  }

  /** Throws as cut(), and domain_epoch. */
  async commit(name: string, epoch: number, generation?: number): Promise<Committed> {
    const domain = this.find(name);
    const args = { id: domain.id, generation: generation ?? domain.generation };
    const { committed, unprotected = false } = await this.ask(domain, 'domain.commit', { ...args, epoch });
    return { generation: args.generation, committed, unprotected };
  }

  /** Drops what is not committed. Throws domain_running unless nothing happened since a takeover. */
  async abort(name: string): Promise<void> {
    const domain = this.find(name);
    if (domain.intent !== null) {
      await this.settled(name); // which aborts, if that was wanted
      return;
    }
    await this.ask(domain, 'domain.abort', { id: domain.id });
    this.options.log.info('domain.aborted', { domain: name });
  }

  /**
   * Throws domain_fence_only, domain_standby, domain_unprotected, domain_pending, domain_rewind; without force, or when it
   * is repeated, domain_unusable and engine_unavailable too.
   */
  async takeOver(name: string, spec: TakeoverSpec): Promise<Fenced> {
    const { store, supervisor, log } = this.options;
    if (spec.fenceOnly && spec.vms !== undefined) {
      throw refuse('domain_fence_only', `${listNames(spec.vms)} cannot take over when everything is fenced only`);
    }
    const isPending = this.find(name).intent !== null;
    const settled = await this.settled(name);
    const domain = this.find(name);
    if (isTakenOver(domain, spec) && (isPending || spec.fenceOnly || (await this.isAsTakenOver(domain)))) {
      return settled;
    }
    if (!spec.force) {
      await this.assertProtected(name);
    }
    if (this.find(name).generation !== domain.generation) {
      return this.takeOver(name, spec); // somebody else has decided meanwhile
    }
    const { members } = this.find(name);
    const active = chooseStandbys({ name, members }, spec, store.desired());
    const fenced = members.filter(({ role }) => role === 'active').map(({ vm }) => vm);
    store.domains.takeOver(domain.id, active, spec.keepUncommitted ? 'keep' : 'abort');
    log.warn('domain.takeover', {
      ...{ domain: name, generation: domain.generation + 1 },
      ...{ active: active.join(' '), fenced: fenced.join(' ') },
      uncommitted: spec.keepUncommitted ? 'kept' : 'dropped',
    });
    void supervisor.apply(0);
    return this.settled(name);
  }

  /** Of a domain in the state `rewind`. Throws domain_not_rewind, domain_pending, engine_unavailable. */
  async reset(name: string): Promise<Fenced> {
    const { store, supervisor, log } = this.options;
    const state = (await this.rowOf(this.find(name)))?.state;
    const domain = this.find(name);
    if (state === 'rewind') {
      store.domains.reset(domain.id);
      log.warn('domain.reset', { domain: name, generation: domain.generation + 1 });
      void supervisor.apply(0);
    } else if (domain.intent === null) {
      const why = state === undefined ? 'is not open' : `is ${state}`;
      throw refuse('domain_not_rewind', `${name} ${why}`, { domain: name });
    }
    return this.settled(name);
  }

  /**
   * What it holds is committed, and its VMs go on without. force: also where that cannot be, or may be wrong. One that
   * was never open holds nothing.
   * Throws domain_shared, domain_rewind, domain_pending, domain_unusable.
   */
  async remove(name: string, force: boolean): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const row = await this.rowOf(this.find(name));
    const domain = this.find(name, true);
    const isNew = domain.phase === 'creating';
    const failure = row === undefined ? this.failureOf(domain) : undefined;
    if (!force && row?.state === 'rewind') {
      throw refuse('domain_rewind', `${name} lost what its VMs were told is done`, { domain: name });
    }
    if (!force && domain.intent !== null) {
      throw refuse('domain_pending', `a takeover of ${name} is not done yet`, { domain: name });
    }
    if (!force && !isNew && failure !== undefined) {
      throw refuse('domain_unusable', `${name} cannot be opened: ${failure}`, { domain: name });
    }
    assertDetached(
      store.desired(),
      domain.members.filter(({ role }) => role !== 'active'),
    );
    log.info('domain.removed', { domain: name, forced: force });
    if (isNew || (force && failure !== undefined)) {
      store.domains.giveUp(domain.id);
    } else {
      store.domains.startDelete(domain.id);
    }
    await supervisor.apply(applyTimeoutMs);
  }

  /** Undoes the creation of a domain that cannot be opened. Throws domain_not_created then. */
  private async made(name: string): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    await supervisor.apply(applyTimeoutMs);
    const domain = store.desired().domains.find((other) => other.name === name);
    const failure = domain?.phase === 'creating' ? this.failureOf(domain) : undefined;
    if (domain !== undefined && failure !== undefined) {
      log.warn('domain.not-created', { domain: name, reason: failure });
      store.domains.giveUp(domain.id);
      await supervisor.apply(applyTimeoutMs);
      throw refuse('domain_not_created', `${name} is not created: ${failure}`);
    }
  }

  /** Throws domain_not_found, domain_deleting. */
  private find(name: string, evenDeleting = false): Domain {
    const domain = findDomain(this.options.store.desired().domains, name);
    if (domain.phase === 'deleting' && !evenDeleting) {
      throw refuse('domain_deleting', `the domain ${name} is being removed`);
    }
    return domain;
  }

  /** Only an engine that has the domain open knows what it has let out. */
  private async assertProtected(name: string): Promise<void> {
    if ((await this.openRow(this.find(name))).unprotected) {
      throw refuse('domain_unprotected', `${name} has let out more than the last checkpoint knows of`, {
        domain: name,
      });
    }
  }

  /** Whether nothing was committed since the takeover. Throws domain_rewind, domain_unusable, engine_unavailable. */
  private async isAsTakenOver(domain: Domain): Promise<boolean> {
    const { name, resumeEpoch } = domain;
    const { state, committed } = await this.openRow(domain);
    if (state === 'rewind') {
      throw refuse('domain_rewind', `${name} lost what its VMs were told is done`, { domain: name });
    }
    return committed === resumeEpoch;
  }

  /** Waits for it. Throws domain_unusable, engine_unavailable. */
  private async openRow(domain: Domain): Promise<DomainRow> {
    const { supervisor, applyTimeoutMs } = this.options;
    const { name } = domain;
    const isKnown = () => supervisor.isDomainOpen(domain.id) || this.failureOf(domain) !== undefined;
    await supervisor.until(isKnown, applyTimeoutMs);
    const row = await this.rowOf(domain);
    if (row === undefined || row.state === 'opening') {
      const failure = this.failureOf(domain);
      throw failure === undefined
        ? refuse('engine_unavailable', `what ${name} has let out is not known before the engine has it open`)
        : refuse('domain_unusable', `${name} cannot be opened: ${failure}`, { domain: name });
    }
    return row;
  }

  private async rowOf({ id }: Domain): Promise<DomainRow | undefined> {
    return (await this.options.supervisor.rows.domains()).find((row) => row.id === id);
  }

  private failureOf({ name }: Domain): string | undefined {
    const { supervisor } = this.options;
    return supervisor.failureOf(fenceKey(name)) ?? supervisor.failureOf(domainKey(name));
  }

  /** The engine has done what was decided. Throws domain_pending: it will, and nobody may resume before. */
  private async settled(name: string): Promise<Fenced> {
    const { supervisor, applyTimeoutMs } = this.options;
    const look = () => this.find(name);
    await supervisor.until(() => look().intent === null || this.failureOf(look()) !== undefined, applyTimeoutMs);
    const domain = look();
    if (domain.intent !== null) {
      const why = this.failureOf(domain) ?? 'the engine has not done it yet';
      throw refuse('domain_pending', `generation ${domain.generation} of ${name} is decided, but ${why}`, {
        domain: name,
      });
    }
    return { generation: domain.generation, committed: domain.resumeEpoch ?? 0 };
  }

  private async ask<C extends CommandName>(
    { name, generation }: Domain,
    command: C,
    args: EngineCommands[C]['args'],
  ): Promise<EngineCommands[C]['result']> {
    try {
      return await this.options.supervisor.engine.request(command, args, COMMIT_TIMEOUT_MS);
    } catch (error) {
      if (!(error instanceof EngineCommandError)) {
        throw error;
      }
      const codes: Record<string, ErrorCode> = {
        ESTALE: 'domain_stale',
        EINVAL: 'domain_epoch',
        EAGAIN: 'domain_busy',
        EBUSY: 'domain_running',
        ENOENT: 'domain_not_open',
        EIO: 'domain_refused',
      };
      const code = codes[error.code] ?? 'engine_refused';
      throw refuse(code, `${name}: ${error.message}`, { domain: name, generation: String(generation) });
    }
  }

  private assertRoom({ domains }: Desired, bytes: number): void {
    const { totalBytes } = this.options.protect;
    const used = domains.reduce((sum, domain) => sum + domain.bytes, 0);
    const least = formatSize(DOMAIN_BYTES_MIN);
    const most = formatSize(Math.max(totalBytes - used, 0));
    if (bytes < DOMAIN_BYTES_MIN) {
      throw refuse('domain_bytes', `${formatSize(bytes)} is too little to hold`, { least, most });
    }
    if (used + bytes > totalBytes) {
      const what = `all domains together may hold ${formatSize(totalBytes)}, of which ${formatSize(used)} are given away`;
      throw refuse('domain_bytes', what, { least, most });
    }
  }

  /** NICs cannot move, so they decide. */
  private workerFor(desired: Desired, vms: readonly string[]): number {
    const { supervisor } = this.options;
    const isOfVm = ({ vm }: { vm: string }) => vms.includes(vm);
    const nics = desired.nicAttachments.filter(isOfVm).map(({ nic }) => supervisor.workerOfOpenNic(nic));
    const [volume] = desired.attachments.filter(isOfVm).map((disk) => supervisor.workerOf(disk.volume));
    return nics.find((worker) => worker !== undefined) ?? volume ?? 0;
  }

  /** Throws vm_not_found, domain_member, domain_nic_elsewhere. */
  private assertCanJoin(
    desired: Desired,
    domain: Pick<Domain, 'worker'>,
    vm: string,
    role: 'active' | 'standby',
  ): void {
    const other = desired.domains.find(({ members }) => members.some((member) => member.vm === vm));
    if (other !== undefined) {
      throw refuse('domain_member', `the VM ${vm} is in the domain ${other.name}`, { domain: other.name, vm });
    }
    if (role === 'active') {
      devicesOfVm(desired, vm);
    }
    const nics = desired.nicAttachments.filter((use) => use.vm === vm).map(({ nic }) => nic);
    assertNicsFit(desired, this.options.supervisor, domain, nics);
  }
}

/** Throws domain_journal. */
function assertJournalFits(bytes: number, journalBytes: number): void {
  const least = journalBytesMin(bytes);
  if (journalBytes < least) {
    const what = `a journal of ${formatSize(journalBytes)} is too small for a domain that may hold ${formatSize(bytes)}`;
    throw refuse('domain_journal', what, { least: `${least / 1024}K` }); // in whole pages
  }
}

/** Throws domain_deleting, domain_exists. */
function assertSame(present: Domain, spec: DomainSpec & Required<Pick<DomainSpec, 'bytes' | 'journalBytes'>>): void {
  const { name, phase, bytes, journal, overflow, commitTimeoutMs, members } = present;
  if (phase === 'deleting') {
    throw refuse('domain_deleting', `the domain ${name} is being removed`);
  }
  const names = (role: DomainMember['role']) => members.filter((one) => one.role === role).map(({ vm }) => vm);
  const list = (vms: readonly string[]) => [...vms].sort().join(', ') || 'none';
  const compared: [what: string, has: string | number | undefined, asked: string | number | undefined][] = [
    ['bytes', bytes, spec.bytes],
    ['journal_bytes', journal.bytes, spec.journalBytes],
    ['overflow', overflow, spec.overflow],
    ['commit_timeout_ms', commitTimeoutMs, spec.commitTimeoutMs],
    ['vms', list(names('active')), list(spec.vms)],
    ['standbys', list(names('standby')), list(spec.standbys)],
  ];
  const different = compared.filter(([, has, asked]) => has !== asked);
  if (different.length > 0) {
    const how = different.map(([what, has, asked]) => `${what} is ${has}, not ${asked}`).join('; ');
    throw refuse('domain_exists', `the domain ${name} exists: ${how}`, { domain: name });
  }
}

/** That the copies that shall run, or none, do so already: others are fenced, and with `vms` left out none is waiting. */
function isTakenOver({ members }: Domain, { vms, fenceOnly }: TakeoverSpec): boolean {
  const having = (role: DomainMember['role']) => members.filter((one) => one.role === role).map(({ vm }) => vm);
  const active = having('active');
  if (having('fenced').length === 0 || fenceOnly === active.length > 0) {
    return false;
  }
  return fenceOnly || (vms?.every((vm) => active.includes(vm)) ?? having('standby').length === 0);
}

/** Throws domain_standby. */
function chooseStandbys(
  { name, members }: Pick<Domain, 'name' | 'members'>,
  { vms, fenceOnly }: TakeoverSpec,
  desired: Desired,
): string[] {
  if (fenceOnly) {
    return [];
  }
  const standbys = members.filter(({ role }) => role === 'standby').map(({ vm }) => vm);
  const known = listNames(standbys);
  const stranger = vms?.find((vm) => !standbys.includes(vm));
  if (stranger !== undefined || standbys.length === 0) {
    const what = stranger === undefined ? `${name} has no standby` : `${stranger} is no standby of ${name}`;
    throw refuse('domain_standby', what, { domain: name, known });
  }
  const chosen = [...(vms ?? standbys)];
  const twins = chosen.filter((vm) => sharers(desired, vm, chosen).length > 0);
  if (twins.length > 0) {
    throw refuse('domain_standby', `${listNames(twins)} are copies of the same VM`, { domain: name, known });
  }
  return chosen;
}
