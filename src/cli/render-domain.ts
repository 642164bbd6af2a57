// How protection domains look to a human.
import type { DomainView } from '../api/domain-schemas.js';
import { formatPairs, formatSize, formatTable, formatTimeout } from './format.js';

const orDash = (text: string) => text || '-';
export const domainState = ({ state, unprotected }: Pick<DomainView, 'state' | 'unprotected'>) =>
  unprotected ? `${state}, UNPROTECTED` : state;

/** `web, web1b (standby)`: who runs is named alone, and first. */
export function domainMembers({ members }: Pick<DomainView, 'members'>): string {
  const active = members.filter(({ role }) => role === 'active').map(({ vm }) => vm);
  const others = members.filter(({ role }) => role !== 'active').map(({ vm, role }) => `${vm} (${role})`);
  return orDash([...active, ...others].join(', '));
}

export function renderDomains(domains: readonly DomainView[]): string {
  if (domains.length === 0) {
    return 'no protection domains; make one with: outrigger protect domain create ft1 --vm web1\n';
  }
  const rows = domains.map((domain) => [
    domain.name,
    domainState(domain),
    String(domain.generation),
    domain.counters === null ? '-' : String(domain.counters.open),
    domain.counters === null ? '-' : String(domain.counters.committed),
    domain.counters === null ? '-' : `${formatSize(domain.counters.held_bytes)} of ${formatSize(domain.bytes)}`,
    domainMembers(domain),
  ]);
  return formatTable(['NAME', 'STATE', 'GENERATION', 'OPEN', 'COMMITTED', 'HELD', 'MEMBERS'], rows);
}

export function renderDomain(domain: DomainView): string {
  const { counters, volumes, nics } = domain;
  return formatPairs([
    ['name', domain.name],
    ['state', domain.reason ? `${domainState(domain)}: ${domain.reason}` : domainState(domain)],
    ['active', orDash(named(domain, 'active'))],
    ['standby', orDash(named(domain, 'standby'))],
    ['fenced', orDash(named(domain, 'fenced'))],
    [
      'generation',
      domain.resume_epoch === null
        ? String(domain.generation)
        : `${domain.generation}, which began at epoch ${domain.resume_epoch}`,
    ],
    [
      'volumes',
      orDash(volumes.map(({ volume, state }) => (state === 'protected' ? volume : `${volume} (${state})`)).join(', ')),
    ],
    ['NICs', orDash(nics.join(', '))],
    ...(counters === null ? [] : renderCounters(domain, counters)),
    ['overflow', `${domain.overflow}; commit timeout ${formatTimeout(domain.commit_timeout_ms)}`],
    ['journal', `${domain.journal}, ${formatSize(domain.journal_bytes)}`],
    ['socket', domain.socket],
    ['worker', String(domain.worker)],
  ]);
}

const named = ({ members }: DomainView, role: DomainView['members'][number]['role']) =>
  members
    .filter((member) => member.role === role)
    .map(({ vm }) => vm)
    .join(', ');

function renderCounters(
  { bytes }: DomainView,
  counters: NonNullable<DomainView['counters']>,
): (readonly [string, string])[] {
  const { open, committed, applied, held_bytes, waiting, cuts, commits, overflows, times } = counters;
  const fenced = counters.writes_fenced + counters.packets_fenced;
  const waits = waiting === 0 ? '' : `, ${waiting} requests wait for room`;
  const time = (what: string, { count, mean_us, max_us }: { count: number; mean_us: number; max_us: number }) =>
    count === 0 ? [] : [`${what} ${mean_us} (${max_us})`];
  const each = [
    ...time('cut', times.cut),
    ...time('journal sync', times.sync),
    ...time('release', times.release),
    ...time('apply', times.apply),
  ];
  return [
    ['epochs', `open ${open}, committed ${committed}, applied ${applied}`],
    ['held', `${formatSize(held_bytes)} of ${formatSize(bytes)}${waits}`],
    ['so far', `${cuts} cuts, ${commits} commits, ${counters.packets} packets, ${overflows} overflows`],
    ...(each.length === 0 ? [] : [['microseconds', `${each.join(', ')}: mean (most)`] as const]),
    ...(fenced === 0
      ? []
      : [
          [
            'refused',
            `${counters.writes_fenced} requests and ${counters.packets_fenced} packets of fenced VMs`,
          ] as const,
        ]),
  ];
}
