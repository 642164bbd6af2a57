// What `outrigger top` shows: two samples of the counters and the time between them make rates. Counters
// belong to an engine, so there are no rates across the death of one.
import type { CacheView } from '../api/cache-schemas.js';
import type { DomainView } from '../api/domain-schemas.js';
import type { HostStatus, IohvStatus } from '../api/schemas.js';
import type { Nested } from '../telemetry/metrics.js';
import { formatDuration, formatPairs, formatSize, formatTable } from './format.js';
import { domainMembers, domainState } from './render-domain.js';

export interface Sample {
  /** performance.now(). */
  atMs: number;
  status: IohvStatus | HostStatus;
  /** Of the engine; empty while there is none. */
  stats: Nested;
  /** Of an I/O hypervisor. */
  cache: CacheView | null;
}

/** Per second; null where there are no two samples of one engine. */
type Rate = number | null;

interface Traffic {
  iops: Rate;
  read_mb_s: Rate;
  write_mb_s: Rate;
}

export interface TopView {
  name: string;
  uptime_s: number;
  engine: string;
  problems: string[];
  total: Traffic & { retransmits: Rate; frames_lost: Rate };
  /** Only of an I/O hypervisor that has one. */
  cache: CacheTraffic | null;
  /** Hosts of an I/O hypervisor; of a host agent, its session. */
  hosts: { name: string; up: boolean; rtt_us: number; iops: Rate; in_flight: number; disks: number; nics: number }[];
  /** Only the host's engine counts by disk. */
  disks: (Traffic & { disk: string; volume: string; state: string })[];
  /** tx is what the guest sends. */
  nics: NicTraffic[];
  /** Protection domains, of an I/O hypervisor. */
  domains: DomainTraffic[];
}

/** Blocks of 4 KiB read from memory and from the storage. */
interface CacheTraffic {
  hits_s: Rate;
  misses_s: Rate;
  written_out_mb_s: Rate;
  dirty_bytes: number;
  used_bytes: number;
}

interface NicTraffic {
  nic: string;
  state: string;
  tx_packets_s: Rate;
  tx_mbit_s: Rate;
  rx_packets_s: Rate;
  rx_mbit_s: Rate;
  dropped_s: Rate;
}

/** Numbers are null while the engine does not have the domain. */
interface DomainTraffic extends Pick<DomainView, 'generation' | 'unprotected' | 'members'> {
  domain: string;
  state: DomainView['state'];
  open: number | null;
  committed: number | null;
  epochs_s: Rate;
  held_bytes: number | null;
  bytes: number;
}

type Counter = (...path: readonly string[]) => Rate;

export function computeTop(before: Sample, now: Sample): TopView {
  const { status } = now;
  const seconds = (now.atMs - before.atMs) / 1000;
  const isSameEngine = status.engine.pid !== null && status.engine.pid === before.status.engine.pid;
  const rateOf = (old: number | undefined, current: number | undefined): Rate =>
    isSameEngine && old !== undefined && current !== undefined ? Math.max(0, current - old) / seconds : null;
  const rate: Counter = (...path) => rateOf(counter(before.stats, path), counter(now.stats, path));
  const part = status.role === 'iohv' ? 'server' : 'client';
  return {
    name: status.role === 'iohv' ? 'I/O hypervisor' : `host agent ${status.name}`,
    uptime_s: status.uptime_s,
    engine: status.engine.state,
    problems: status.problems,
    total: {
      ...traffic(rate, [part], ['requests']),
      retransmits: rate(part, 'retransmits'),
      frames_lost: rate(part, 'framesLost'),
    },
    cache: cacheOf(before.cache, now.cache, rateOf),
    hosts: status.role === 'iohv' ? hostsOf(status, before.status, rateOf) : [sessionOf(status, now.stats, rate)],
    disks: status.role === 'iohv' ? [] : disksOf(status, rate),
    nics: status.role === 'iohv' ? nicsOf(status, before.status, rateOf) : hostNicsOf(status, rate),
    domains: status.role === 'iohv' ? domainsOf(status, before.status, rateOf) : [],
  };
}

const OPERATIONS = ['reads', 'writes', 'flushes', 'discards', 'writeZeroes'];
const MB = 1e6;

function traffic(rate: Counter, path: readonly string[], operations: readonly string[]): Traffic {
  const rates = operations.map((name) => rate(...path, name));
  const megabytes = (name: string) => {
    const bytes = rate(...path, name);
    return bytes === null ? null : bytes / MB;
  };
  return {
    iops: rates.reduce((sum, one) => (sum === null || one === null ? null : sum + one), 0),
    read_mb_s: megabytes('bytesRead'),
    write_mb_s: megabytes('bytesWritten'),
  };
}

