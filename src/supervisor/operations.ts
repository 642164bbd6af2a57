// What an operator can do to the desired state of an I/O hypervisor. Every operation checks first and says
// what is wrong, then changes the store in one durable transaction, then lets the supervisor follow. The
// checks and the transaction run without a pause in between, so two requests cannot pass the same check.
// Repeating an operation with the same parameters changes nothing and succeeds.
import { setTimeout as sleep } from 'node:timers/promises';
import { listNames, messageOf, refuse } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { CACHE_DEFAULT, cacheText, sameCache } from './cache.js';
import { moveKey } from './domain-planner.js';
import { areCopies, assertNicsFit, assertUnprotected, domainOfVm, domainOfVolume } from './domain-rules.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import { mergeLimit, NO_LIMIT, sameLimit } from './limits.js';
import type { Attachment, Desired, Domain, Layer, NicAttachment, Volume } from './model.js';
import { isNewNicAttachment } from './nic-operations.js';
import { type Limit, type VolumeCache, type VolumeKind, WEIGHT_DEFAULT } from './protocol.js';
import type { Snapshots } from './snapshots.js';
import type { NewAttachment, NewNicAttachment, Store } from './store.js';
import type { Transfers } from './transfers.js';
import { exists, inspectAdoptable, makeVolumeFile, newContent, removeVolumeFile, SECTOR } from './volume-files.js';

export type VolumeSpec = (
  | { adopt: string; readOnly: boolean }
  | { kind: VolumeKind; size: number; blockSize: number | undefined }
) &
  VolumeChanges;

/** What can be changed under a guest; what is undefined stays. */
export interface VolumeChanges {
  ioTimeoutMs?: number | undefined;
  limit?: Partial<Limit> | undefined;
  cache?: Partial<VolumeCache> | undefined;
  /** Pins it to a worker; null: to none. */
  worker?: number | null | undefined;
}

type Described = Omit<Volume, 'ioTimeoutMs' | 'limit' | 'cache' | 'worker' | 'layers' | 'base'>;

export interface DiskSpec {
  volume: string;
  /** Default: the volume's name. */
  name?: string | undefined;
  readOnly: boolean;
  queues: number;
  /** Default: that of a disk that is attached already, else WEIGHT_DEFAULT. */
  weight?: number | undefined;
}

export interface NicUse {
  nic: string;
  queues: number;
  qmp: string | null;
}

/** One device of a VM; neither: all of them. */
export interface DetachTarget {
  disk?: string | undefined;
  nic?: string | undefined;
}

export interface OperationsOptions {
  store: Store;
  supervisor: IohvSupervisor;
  snapshots: Snapshots;
  transfers: Transfers;
  volumeDir: string;
  log: Logger;
  /** How long an operation waits for the engine to follow. */
  applyTimeoutMs: number;
}

/** A guest that has just ended may be reported so late: its host's reports are bundled. */
const REPORT_DELAY_MS = 500;
const REPORT_LOOK_MS = 20;

export class Operations {
  private readonly options: OperationsOptions;

  constructor(options: OperationsOptions) {
    this.options = options;
  }

  /**
   * Before the first request: finishes the volumes whose making a crash interrupted, and removes what it left of
   * imports. A volume that fails stays: creating it again tries again.
   */
  async resume(): Promise<void> {
    const { store, transfers, log } = this.options;
    store.layers.abandonAll();
    await transfers.removeRemains();
    for (const { name, path, size } of store.desired().volumes.filter(({ phase }) => phase === 'creating')) {
      try {
        await makeVolumeFile(path ?? '', size);
        store.setReady(name);
        log.info('volume.resumed', { volume: name });
      } catch (error) {
        log.error('volume.unfinished', { volume: name, reason: messageOf(error) });
      }
    }
  }

