// How answers of the REST interface look to a human.
import type {
  DiskView,
  EventView,
  HostStatus,
  HostView,
  ImportView,
  IohvStatus,
  LinkView,
  VmView,
  VolumeView,
  XdpView,
} from '../api/schemas.js';
import { formatFields } from '../telemetry/log.js';
import { formatVolumeCache } from './cache-options.js';
import { formatDuration, formatPairs, formatSize, formatTable, formatTimeout } from './format.js';
import { formatDiskRate } from './rates.js';
import { renderDomains } from './render-domain.js';
import { summarizeEngine } from './render-engine.js';
import { renderNics, renderVmNics } from './render-nic.js';

const orDash = (text: string | null | undefined) => text || '-';

export function renderVolumes(volumes: readonly VolumeView[]): string {
  if (volumes.length === 0) {
    return 'no volumes; make one with: outrigger volume create disk1 --size 10G\n';
  }
  const rows = volumes.map((volume) => [
    volume.name,
    volume.kind,
    formatSize(volume.size),
    volume.state,
    renderWorker(volume),
    volume.io_timeout_ms === 0 ? '-' : formatTimeout(volume.io_timeout_ms),
    orDash(volume.attachments.map(({ vm, read_only }) => `${vm}${read_only ? ' (ro)' : ''}`).join(', ')),
    orDash(volume.base),
    orDash(volume.reason || volume.path),
  ]);
  return formatTable(['NAME', 'KIND', 'SIZE', 'STATE', 'WORKER', 'TIMEOUT', 'ATTACHED TO', 'CLONE OF', 'PATH'], rows);
}

const renderWorker = ({ worker, pinned }: VolumeView) => `${worker}${pinned ? ' (pinned)' : ''}`;

export function renderVolume(volume: VolumeView): string {
  const notes = [volume.adopted ? 'adopted' : 'created here', ...(volume.read_only ? ['read-only'] : [])];
  return formatPairs([
    ['name', volume.name],
    ['kind', `${volume.kind} (${notes.join(', ')})`],
    ['path', orDash(volume.path)],
    ...(volume.layers.length > 1 ? [['over', volume.layers.slice(1).join(', ')] as const] : []),
    ...(volume.merging === null ? [] : [['merging', `two of its layers, ${volume.merging} %`] as const]),
    ...(volume.base === null ? [] : [['clone of', volume.base] as const]),
    ...(volume.clones.length > 0 ? [['clones', volume.clones.join(', ')] as const] : []),
    ...(volume.snapshots.length > 0 ? [['snapshots', volume.snapshots.join(', ')] as const] : []),
    ['size', `${formatSize(volume.size)} (${volume.size} bytes, blocks of ${volume.block_size})`],
    ['state', volume.reason === '' ? volume.state : `${volume.state}: ${volume.reason}`],
    ['worker', renderWorker(volume)],
    ['I/O timeout', formatTimeout(volume.io_timeout_ms)],
    ['rate', formatDiskRate(volume.rate)],
    ['cache', volume.cache === null ? '-' : formatVolumeCache(volume.cache)],
    ['errors', volume.last_error === null ? String(volume.errors) : `${volume.errors}, the last: ${volume.last_error}`],
    ['attached', orDash(volume.attachments.map(({ vm, disk, host }) => `${vm} on ${host} as ${disk}`).join('; '))],
  ]);
}

export function renderTransfer(what: string, { bytes, stored, digest }: ImportView): string {
  return `${what}: ${formatSize(bytes)} in a stream of ${formatSize(stored)}, digest ${digest}\n`;
}

export function renderHosts(hosts: readonly HostView[]): string {
  if (hosts.length === 0) {
    return 'no hosts; list them in the configuration of the I/O hypervisor (`hosts:`), then send it SIGHUP\n';
  }
  const rows = hosts.map((host) => [
    host.name,
    host.up ? 'up' : 'down',
    orDash(host.mac),
    String(host.disks),
    String(host.nics),
    host.up ? `${host.srtt_us.toFixed(0)} us` : '-',
    String(host.requests),
    String(host.in_flight),
    orDash(host.agent_version),
  ]);
  return formatTable(['NAME', 'STATE', 'MAC', 'DISKS', 'NICS', 'RTT', 'REQUESTS', 'IN FLIGHT', 'AGENT'], rows);
}

export function renderHost(host: HostView): string {
  return formatPairs([
    ['name', host.name],
    ['state', host.up ? `up since ${orDash(host.since)}` : 'down'],
    ['mac', orDash(host.mac)],
    ['round trip', host.up ? `${host.srtt_us.toFixed(0)} us${renderLinks(host.links)}` : '-'],
    ...(host.workers.length > 0 ? [['workers', renderReached(host.workers)] as const] : []),
    ['mtu', host.up ? String(host.mtu) : '-'],
    ['frames', host.up ? renderFrames(host.links) : '-'],
    ['requests', `${host.requests}, ${host.in_flight} in flight`],
    ['disks', String(host.disks)],
    ['NICs', String(host.nics)],
    ['agent', orDash(host.agent_version)],
  ]);
}