function cacheOf(
  before: CacheView | null,
  now: CacheView | null,
  rateOf: (old: number | undefined, current: number | undefined) => Rate,
): CacheTraffic | null {
  if (now?.state !== 'on') {
    return null;
  }
  const [old, counters] = [before?.counters, now.counters];
  return {
    hits_s: rateOf(old?.hits, counters.hits),
    misses_s: rateOf(old?.misses, counters.misses),
    written_out_mb_s: scaled(rateOf(old?.written_out_bytes, counters.written_out_bytes), MB),
    dirty_bytes: counters.dirty_bytes,
    used_bytes: counters.used_bytes,
  };
}

function hostsOf(
  status: IohvStatus,
  before: IohvStatus | HostStatus,
  rateOf: (old: number | undefined, current: number | undefined) => Rate,
): TopView['hosts'] {
  const old = new Map(before.role === 'iohv' ? before.hosts.map((host) => [host.name, host.requests]) : []);
  return status.hosts.map(({ name, up, srtt_us, requests, in_flight, disks, nics }) => {
    const iops = rateOf(old.get(name), requests);
    return { name, up, rtt_us: srtt_us, iops, in_flight, disks, nics };
  });
}

function sessionOf(status: HostStatus, stats: Nested, rate: Counter): TopView['hosts'][number] {
  return {
    name: status.name,
    up: status.session.up,
    rtt_us: counter(stats, ['client', 'srttUs']) ?? 0,
    iops: rate('client', 'requests'),
    in_flight: (counter(stats, ['client', 'requests']) ?? 0) - (counter(stats, ['client', 'replies']) ?? 0),
    disks: status.vms.flatMap(({ disks }) => disks).length,
    nics: status.vms.flatMap(({ nics }) => nics).length,
  };
}

function disksOf(status: HostStatus, rate: Counter): TopView['disks'] {
  return status.vms
    .flatMap(({ disks }) => disks)
    .map(({ vm, disk, volume, state }) => {
      const name = `${vm}/${disk}`;
      return { disk: name, volume, state, ...traffic(rate, ['devices', name], OPERATIONS) };
    });
}

const MBIT = 1e6 / 8;
const scaled = (rate: Rate, unit: number): Rate => (rate === null ? null : rate / unit);

/** The engine of the I/O hypervisor counts by direction, and drops by reason. */
function nicsOf(
  status: IohvStatus,
  before: IohvStatus | HostStatus,
  rateOf: (old: number | undefined, current: number | undefined) => Rate,
): NicTraffic[] {
  const old = new Map(before.role === 'iohv' ? before.nics.map((nic) => [nic.name, nic.counters as Nested]) : []);
  return status.nics.map(({ name, state, counters }) => {
    const [first, last] = [old.get(name) ?? {}, (counters ?? {}) as Nested];
    const rate = (...path: string[]) => rateOf(counter(first, path), counter(last, path));
    return {
      ...{ nic: name, state },
      ...{ tx_packets_s: rate('tx', 'packets'), tx_mbit_s: scaled(rate('tx', 'bytes'), MBIT) },
      ...{ rx_packets_s: rate('rx', 'packets'), rx_mbit_s: scaled(rate('rx', 'bytes'), MBIT) },
      dropped_s: rateOf(dropsOf(first), dropsOf(last)),
    };
  });
}

function dropsOf(counters: Nested): number | undefined {
  const drops = [counters.tx, counters.rx].map((direction) => (typeof direction === 'object' ? direction.dropped : {}));
  const all = drops.flatMap((dropped) => Object.values(typeof dropped === 'object' ? dropped : {}));
  return Object.keys(counters).length === 0
    ? undefined
    : all.reduce((sum: number, count) => sum + (typeof count === 'number' ? count : 0), 0);
}

const HOST_DROPS = ['txDroppedDown', 'txBadHeader', 'rxNoBuffers', 'rxTooLong'];

function hostNicsOf(status: HostStatus, rate: Counter): NicTraffic[] {
  return status.vms
    .flatMap(({ nics }) => nics)
    .map(({ vm, nic, state }) => {
      const name = `${vm}/${nic}`;
      const of = (key: string) => rate('nics', name, key);
      return {
        ...{ nic: name, state },
        ...{ tx_packets_s: of('txPackets'), tx_mbit_s: scaled(of('txBytes'), MBIT) },
        ...{ rx_packets_s: of('rxPackets'), rx_mbit_s: scaled(of('rxBytes'), MBIT) },
        dropped_s: HOST_DROPS.map(of).reduce((sum, one) => (sum === null || one === null ? null : sum + one), 0),
      };
    });
}