  /** Returns whether the volume is new. */
  async createVolume(name: string, spec: VolumeSpec): Promise<boolean> {
    const { store, volumeDir, supervisor, transfers, log, applyTimeoutMs } = this.options;
    const described = 'adopt' in spec ? await this.adopted(name, spec) : this.fresh(name, spec, volumeDir);
    const limit = mergeLimit(NO_LIMIT, spec.limit ?? {});
    const cache = { ...CACHE_DEFAULT, ...spec.cache };
    const changes = { ioTimeoutMs: spec.ioTimeoutMs ?? 0, limit, cache, worker: null };
    const volume: Volume = { ...described, ...changes, layers: rawLayers(described), base: null };
    if (spec.cache !== undefined) {
      assertCacheable(volume);
    }
    const isMade = volume.kind === 'file' && !volume.adopted;
    const fileExists = isMade && volume.path !== null && (await exists(volume.path));

    const desired = store.desired();
    const twin = desired.volumes.find((other) => other.name === name);
    if (twin !== undefined) {
      const kept = {
        ioTimeoutMs: spec.ioTimeoutMs ?? twin.ioTimeoutMs,
        limit: spec.limit ? volume.limit : twin.limit,
        cache: { ...twin.cache, ...spec.cache },
      };
      assertSame(twin, { ...volume, ...kept });
      if (twin.phase === 'creating') {
        await this.finish(twin);
        log.info('volume.resumed', { volume: name });
        await supervisor.apply(applyTimeoutMs);
      }
      return false;
    }
    transfers.assertNone(name);
    const owner = volume.path === null ? undefined : ownerOf(volume.path, desired);
    if (owner !== undefined) {
      throw refuse('volume_path_taken', `${volume.path} belongs to the volume ${owner}`, { volume: owner });
    }
    if (fileExists) {
      throw refuse('volume_file_exists', `${volume.path} exists`, { volume: name, path: volume.path ?? '' });
    }
    store.addVolume(volume);
    if (isMade) {
      await this.finish(volume);
    }
    const { kind, size, adopted } = volume;
    log.info('volume.created', { volume: name, kind, size, adopted });
    await supervisor.apply(applyTimeoutMs);
    return true;
  }

