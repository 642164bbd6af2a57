// What the I/O hypervisor shows of NICs: desired state, engine and reports put together.
import { restrictionOf, roleOf } from '../supervisor/domain-rules.js';
import { nicSocketPath } from '../supervisor/host-planner.js';
import type { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import type { Desired, Nic, NicAttachment } from '../supervisor/model.js';
import { findNic } from '../supervisor/nic-operations.js';
import { NO_FEATURES, nicKey } from '../supervisor/nic-planner.js';
import type { Limit } from '../supervisor/protocol.js';
import type { Store } from '../supervisor/store.js';
import type { Nested } from '../telemetry/metrics.js';
import { DEFAULT_SOCKET_DIR } from './common-views.js';
import type { NicRate, NicView, VmNicView } from './nic-schemas.js';

export class NicViews {
  private readonly store: Store;
  private readonly supervisor: IohvSupervisor;

  constructor(store: Store, supervisor: IohvSupervisor) {
    this.store = store;
    this.supervisor = supervisor;
  }

  async nics(): Promise<NicView[]> {
    const counters = await this.counters();
    const desired = this.store.desired();
    return desired.nics.map((nic) => this.toNic(nic, desired, counters));
  }

  /** Throws nic_not_found. */
  async nic(name: string): Promise<NicView> {
    const counters = await this.counters();
    const desired = this.store.desired();
    return this.toNic(findNic(desired.nics, name), desired, counters);
  }

  /** A NIC as one of its VM. */
  ofVm(attachment: NicAttachment, { nics, domains }: Desired): VmNicView {
    const { id, generation, vm, nic, host, queues, qmp } = attachment;
    const { mac, mtu, linkUp } = findNic(nics, nic);
    const reported = this.reportOf(attachment);
    const why = restrictionOf(domains, vm) || this.whyDoubtful(attachment);
    return {
      ...{ id, generation, vm, nic, host, mac, mtu, queues, qmp },
      link: linkUp ? 'up' : 'down',
      state: reported?.state ?? 'pending',
      reason: reported?.reason || why || (reported === undefined ? 'the host has not made it yet' : ''),
      features: featuresOf(reported),
      socket: reported?.socket ?? nicSocketPath(DEFAULT_SOCKET_DIR, vm, nic),
      socket_reported: reported !== undefined,
    };
  }

  private async counters(): Promise<Map<string, Nested>> {
    return new Map((await this.supervisor.rows.nics()).map(({ name, stats }) => [name, stats]));
  }

  private reportOf({ id, host }: NicAttachment) {
    return this.supervisor.reports.entryOf(host, id);
  }

  private toNic(nic: Nic, { nicAttachments, domains }: Desired, counters: ReadonlyMap<string, Nested>): NicView {
    const { name, kind, interface: device, bridge, parent, mode, hub, mac, mtu, addresses, rate } = nic;
    const uses = nicAttachments.filter((other) => other.nic === name);
    const attachment = uses.find(({ vm }) => (roleOf(domains, vm) ?? 'active') === 'active') ?? uses[0];
    return {
      ...{ name, kind, interface: device, bridge, parent, mode, hub, mac, mtu, addresses },
      spoof_check: nic.spoofCheck,
      link: nic.linkUp ? 'up' : 'down',
      rate: { tx: toRate(rate.tx), rx: toRate(rate.rx) },
      ...this.stateOf(nic, attachment),
      attachment: attachment
        ? {
            vm: attachment.vm,
            host: attachment.host,
            queues: attachment.queues,
            state: this.reportOf(attachment)?.state ?? 'pending',
          }
        : null,
      counters: counters.get(name) ?? null,
    };
  }

  private stateOf({ name, phase }: Nic, attachment: NicAttachment | undefined): Pick<NicView, 'state' | 'reason'> {
    const { supervisor } = this;
    const failure = supervisor.failureOf(nicKey(name));
    if (phase === 'deleting') {
      return { state: 'deleting', reason: failure ?? '' };
    }
    if (failure !== undefined) {
      return { state: 'failed', reason: failure };
    }
    if (supervisor.isNicOpen(name)) {
      return { state: 'open', reason: '' };
    }
    if (supervisor.engineStatus().state !== 'running') {
      return { state: 'waiting', reason: 'the engine is not running' };
    }
    if (!supervisor.isNicReady(name)) {
      return { state: 'setup', reason: '' };
    }
    const hosts = supervisor.knownHosts.map((host) => host.name);
    if (attachment !== undefined && !hosts.includes(attachment.host)) {
      return { state: 'waiting', reason: `its host ${attachment.host} is not in the configuration` };
    }
    return attachment === undefined ? { state: 'ready', reason: '' } : { state: 'setup', reason: '' };
  }

  /** What keeps the NIC from working, as far as the I/O hypervisor knows. */
  private whyDoubtful({ nic, host }: NicAttachment): string {
    const failure = this.supervisor.failureOf(nicKey(nic));
    if (failure !== undefined) {
      return failure;
    }
    if (this.supervisor.engineStatus().state !== 'running') {
      return 'the engine is not running';
    }
    return this.supervisor.hostIsUp(host) ? '' : `the host ${host} is not connected`;
  }
}

/** null while no guest drives it. */
export function featuresOf(reported: { features?: string } | undefined): string | null {
  const features = reported?.features ?? NO_FEATURES;
  return features === NO_FEATURES ? null : features;
}

export function toRate({ bytesPerS, bytesBurst, opsPerS, opsBurst }: Limit): NicRate {
  return { bits_per_s: bytesPerS * 8, burst_bytes: bytesBurst, packets_per_s: opsPerS, burst_packets: opsBurst };
}