function domainsOf(
  status: IohvStatus,
  before: IohvStatus | HostStatus,
  rateOf: (old: number | undefined, current: number | undefined) => Rate,
): DomainTraffic[] {
  const old = new Map(before.role === 'iohv' ? before.domains.map(({ id, counters }) => [id, counters]) : []);
  return status.domains.map(({ id, name, state, generation, unprotected, bytes, members, counters }) => ({
    ...{ domain: name, state, generation },
    open: counters?.open ?? null,
    committed: counters?.committed ?? null,
    epochs_s: rateOf(old.get(id)?.committed, counters?.committed),
    held_bytes: counters?.held_bytes ?? null,
    ...{ bytes, unprotected, members },
  }));
}

function counter(stats: Nested, path: readonly string[]): number | undefined {
  let value: number | Nested | undefined = stats;
  for (const key of path) {
    value = typeof value === 'object' ? value[key] : undefined;
  }
  return typeof value === 'number' ? value : undefined;
}

const digits = (rate: Rate, fraction = 0) => (rate === null ? '-' : rate.toFixed(fraction));

export function renderTop(view: TopView): string {
  const { total } = view;
  const sections = [
    formatPairs([
      [view.name, `up ${formatDuration(view.uptime_s)}, engine ${view.engine}`],
      [
        'total',
        `${digits(total.iops)} IOPS, read ${digits(total.read_mb_s, 1)} MB/s, write ${digits(total.write_mb_s, 1)} MB/s`,
      ],
      ...(view.cache === null ? [] : [['cache', renderCache(view.cache)] as const]),
      ['wire', `${digits(total.retransmits, 1)} retransmits/s, ${digits(total.frames_lost, 1)} frames lost/s`],
    ]),
    view.problems.map((problem) => `  ! ${problem}\n`).join(''),
    renderRows(
      ['HOST', 'STATE', 'RTT', 'IOPS', 'IN FLIGHT', 'DISKS', 'NICS'],
      view.hosts.map((host) => [
        host.name,
        host.up ? 'up' : 'down',
        host.up ? `${host.rtt_us.toFixed(0)} us` : '-',
        digits(host.iops),
        String(host.in_flight),
        String(host.disks),
        String(host.nics),
      ]),
    ),
    renderRows(
      ['DISK', 'VOLUME', 'STATE', 'IOPS', 'READ MB/s', 'WRITE MB/s'],
      view.disks.map((disk) => [
        disk.disk,
        disk.volume,
        disk.state,
        digits(disk.iops),
        digits(disk.read_mb_s, 1),
        digits(disk.write_mb_s, 1),
      ]),
    ),
    renderRows(
      ['NIC', 'STATE', 'TX PACKETS/s', 'TX Mbit/s', 'RX PACKETS/s', 'RX Mbit/s', 'DROPPED/s'],
      view.nics.map((nic) => [
        ...[nic.nic, nic.state],
        ...[digits(nic.tx_packets_s), digits(nic.tx_mbit_s, 1), digits(nic.rx_packets_s), digits(nic.rx_mbit_s, 1)],
        digits(nic.dropped_s, 1),
      ]),
    ),
    renderRows(
      ['DOMAIN', 'STATE', 'GENERATION', 'OPEN', 'COMMITTED', 'EPOCHS/s', 'HELD', 'MEMBERS'],
      view.domains.map((domain) => [
        ...[domain.domain, domainState(domain), String(domain.generation)],
        ...[digits(domain.open), digits(domain.committed), digits(domain.epochs_s, 1)],
        domain.held_bytes === null ? '-' : `${formatSize(domain.held_bytes)} of ${formatSize(domain.bytes)}`,
        domainMembers(domain),
      ]),
    ),
  ];
  return sections.filter((section) => section !== '').join('\n');
}

function renderCache({ hits_s: hits, misses_s: misses, written_out_mb_s: out, dirty_bytes, used_bytes }: CacheTraffic) {
  const read = hits === null || misses === null ? null : hits + misses;
  const ratio = read === null || hits === null || read === 0 ? '-' : `${((hits / read) * 100).toFixed(1)} %`;
  return `${ratio} of ${digits(read)} blocks/s from memory, ${formatSize(used_bytes)} in use; ${formatSize(dirty_bytes)} dirty, ${digits(out, 1)} MB/s written out`;
}

function renderRows(header: readonly string[], rows: readonly (readonly string[])[]): string {
  return rows.length === 0 ? '' : formatTable(header, rows);
}