  /** Applies to what guests do from now on. */
  async changeVolume(name: string, { ioTimeoutMs, limit, cache, worker }: VolumeChanges): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const volume = findVolume(store.desired().volumes, name);
    if (cache !== undefined) {
      assertCacheable(volume);
    }
    if (worker !== undefined && worker !== null) {
      assertWorker(worker, supervisor.workerCount);
      this.assertStays(name, worker);
    }
    if (worker !== undefined && worker !== volume.worker) {
      store.setWorker(name, worker);
      log.info('volume.changed', { volume: name, worker });
    }
    if (ioTimeoutMs !== undefined && volume.ioTimeoutMs !== ioTimeoutMs) {
      store.setIoTimeout(name, ioTimeoutMs);
      log.info('volume.changed', { volume: name, io_timeout_ms: ioTimeoutMs });
    }
    const changed = mergeLimit(volume.limit, limit ?? {});
    if (!sameLimit(volume.limit, changed)) {
      store.setVolumeLimit(name, changed);
      log.info('volume.changed', { volume: name, iops: changed.opsPerS, bytes_per_s: changed.bytesPerS });
    }
    const cached = { ...volume.cache, ...cache };
    if (!sameCache(volume.cache, cached)) {
      store.setCache(name, cached);
      log.info('volume.changed', { volume: name, cache: cacheText(cached) });
    }
    await supervisor.apply(applyTimeoutMs);
  }

  /** To another worker, for now. */
  async moveVolume(name: string, worker: number): Promise<void> {
    const { store, supervisor, applyTimeoutMs } = this.options;
    const volume = findVolume(store.desired().volumes, name);
    assertWorker(worker, supervisor.workerCount);
    if (volume.phase === 'deleting') {
      throw refuse('volume_deleting', `the volume ${name} is being removed`);
    }
    this.assertStays(name, worker);
    if (volume.worker !== null && volume.worker !== worker) {
      throw refuse('volume_pinned', `the volume ${name} is pinned to worker ${volume.worker}`, { volume: name });
    }
    await supervisor.moveVolume(name, worker, applyTimeoutMs);
    if (supervisor.workerOf(name) !== worker) {
      const why = supervisor.failureOf(moveKey(name)) ?? 'the engine has not done it yet';
      throw refuse('engine_refused', `the volume ${name} could not be moved: ${why}`);
    }
  }

  /** keepData: the file stays even when we made it. */
  async deleteVolume(name: string, keepData: boolean): Promise<void> {
    const { store, supervisor, snapshots, transfers, log, applyTimeoutMs } = this.options;
    const { volumes, attachments, domains } = store.desired();
    const volume = findVolume(volumes, name);
    assertUnused(
      name,
      attachments.filter((attachment) => attachment.volume === name),
    );
    assertUnprotected(domains, name);
    assertNoClones(
      `the volume ${name}`,
      volumes.filter(({ base }) => base?.volume === name),
    );
    transfers.assertNone(name);
    if (supervisor.isBehind(volume)) {
      throw refuse('volume_cutting', `a snapshot of the volume ${name} is being taken`, { volume: name });
    }
    if (keepData && volume.layers.length > 1) {
      const files = `the content of the volume ${name} is in ${volume.layers.length} files`;
      throw refuse('volume_layered', `${files}, none of which is of use alone`, { volume: name });
    }
    store.startDeleteVolume(name, keepData);
    log.info('volume.removed', { volume: name, kept: keepData });
    await supervisor.apply(applyTimeoutMs);
    if (volume.base !== null) {
      await snapshots.cloneRemoved(name, volume.base.volume);
    }
  }

  /** Attaches all disks and NICs or none. Returns whether any is new. */
  async attach(
    vm: string,
    host: string,
    disks: readonly DiskSpec[],
    nicUses: readonly NicUse[] = [],
  ): Promise<boolean> {
    const { store, supervisor, transfers, log, applyTimeoutMs } = this.options;
    const desired = store.desired();
    const { volumes, attachments, nics, nicAttachments, domains } = desired;
    const hosts = supervisor.knownHosts.map(({ name }) => name);
    if (!hosts.includes(host)) {
      throw refuse('host_not_found', `there is no host ${host}`, { known: listNames(hosts) });
    }
    const elsewhere = [...attachments, ...nicAttachments].find((other) => other.vm === vm && other.host !== host);
    if (elsewhere !== undefined) {
      throw refuse('vm_on_other_host', `the VM ${vm} is on ${elsewhere.host}`, { vm, host: elsewhere.host });
    }
    const added: NewAttachment[] = [];
    for (const disk of disks) {
      const wanted = {
        ...{ vm, host, disk: disk.name ?? disk.volume },
        ...{ volume: disk.volume, readOnly: disk.readOnly, queues: disk.queues },
      };
      const others = [...attachments, ...added];
      const twin = others.find((other) => other.vm === vm && other.disk === wanted.disk);
      const weight = disk.weight ?? twin?.weight ?? WEIGHT_DEFAULT;
      if (isNewAttachment({ ...wanted, weight }, volumes, others, domains)) {
        if (!wanted.readOnly) {
          transfers.assertNone(wanted.volume);
        }
        added.push({ ...wanted, weight });
      }
    }
    const addedNics: NewNicAttachment[] = [];
    for (const use of nicUses) {
      const wanted = { vm, host, ...use };
      if (isNewNicAttachment(wanted, nics, [...nicAttachments, ...addedNics], domains)) {
        addedNics.push(wanted);
      }
    }
    const domain = domainOfVm(domains, vm);
    if (domain !== undefined) {
      assertNicsFit(
        desired,
        supervisor,
        domain,
        addedNics.map(({ nic }) => nic),
      );
    }
    const isNew = added.length + addedNics.length > 0;
    if (isNew) {
      store.attach(added, addedNics);
    }
    for (const { disk, volume, readOnly, queues, weight } of added) {
      log.info('attachment.added', { vm, disk, host, volume, read_only: readOnly, queues, weight });
    }
    for (const { nic, queues } of addedNics) {
      log.info('attachment.added', { vm, nic, host, queues });
    }
    await supervisor.apply(applyTimeoutMs);
    return isNew;
  }

  /** Applies at once, also while a guest uses it. */
  async changeDisk(vm: string, disk: string, { weight }: { weight: number }): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const { disks } = chosenOf(devicesOfVm(store.desired(), vm), { disk }, vm);
    for (const attachment of disks.filter((other) => other.weight !== weight)) {
      store.setWeight(attachment.id, weight);
      log.info('attachment.changed', { vm, disk, weight });
    }
    await supervisor.apply(applyTimeoutMs);
  }

  /** force: even while a guest uses them. */
  async detach(vm: string, target: DetachTarget, force: boolean): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const choose = () => chosenOf(devicesOfVm(store.desired(), vm), target, vm);
    const runningOf = ({ disks, nics }: VmDevices) => [...disks, ...nics].filter((use) => this.isRunning(use));
    const until = performance.now() + REPORT_DELAY_MS;
    while (!force && runningOf(choose()).some(({ host }) => supervisor.hostIsUp(host)) && performance.now() < until) {
      await sleep(REPORT_LOOK_MS);
    }
    const chosen = choose();
    const { disks, nics } = chosen;
    const running = force ? [] : runningOf(chosen);
    if (running.length > 0) {
      const names = running.map((use) => ('disk' in use ? `disk ${use.disk}` : `NIC ${use.nic}`)).join(', ');
      const host = running[0]?.host ?? '';
      const when = supervisor.hostIsUp(host) ? 'reports' : 'is not connected, and last reported,';
      throw refuse('device_running', `host ${host} ${when} that a guest is using ${vm}'s ${names}`);
    }
    store.detach([...disks, ...nics].map(({ id }) => id));
    for (const { disk, host, volume } of disks) {
      log.info('attachment.removed', { vm, disk, host, volume, forced: force });
    }
    for (const { nic, host } of nics) {
      log.info('attachment.removed', { vm, nic, host, forced: force });
    }
    await supervisor.apply(applyTimeoutMs);
  }

  /** Throws volume_protected when a domain has the volume at another worker. */
  private assertStays(name: string, worker: number): void {
    const { store, supervisor } = this.options;
    const { domains } = store.desired();
    const domain = domainOfVolume(domains, name);
    if (domain !== undefined && domain.worker % supervisor.workerCount !== worker) {
      assertUnprotected(domains, name);
    }
  }

  private isRunning({ id, host }: Attachment | NicAttachment): boolean {
    return this.options.supervisor.reports.entryOf(host, id)?.state === 'running';
  }

  private fresh(name: string, spec: Exclude<VolumeSpec, { adopt: string }>, volumeDir: string): Described {
    const { kind, size, blockSize = SECTOR } = spec;
    if (kind === 'file' && spec.blockSize !== undefined) {
      throw refuse('invalid_request', 'a file volume has the block size of its storage: leave block_size out');
    }
    if (size % blockSize !== 0) {
      throw refuse('invalid_request', `the size ${size} is not a multiple of the block size ${blockSize}`);
    }
    const path = kind === 'file' ? `${volumeDir}/${name}.raw` : null;
    const phase = kind === 'file' ? 'creating' : 'ready';
    return { name, kind, path, size, blockSize, readOnly: false, adopted: false, phase, geometry: null, fault: null };
  }

  private async adopted(name: string, spec: { adopt: string; readOnly: boolean }): Promise<Described> {
    const { readOnly } = spec;
    const { path, size } = await inspectAdoptable(spec.adopt, readOnly);
    const fixed = {
      kind: 'file',
      blockSize: SECTOR,
      adopted: true,
      phase: 'ready',
      geometry: null,
      fault: null,
    } as const;
    return { name, path, size, readOnly, ...fixed };
  }

  private async finish(volume: Volume): Promise<void> {
    const { store } = this.options;
    const path = volume.path ?? '';
    try {
      await makeVolumeFile(path, volume.size);
    } catch (error) {
      store.removeVolume(volume.name, volume.layers);
      await removeVolumeFile(path).catch(() => {}); // its directory may be what is missing
      throw error;
    }
    store.setReady(volume.name);
  }
}

