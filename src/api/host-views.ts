// What a host agent shows: the devices it was told of and what became of them.
import { listNames, refuse } from '../errors.js';
import { type DiskEntry, isDisk, isNet, type NetEntry } from '../supervisor/documents.js';
import type { HostSupervisor } from '../supervisor/host-supervisor.js';
import { engineView, linkView, type StatusContext, statusBase, xdpProblems, xdpView } from './common-views.js';
import type { VmNicView } from './nic-schemas.js';
import { featuresOf } from './nic-views.js';
import type { DiskView, HostStatus, VmView } from './schemas.js';

export class HostViews {
  private readonly name: string;
  private readonly supervisor: HostSupervisor;
  private readonly context: StatusContext;

  constructor(name: string, supervisor: HostSupervisor, context: StatusContext) {
    this.name = name;
    this.supervisor = supervisor;
    this.context = context;
  }

  vms(): VmView[] {
    const entries = this.supervisor.deviceEntries();
    const disks = entries.filter(isDisk).map((entry) => this.toDisk(entry));
    const nics = entries.filter(isNet).map((entry) => this.toNic(entry));
    const names = new Set(entries.map(({ vm }) => vm));
    return [...names].sort().map((name) => ({
      name,
      host: this.name,
      disks: disks.filter(({ vm }) => vm === name),
      nics: nics.filter(({ vm }) => vm === name),
    }));
  }

  /** Throws vm_not_found. */
  vm(name: string): VmView {
    const vms = this.vms();
    const vm = vms.find((other) => other.name === name);
    if (vm === undefined) {
      const known = listNames(vms.map((other) => other.name));
      throw refuse('vm_not_found', `there is no VM ${name} on this host: it has no disks and no NICs here`, { known });
    }
    return vm;
  }

  async status(): Promise<HostStatus> {
    const engine = this.supervisor.engineStatus();
    const { links, workers } = await this.supervisor.sessionParts();
    const session = {
      ...this.supervisor.sessionStatus(),
      links: links.map(linkView),
      workers: workers.map(({ worker, up, inFlight }) => ({ worker, up, in_flight: inFlight })),
    };
    const vms = this.vms();
    const xdp = await xdpView(this.context, () => this.supervisor.stats());
    const problems = [
      ...(engine.state === 'running' ? [] : [`the engine is ${engine.state}: ${engine.lastError || 'not up yet'}`]),
      ...xdpProblems(xdp),
      ...(session.up ? [] : [`no session with the I/O hypervisor: ${session.reason}`]),
      ...vms
        .flatMap(({ disks }) => disks)
        .filter(({ state }) => state === 'broken')
        .map(({ vm, disk, reason }) => `disk ${disk} of VM ${vm} is broken: ${reason}`),
      ...vms
        .flatMap(({ nics }) => nics)
        .filter(({ state }) => state === 'broken')
        .map(({ vm, nic, reason }) => `NIC ${nic} of VM ${vm} is broken: ${reason}`),
    ];
    return {
      role: 'host',
      name: this.name,
      ...statusBase(this.context, engineView(engine, this.supervisor.engineLog), engine, xdp),
      session,
      problems,
      vms,
    };
  }

  private toDisk(entry: DiskEntry): DiskView {
    const { id, generation, vm, disk, volume, size, queues, readOnly, worker = 0 } = entry;
    const status = this.supervisor.deviceStatus(entry);
    return {
      ...{ id, generation, vm, disk, host: this.name, volume, worker, size, queues, weight: null },
      read_only: readOnly,
      state: status?.state ?? 'pending',
      reason: status?.reason ?? 'the engine does not have it yet',
      socket: status?.socket ?? this.supervisor.socketOf(entry),
      socket_reported: true,
    };
  }

  private toNic(entry: NetEntry): VmNicView {
    const { id, generation, vm, nic, mac, mtu, queues, linkUp, qmp = null } = entry;
    const status = this.supervisor.deviceStatus(entry);
    return {
      ...{ id, generation, vm, nic, host: this.name, mac, mtu, queues, qmp },
      link: linkUp ? 'up' : 'down',
      state: status?.state ?? 'pending',
      reason: status?.reason ?? 'the engine does not have it yet',
      features: featuresOf(status),
      socket: status?.socket ?? this.supervisor.socketOf(entry),
      socket_reported: true,
    };
  }
}