/** With which of several workers there is a session. */
function renderReached(workers: readonly boolean[]): string {
  return orDash(workers.flatMap((up, worker) => (up ? [String(worker)] : [])).join(', '));
}

export function renderVms(vms: readonly VmView[]): string {
  if (vms.length === 0) {
    return 'no VMs; attach a volume with: outrigger attach web1 --host HOST --disk VOLUME\n';
  }
  return renderDevices({ disks: vms.flatMap(({ disks }) => disks), nics: vms.flatMap(({ nics }) => nics) });
}

export function renderDevices({ disks, nics }: Pick<VmView, 'disks' | 'nics'>): string {
  const tables = [...(disks.length > 0 ? [renderDisks(disks)] : []), ...(nics.length > 0 ? [renderVmNics(nics)] : [])];
  return tables.join('\n');
}

function renderDisks(disks: readonly DiskView[]): string {
  const rows = disks.map((disk) => [
    disk.vm,
    disk.host,
    disk.disk,
    disk.volume,
    disk.size === null ? '-' : formatSize(disk.size),
    disk.read_only ? 'ro' : 'rw',
    disk.weight === null ? '-' : `${disk.weight}`,
    disk.state,
    disk.reason || disk.socket,
  ]);
  return formatTable(['VM', 'HOST', 'DISK', 'VOLUME', 'SIZE', 'MODE', 'WEIGHT', 'STATE', 'SOCKET OR REASON'], rows);
}

const XDP_FRAMES: Record<XdpView['frames'], string> = {
  'zero-copy': 'AF_XDP with zero-copy',
  copied: 'AF_XDP, copied',
  packet: 'AF_PACKET',
};

/** `, AF_XDP, copied: the driver has no zero-copy`, or nothing when AF_XDP is not asked for. */
function renderXdp(xdp: XdpView | null): string {
  return xdp === null ? '' : `, ${XDP_FRAMES[xdp.frames]}: ${xdp.why}`;
}

export function renderStatus(status: IohvStatus | HostStatus): string {
  const { engine, port } = status;
  const name = status.role === 'iohv' ? 'I/O hypervisor' : `host agent ${status.name}`;
  const lines: [string, string][] = [
    [name, `${status.version}, up ${formatDuration(status.uptime_s)}`],
    ['engine', summarizeEngine(engine)],
    [
      'port',
      `${[port.interface, port.second_interface ?? []].flat().join(' and ')}, mac ${orDash(port.mac)}, mtu ${port.mtu ?? '-'}${renderXdp(port.xdp)}`,
    ],
  ];
  if (status.role === 'host') {
    const { up, reason, links, workers } = status.session;
    const others = workers.filter(({ worker }) => worker > 0);
    lines.push(['session', up ? `up${renderLinks(links)}${renderOthers(others)}` : `down: ${reason}`]);
    if (up) {
      lines.push(['frames', renderFrames(links)]);
    }
  }
  const sections = [formatPairs(lines)];
  if (status.problems.length > 0) {
    sections.push(`problems:\n${status.problems.map((problem) => `  ! ${problem}\n`).join('')}`);
  }
  if (status.role === 'iohv') {
    sections.push(renderHosts(status.hosts), renderVolumes(status.volumes), renderNics(status.nics));
    if (status.domains.length > 0) {
      sections.push(renderDomains(status.domains));
    }
  }
  sections.push(renderVms(status.vms));
  return sections.join('\n');
}

/** A line as in the log, with its time. */
export function renderEvent({ time, level, kind, fields }: EventView): string {
  return `${time} ${level.padEnd(5)} ${kind}${formatFields(fields)}\n`;
}

/** Of the sessions with other workers than the first, which of them there are. */
function renderOthers(workers: HostStatus['session']['workers']): string {
  return workers.map(({ worker, up }) => `; worker ${worker} ${up ? 'up' : 'down'}`).join('');
}

/** Of a session with several links, which of them work. */
function renderLinks(links: readonly LinkView[]): string {
  const states = links.map(({ up, srtt_us }, i) => `link ${i} ${up ? `${srtt_us.toFixed(0)} us` : 'down'}`);
  return links.length > 1 ? `; ${states.join(', ')}` : '';
}

/** How frames leave on the links of a session, and why. */
function renderFrames(links: readonly LinkView[]): string {
  const forms = links.map(({ frames, frames_why }) => `${frames}: ${frames_why}`);
  const isSame = new Set(forms).size === 1;
  return orDash(isSame ? forms[0] : forms.map((form, i) => `link ${i} ${form}`).join('; '));
}