export function findVolume(volumes: readonly Volume[], name: string): Volume {
  const volume = volumes.find((other) => other.name === name);
  if (volume === undefined) {
    const known = listNames(volumes.map((other) => other.name));
    throw refuse('volume_not_found', `there is no volume ${name}`, { known });
  }
  return volume;
}

/** The layers of a volume that is one raw file; of one without a file, none. */
export function rawLayers({ path, size, adopted }: Pick<Volume, 'path' | 'size' | 'adopted'>): Layer[] {
  return path === null ? [] : [{ content: newContent(), path, size, raw: true, adopted }];
}

/** The volume to which a file belongs. */
export function ownerOf(path: string, { volumes, snapshots }: Pick<Desired, 'volumes' | 'snapshots'>) {
  const volume = volumes.find(({ layers }) => layers.some((layer) => layer.path === path));
  return volume?.name ?? snapshots.find(({ layers }) => layers.some((layer) => layer.path === path))?.volume;
}

/** Throws volume_uncached. */
export function assertCacheable({ name, kind }: Volume): void {
  if (kind !== 'file') {
    throw refuse('volume_uncached', `the volume ${name} is a ${kind} volume`);
  }
}

/** Throws worker_not_found. */
function assertWorker(worker: number, count: number): void {
  if (worker >= count) {
    const known = listNames(Array.from({ length: count }, (_, i) => String(i)));
    throw refuse('worker_not_found', `there is no worker ${worker}`, { known });
  }
}

/** Throws volume_in_use when there are users. */
export function assertUnused(volume: string, users: readonly Attachment[]): void {
  if (users.length > 0) {
    const by = users.map(({ vm, disk }) => `${vm} (disk ${disk})`).join(', ');
    const commands = users.map(({ vm, disk }) => `outrigger detach ${vm} --disk ${disk}`).join('; ');
    throw refuse('volume_in_use', `the volume ${volume} is attached to ${by}`, { commands });
  }
}

/** Throws volume_has_clones when there are clones. */
export function assertNoClones(what: string, clones: readonly Volume[]): void {
  if (clones.length > 0) {
    const names = clones.map(({ name }) => name);
    const commands = names.map((name) => `outrigger volume rm ${name}`).join('; ');
    throw refuse('volume_has_clones', `${what} is what ${listNames(names)} began with`, { commands });
  }
}

