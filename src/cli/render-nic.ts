// How NICs look to a human.
import type { NicView, VmNicView } from '../api/nic-schemas.js';
import type { Nested } from '../telemetry/metrics.js';
import { formatPairs, formatTable } from './format.js';
import { formatRate } from './rates.js';

/** Where the frames go: "tap ort... on br0", "macvtap of eth1 (vepa)", "hub lab". */
function placeOf({ kind, interface: device, bridge, parent, mode, hub }: NicView): string {
  switch (kind) {
    case 'tap':
      return bridge === null ? `tap ${device}` : `tap ${device} on ${bridge}`;
    case 'macvtap':
      return `macvtap of ${parent} (${mode})`;
    default:
      return `hub ${hub}`;
  }
}

const attachedTo = ({ attachment }: NicView) =>
  attachment === null ? '-' : `${attachment.vm} on ${attachment.host} (${attachment.state})`;

export function renderNics(nics: readonly NicView[]): string {
  if (nics.length === 0) {
    return 'no NICs; make one with: outrigger nic create nic1 --bridge br0\n';
  }
  const rows = nics.map((nic) => [
    ...[nic.name, nic.mac, String(nic.mtu), nic.link, nic.state, attachedTo(nic)],
    nic.reason || placeOf(nic),
  ]);
  return formatTable(['NAME', 'MAC', 'MTU', 'LINK', 'STATE', 'ATTACHED TO', 'WHERE'], rows);
}

export function renderNic(nic: NicView): string {
  return formatPairs([
    ['name', nic.name],
    ['where', placeOf(nic)],
    ['interface', nic.interface ?? '-'],
    ['mac', nic.mac],
    ['mtu', String(nic.mtu)],
    ['link', nic.link],
    ['state', nic.reason === '' ? nic.state : `${nic.state}: ${nic.reason}`],
    ['attached', nic.attachment === null ? '-' : `${attachedTo(nic)}, queues ${nic.attachment.queues}`],
    ['addresses', nic.addresses.join(', ') || 'any'],
    ['spoof check', nic.spoof_check ? 'on' : 'off'],
    ['rate tx', formatRate(nic.rate.tx)],
    ['rate rx', formatRate(nic.rate.rx)],
    ...countersOf((nic.counters ?? {}) as Nested),
  ]);
}

/** "tx" "packets 3, bytes 180, dropped: spoofed 2": zeroes among the drops say nothing. */
function countersOf(counters: Nested): [string, string][] {
  return Object.entries(counters).flatMap(([direction, values]): [string, string][] => {
    if (typeof values === 'number') {
      return [[direction, String(values)]];
    }
    const parts = Object.entries(values).flatMap(([key, value]) => {
      if (typeof value === 'number') {
        return [`${key} ${value}`];
      }
      const drops = Object.entries(value).filter(([, count]) => count !== 0);
      return drops.length === 0 ? [] : [`${key}: ${drops.map(([why, count]) => `${why} ${count}`).join(', ')}`];
    });
    return [[direction, parts.join(', ')]];
  });
}

export function renderVmNics(nics: readonly VmNicView[]): string {
  const rows = nics.map((nic) => [
    ...[nic.vm, nic.host, nic.nic, nic.mac, String(nic.mtu), nic.link, nic.state],
    nic.reason || nic.socket,
  ]);
  return formatTable(['VM', 'HOST', 'NIC', 'MAC', 'MTU', 'LINK', 'STATE', 'SOCKET OR REASON'], rows);
}
