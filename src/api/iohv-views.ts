// What the I/O hypervisor shows: desired state, engine and reports put together.

import { listNames, refuse } from '../errors.js';
import { domainKey } from '../supervisor/domain-planner.js';
import { domainOfVolume, restrictionOf } from '../supervisor/domain-rules.js';
import { socketPath } from '../supervisor/host-planner.js';
import { exportKey, hostKey, volumeKey } from '../supervisor/iohv-planner.js';
import type { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import {
  type Attachment,
  CLUSTER,
  type Desired,
  type Domain,
  headOf,
  type LayerMerge,
  type Snapshot,
  type Volume,
} from '../supervisor/model.js';
import { devicesOfVm, findVolume } from '../supervisor/operations.js';
import type { HostRow, Limit } from '../supervisor/protocol.js';
import { findSnapshot, snapshotName } from '../supervisor/snapshots.js';
import type { Store } from '../supervisor/store.js';
import { describeVolumeError } from '../supervisor/volume-errors.js';
import { storedBytes } from '../supervisor/volume-files.js';
import { CacheViews, toVolumeCache } from './cache-views.js';
import {
  DEFAULT_SOCKET_DIR,
  engineView,
  iso,
  linkView,
  type StatusContext,
  statusBase,
  xdpProblems,
  xdpView,
} from './common-views.js';
import { DomainViews, domainProblems } from './domain-views.js';
import { NicViews } from './nic-views.js';
import type { DiskView, HostView, IohvStatus, VmView, VolumeRate, VolumeView, WorkerView } from './schemas.js';
import type { SnapshotView } from './snapshot-schemas.js';

/** After a failed flush; docs/operations.md, "Storage errors", says more. */
const LOST =
  'what was written may be lost, and no flush succeeds; check the storage, then detach the disk, check its data, and attach it';

export class IohvViews {
  readonly nics: NicViews;
  readonly cache: CacheViews;
  readonly domains: DomainViews;
  private readonly store: Store;
  private readonly supervisor: IohvSupervisor;
  private readonly context: StatusContext;

  constructor(store: Store, supervisor: IohvSupervisor, context: StatusContext) {
    this.nics = new NicViews(store, supervisor);
    this.cache = new CacheViews(store, supervisor);
    this.domains = new DomainViews(store, supervisor);
    this.store = store;
    this.supervisor = supervisor;
    this.context = context;
  }

  volumes(): VolumeView[] {
    const desired = this.store.desired();
    return desired.volumes.map((volume) => this.toVolume(volume, desired));
  }

  /** Throws volume_not_found. */
  volume(name: string): VolumeView {
    const desired = this.store.desired();
    return this.toVolume(findVolume(desired.volumes, name), desired);
  }

  /** Throws volume_not_found. */
  async snapshots(volume: string): Promise<SnapshotView[]> {
    const desired = this.store.desired();
    findVolume(desired.volumes, volume);
    const snapshots = desired.snapshots.filter((snapshot) => snapshot.volume === volume);
    return Promise.all(snapshots.map((snapshot) => this.toSnapshot(snapshot, desired)));
  }

  /** Throws volume_not_found, snapshot_not_found. */
  async snapshot(volume: string, name: string): Promise<SnapshotView> {
    const desired = this.store.desired();
    return this.toSnapshot(findSnapshot(desired, volume, name), desired);
  }

  vms(): VmView[] {
    const desired = this.store.desired();
    const names = new Set([...desired.attachments, ...desired.nicAttachments].map(({ vm }) => vm));
    return [...names].sort().map((name) => this.toVm(name, desired));
  }

  /** Throws vm_not_found. */
  vm(name: string): VmView {
    return this.toVm(name, this.store.desired());
  }

  attachments(): DiskView[] {
    return this.vms().flatMap(({ disks }) => disks);
  }

  async hosts(): Promise<HostView[]> {
    const desired = this.store.desired();
    const rows = new Map((await this.supervisor.rows.hosts()).map((row) => [row.name, row]));
    return this.supervisor.knownHosts.map(({ name }) => this.toHost(name, rows.get(name), desired));
  }

  /** Throws host_not_found. */
  async host(name: string): Promise<HostView> {
    const hosts = await this.hosts();
    const host = hosts.find((other) => other.name === name);
    if (host === undefined) {
      throw refuse('host_not_found', `there is no host ${name}`, { known: listNames(hosts.map((h) => h.name)) });
    }
    return host;
  }

  /** Looks at the workers for a moment. */
  async workers(): Promise<WorkerView[]> {
    const infos = await this.supervisor.workerInfos();
    return infos.map(({ utilisation, requestsPerS, ...info }) => ({
      ...info,
      utilisation: Math.round(utilisation * 1000) / 1000,
      requests_per_s: requestsPerS,
    }));
  }

  async status(): Promise<IohvStatus> {
    const engine = this.supervisor.engineStatus();
    const [hosts, nics, domains] = await Promise.all([this.hosts(), this.nics.nics(), this.domains.domains()]);
    const [volumes, vms] = [this.volumes(), this.vms()];
    const known = new Set(hosts.map(({ name }) => name));
    const xdp = await xdpView(this.context, () => this.supervisor.stats());
    const problems = [
      ...(engine.state === 'running' ? [] : [`the engine is ${engine.state}: ${engine.lastError || 'not up yet'}`]),
      ...xdpProblems(xdp),
      ...volumes.filter(({ state }) => state === 'failed').map(({ name, reason }) => `volume ${name}: ${reason}`),
      ...this.unpinnable(),
      ...domainProblems(domains),
      ...nics.filter(({ state }) => state === 'failed').map(({ name, reason }) => `NIC ${name}: ${reason}`),
      ...hosts.flatMap(({ name }) => {
        const failure = this.supervisor.failureOf(hostKey(name));
        return failure === undefined ? [] : [`host ${name}: ${failure}`];
      }),
      ...vms
        .filter(({ host }) => !known.has(host))
        .map(({ name, host }) => `VM ${name}: its host ${host} is not in the configuration`),
      ...hosts
        .filter(({ up, disks, nics }) => !up && disks + nics > 0)
        .map(({ name, disks, nics }) => `host ${name} is not connected and has ${devicesText(disks, nics)}`),
      ...vms
        .flatMap(({ disks }) => disks)
        .filter(({ state }) => state === 'broken')
        .map(({ vm, disk, reason }) => `disk ${disk} of VM ${vm} is broken: ${reason}`),
      ...vms
        .flatMap((vm) => vm.nics)
        .filter(({ state }) => state === 'broken')
        .map(({ vm, nic, reason }) => `NIC ${nic} of VM ${vm} is broken: ${reason}`),
    ];
    return {
      role: 'iohv',
      ...statusBase(this.context, engineView(engine, this.supervisor.engineLog), engine, xdp),
      problems,
      hosts,
      volumes,
      nics,
      domains,
      vms,
    };
  }

  private unpinnable(): string[] {
    const { workerCount } = this.supervisor;
    return this.store
      .desired()
      .volumes.flatMap(({ name, worker }) =>
        worker !== null && worker >= workerCount
          ? [`volume ${name}: pinned to worker ${worker}, which does not exist: it is served as if it were not pinned`]
          : [],
      );
  }

  private async toSnapshot({ volume, name, createdAt, layers }: Snapshot, { volumes }: Desired): Promise<SnapshotView> {
    const head = headOf({ name: volume, layers });
    const of = findVolume(volumes, volume);
    const isPending = this.supervisor.isBehind(of) && of.layers[1]?.content === head.content;
    return {
      volume,
      name,
      created_at: new Date(createdAt).toISOString(),
      size: head.size,
      stored: await storedBytes(head.path),
      state: isPending ? 'pending' : 'ready',
      clones: volumes
        .filter(({ base }) => base?.volume === volume && base.snapshot === name)
        .map((clone) => clone.name),
    };
  }

  private toVolume(volume: Volume, { volumes, snapshots, attachments, merges, domains }: Desired): VolumeView {
    const { name, kind, layers, base, readOnly, adopted, geometry, ioTimeoutMs, limit } = volume;
    const { errors, lastError } = this.supervisor.errorsOf(name);
    return {
      ...{ name, kind, adopted },
      path: layers[0]?.path ?? null,
      layers: layers.map(({ path }) => path),
      merging: mergedPercent(volume, merges),
      base: base && snapshotName(base.volume, base.snapshot),
      clones: volumes.filter((other) => other.base?.volume === name).map((clone) => clone.name),
      snapshots: snapshots.filter((snapshot) => snapshot.volume === name).map((snapshot) => snapshot.name),
      size: geometry?.size ?? volume.size,
      block_size: geometry?.blockSize ?? volume.blockSize,
      worker: this.supervisor.workerOf(name),
      pinned: volume.worker !== null,
      read_only: readOnly,
      io_timeout_ms: ioTimeoutMs,
      rate: toVolumeRate(limit),
      cache: kind === 'file' ? toVolumeCache(volume.cache) : null,
      ...this.volumeState(volume, domains),
      errors,
      last_error: lastError && describeVolumeError(lastError),
      attachments: attachments
        .filter((attachment) => attachment.volume === name)
        .map((attachment) => ({
          vm: attachment.vm,
          disk: attachment.disk,
          host: attachment.host,
          read_only: attachment.readOnly,
        })),
    };
  }

  private volumeState(
    { name, phase, fault }: Volume,
    domains: readonly Domain[],
  ): Pick<VolumeView, 'state' | 'reason'> {
    const failure = this.supervisor.failureOf(volumeKey(name));
    if (phase !== 'ready') {
      return { state: phase, reason: failure ?? '' };
    }
    if (failure !== undefined) {
      return { state: 'failed', reason: failure };
    }
    if (fault !== null) {
      return { state: 'failed', reason: `${fault}: ${LOST}` };
    }
    if (this.supervisor.isVolumeOpen(name)) {
      return { state: 'open', reason: '' };
    }
    return this.supervisor.engineStatus().state === 'running'
      ? { state: 'opening', reason: this.whyUnprotected(name, domains) }
      : { state: 'waiting', reason: 'the engine is not running' };
  }

  /** What keeps the domain of the volume from being opened, and so the volume. */
  private whyUnprotected(volume: string, domains: readonly Domain[]): string {
    const domain = domainOfVolume(domains, volume);
    const failure = domain && this.supervisor.failureOf(domainKey(domain.name));
    return failure === undefined ? '' : `it waits for the protection domain ${domain?.name}: ${failure}`;
  }

  private toVm(name: string, desired: Desired): VmView {
    const { disks, nics } = devicesOfVm(desired, name);
    return {
      name,
      host: [...disks, ...nics][0]?.host ?? '',
      disks: disks.map((attachment) => this.toDisk(attachment, desired)),
      nics: nics.map((attachment) => this.nics.ofVm(attachment, desired)),
    };
  }

  /** `row`: undefined while the engine does not have it. */
  private toHost(name: string, row: HostRow | undefined, { attachments, nicAttachments }: Desired): HostView {
    return {
      name,
      up: row?.up ?? false,
      mac: row?.mac ?? null,
      since: iso(row?.since ?? null),
      srtt_us: row?.srttUs ?? 0,
      requests: row?.requests ?? 0,
      in_flight: row?.inFlight ?? 0,
      mtu: row?.mtu ?? 0,
      links: (row?.links ?? []).map(linkView),
      workers: row?.workers ?? [],
      agent_version: this.supervisor.reports.of(name)?.agentVersion ?? null,
      disks: attachments.filter(({ host }) => host === name).length,
      nics: nicAttachments.filter(({ host }) => host === name).length,
    };
  }

  private toDisk(attachment: Attachment, { volumes, domains }: Desired): DiskView {
    const { id, generation, vm, disk, host, volume, readOnly, queues, weight } = attachment;
    const reported = this.supervisor.reports.entryOf(host, id);
    const why = restrictionOf(domains, vm) || this.whyDoubtful(attachment);
    return {
      ...{ id, generation, vm, disk, host, volume, queues, weight },
      worker: this.supervisor.workerOf(volume),
      size: volumes.find((other) => other.name === volume)?.geometry?.size ?? null,
      read_only: readOnly,
      state: reported?.state ?? 'pending',
      reason: reported?.reason || why || (reported === undefined ? 'the host has not made it yet' : ''),
      socket: reported?.socket ?? socketPath(DEFAULT_SOCKET_DIR, vm, disk),
      socket_reported: reported !== undefined,
    };
  }

  /** What keeps the disk from working, as far as the I/O hypervisor knows. */
  private whyDoubtful({ id, host, volume }: Attachment): string {
    const failure = this.supervisor.failureOf(volumeKey(volume)) ?? this.supervisor.failureOf(exportKey(id));
    if (failure !== undefined) {
      return failure;
    }
    if (this.supervisor.engineStatus().state !== 'running') {
      return 'the engine is not running';
    }
    return this.supervisor.hostIsUp(host) ? '' : `the host ${host} is not connected`;
  }
}

/** "2 disks and 1 NIC" */
function devicesText(disks: number, nics: number): string {
  const count = (n: number, what: string) => (n === 0 ? [] : [`${n} ${what}${n === 1 ? '' : 's'}`]);
  return [...count(disks, 'disk'), ...count(nics, 'NIC')].join(' and ');
}

function toVolumeRate({ bytesPerS, bytesBurst, opsPerS, opsBurst }: Limit): VolumeRate {
  return { bytes_per_s: bytesPerS, burst_bytes: bytesBurst, iops: opsPerS, burst_ops: opsBurst };
}

/** Of those of the volume's layers that are merged first; null: none are. */
function mergedPercent({ layers }: Volume, merges: readonly LayerMerge[]): number | null {
  const contents = layers.map(({ content }) => content);
  const merge = merges.find(({ upper }) => contents.includes(upper.content)) ?? null;
  return merge && Math.min(Math.floor((merge.next * CLUSTER * 100) / merge.upper.size), 100);
}
