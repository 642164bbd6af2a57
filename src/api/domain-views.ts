// What the I/O hypervisor shows of protection domains: desired state and engine put together.
import { domainKey, fenceKey, isSettled, protectKey } from '../supervisor/domain-planner.js';
import { findDomain } from '../supervisor/domain-rules.js';
import type { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import type { Desired, Domain } from '../supervisor/model.js';
import type { DomainRow, Timing } from '../supervisor/protocol.js';
import type { Store } from '../supervisor/store.js';
import { flatten, type Sample } from '../telemetry/metrics.js';
import type { DomainView } from './domain-schemas.js';

export class DomainViews {
  private readonly store: Store;
  private readonly supervisor: IohvSupervisor;

  constructor(store: Store, supervisor: IohvSupervisor) {
    this.store = store;
    this.supervisor = supervisor;
  }

  async domains(): Promise<DomainView[]> {
    const rows = await this.supervisor.rows.domains();
    const desired = this.store.desired();
    return desired.domains.map((domain) => this.toDomain(domain, desired, rows));
  }

  /** Throws domain_not_found. */
  async domain(name: string): Promise<DomainView> {
    const rows = await this.supervisor.rows.domains();
    const desired = this.store.desired();
    return this.toDomain(findDomain(desired.domains, name), desired, rows);
  }

  private toDomain(domain: Domain, { nicAttachments }: Desired, rows: readonly DomainRow[]): DomainView {
    const { id, name, generation, bytes, journal, worker, overflow, members, volumes } = domain;
    const { supervisor } = this;
    const row = rows.find((other) => other.id === id);
    const active = new Set(members.filter(({ role }) => role === 'active').map(({ vm }) => vm));
    return {
      ...{ id, name, generation, bytes, overflow },
      ...this.stateOf(domain, row),
      resume_epoch: domain.resumeEpoch,
      journal: journal.path,
      journal_bytes: journal.bytes,
      socket: supervisor.domainSocketOf(domain),
      worker: row?.worker ?? worker % supervisor.workerCount,
      commit_timeout_ms: domain.commitTimeoutMs,
      unprotected: row?.unprotected ?? false,
      created_at: new Date(domain.createdAt).toISOString(),
      members: members.map(({ vm, role, generation: own }) => ({ vm, role, generation: own === 0 ? null : own })),
      volumes: volumes.map(({ volume, leaving }) => {
        const isProtected = supervisor.isVolumeInPlace(volume, id);
        return { volume, state: leaving ? 'leaving' : isProtected ? 'protected' : 'waiting' };
      }),
      nics: nicAttachments.filter(({ vm }) => active.has(vm)).map(({ nic }) => nic),
      counters: row === undefined ? null : toCounters(row),
    };
  }

  private stateOf(domain: Domain, row: DomainRow | undefined): Pick<DomainView, 'state' | 'reason'> {
    const { supervisor } = this;
    const { name, phase, volumes } = domain;
    const keys = [fenceKey(name), domainKey(name), ...volumes.map(({ volume }) => protectKey(volume))];
    const failure = keys.map((key) => supervisor.failureOf(key)).find((reason) => reason !== undefined) ?? '';
    if (phase !== 'ready') {
      return { state: phase, reason: failure };
    }
    if (row === undefined) {
      const isUp = supervisor.engineStatus().state === 'running';
      const state = failure !== '' ? 'failed' : isUp ? 'opening' : 'waiting';
      return { state, reason: state === 'waiting' ? 'the engine is not running' : failure };
    }
    if (!isSettled(domain, row)) {
      return { state: 'fencing', reason: failure };
    }
    if (row.state === 'rewind') {
      const to = `take its VMs back to epoch ${row.committed}, then: outrigger protect domain reset ${name}`;
      return { state: 'rewind', reason: `what its VMs were told is done is lost; ${to}` };
    }
    return { state: row.state, reason: failure };
  }
}

function toCounters(row: DomainRow): NonNullable<DomainView['counters']> {
  const { open, committed, applied, waiting, packets, cuts, commits, overflows, connections, times } = row;
  return {
    ...{ open, committed, applied, waiting, packets, cuts, commits, overflows, connections },
    held_bytes: row.bytes,
    packets_fenced: row.packetsFenced,
    packets_lost: row.packetsLost,
    writes_fenced: row.writesFenced,
    bad_records: row.recordsBad,
    times: {
      cut: toTimes(times.cut),
      sync: toTimes(times.sync),
      release: toTimes(times.release),
      apply: toTimes(times.apply),
    },
  };
}

function toTimes({ count, totalNs, maxNs }: Timing) {
  return { count, mean_us: count === 0 ? 0 : Math.round(totalNs / count / 100) / 10, max_us: maxNs / 1000 };
}

const PROBLEMS: Partial<Record<DomainView['state'], (domain: DomainView) => string | undefined>> = {
  creating: ({ reason }) => reason || undefined,
  fencing: ({ reason }) => `a takeover or reset is not done yet${reason && `: ${reason}`}`,
  rewind: ({ reason }) => reason,
  unusable: ({ reason }) => reason,
  failed: ({ reason }) => reason,
};

/** What an operator should look at. */
export function domainProblems(domains: readonly DomainView[]): string[] {
  return domains.flatMap((domain) => {
    const lost = domain.unprotected
      ? 'more is out than the last checkpoint knows of, until an epoch is cut and committed'
      : undefined;
    const what = PROBLEMS[domain.state]?.(domain) ?? lost;
    return what === undefined ? [] : [`protection domain ${domain.name}: ${what}`];
  });
}

/** In /metrics. */
export function domainSamples(domains: readonly DomainView[], rows: readonly DomainRow[]): Sample[] {
  return domains.flatMap(({ name, state, generation, unprotected, bytes }) => {
    const row = rows.find((other) => other.name === name);
    const timing = (what: string, { count, totalNs }: Timing) =>
      flatten(`outrigger_domain_${what}`, { total: count, secondsTotal: totalNs / 1e9 }, { domain: name });
    const values = {
      running: Number(state === 'running'),
      rewindNeeded: Number(state === 'rewind'),
      unprotected: Number(unprotected),
      generation,
      bytesMax: bytes,
      ...(row === undefined
        ? {}
        : {
            heldBytes: row.bytes,
            openEpoch: row.open,
            committedEpoch: row.committed,
            appliedEpoch: row.applied,
            waiting: row.waiting,
            packetsTotal: row.packets,
            packetsFencedTotal: row.packetsFenced,
            packetsLostTotal: row.packetsLost,
            writesFencedTotal: row.writesFenced,
            commitsTotal: row.commits,
            overflowsTotal: row.overflows,
          }),
    };
    const { cut, sync, release, apply } = row?.times ?? {};
    return [
      ...flatten('outrigger_domain', values, { domain: name }),
      ...(cut ? timing('cut', cut) : []),
      ...(sync ? timing('journal_sync', sync) : []),
      ...(release ? timing('release', release) : []),
      ...(apply ? timing('apply', apply) : []),
    ];
  });
}