export interface VmDevices {
  disks: Attachment[];
  nics: NicAttachment[];
}

/** Throws vm_not_found. */
export function devicesOfVm({ attachments, nicAttachments }: Desired, vm: string): VmDevices {
  const isOfVm = (attachment: { vm: string }) => attachment.vm === vm;
  const [disks, nics] = [attachments.filter(isOfVm), nicAttachments.filter(isOfVm)];
  if (disks.length + nics.length === 0) {
    const known = listNames(new Set([...attachments, ...nicAttachments].map((attachment) => attachment.vm)));
    throw refuse('vm_not_found', `there is no VM ${vm}: it has no disks and no NICs`, { known });
  }
  return { disks, nics };
}

/** Throws disk_not_found, nic_not_attached. */
function chosenOf(all: VmDevices, { disk, nic }: DetachTarget, vm: string): VmDevices {
  if (disk === undefined && nic === undefined) {
    return all;
  }
  const disks = all.disks.filter((attachment) => attachment.disk === disk);
  const nics = all.nics.filter((attachment) => attachment.nic === nic);
  if (disk !== undefined && disks.length === 0) {
    const known = listNames(all.disks.map((attachment) => attachment.disk));
    throw refuse('disk_not_found', `the VM ${vm} has no disk ${disk}`, { vm, known });
  }
  if (nic !== undefined && nics.length === 0) {
    const known = listNames(all.nics.map((attachment) => attachment.nic));
    throw refuse('nic_not_attached', `the VM ${vm} has no NIC ${nic}`, { vm, known });
  }
  return { disks, nics };
}

function assertSame(present: Volume, wanted: Volume): void {
  if (present.phase === 'deleting') {
    throw refuse('volume_deleting', `the volume ${present.name} is being removed`);
  }
  if (present.base !== null) {
    throw refuse('volume_exists', `the volume ${present.name} exists: it is a clone of ${present.base.volume}`, {
      volume: present.name,
    });
  }
  const differences = (['kind', 'path', 'size', 'blockSize', 'readOnly', 'adopted', 'ioTimeoutMs'] as const)
    // The size of an adopted file is what it was when it was adopted.
    .filter((key) => !(key === 'size' && wanted.adopted) && present[key] !== wanted[key])
    .map((key) => `${key} is ${present[key]}, not ${wanted[key]}`);
  if (!sameLimit(present.limit, wanted.limit)) {
    differences.push('rate differs');
  }
  if (!sameCache(present.cache, wanted.cache)) {
    differences.push(`use of the cache is ${cacheText(present.cache)}, not ${cacheText(wanted.cache)}`);
  }
  if (differences.length > 0) {
    throw refuse('volume_exists', `the volume ${present.name} exists: its ${differences.join(', its ')}`, {
      volume: present.name,
    });
  }
}

/** False when it is there already. Throws when it conflicts with another attachment. */
function isNewAttachment(
  wanted: NewAttachment,
  volumes: readonly Volume[],
  others: readonly NewAttachment[],
  domains: readonly Domain[],
): boolean {
  const volume = findVolume(volumes, wanted.volume);
  if (volume.phase === 'deleting') {
    throw refuse('volume_deleting', `the volume ${volume.name} is being removed`);
  }
  const { vm, disk } = wanted;
  const twin = others.find((other) => other.vm === vm && other.disk === disk);
  if (twin !== undefined) {
    const same = ['volume', 'readOnly', 'queues', 'weight'] as const;
    if (same.every((key) => twin[key] === wanted[key])) {
      return false;
    }
    const has = `volume ${twin.volume}, ${twin.readOnly ? 'read-only' : 'read-write'}, queues ${twin.queues}, weight ${twin.weight}`;
    throw refuse('disk_exists', `the VM ${vm} has a disk ${disk} (${has})`, { vm, disk });
  }
  if (volume.readOnly && !wanted.readOnly) {
    throw refuse('volume_read_only', `the volume ${volume.name} is read-only`, { volume: volume.name });
  }
  const mayShare = (other: NewAttachment) =>
    (other.readOnly && wanted.readOnly) ||
    (!other.readOnly && !wanted.readOnly && areCopies(domains, other.vm, wanted.vm));
  const rival = others.find((other) => other.volume === wanted.volume && !mayShare(other));
  if (rival !== undefined) {
    const how = rival.readOnly ? 'read-only' : 'read-write';
    throw refuse(
      'volume_busy',
      `the volume ${volume.name} is attached ${how} to the VM ${rival.vm} on host ${rival.host}`,
      { vm: rival.vm, disk: rival.disk },
    );
  }
  return true;
}
