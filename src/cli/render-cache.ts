// The block cache for a human.
import type { CacheCounters, CacheView } from '../api/cache-schemas.js';
import { formatPairs, formatSize, formatTable } from './format.js';

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const percent = (ratio: number | null) => (ratio === null ? '-' : `${(ratio * 100).toFixed(1)} %`);

export function renderCache(cache: CacheView): string {
  if (cache.state === 'off') {
    return 'no cache: `cache.size` in the configuration of the I/O hypervisor is 0\n';
  }
  if (cache.state === 'waiting') {
    return `a cache of ${formatSize(cache.size_bytes)}, when an engine runs; \`outrigger engine show\` says why none does\n`;
  }
  const { counters, workers, volumes } = cache;
  const pairs = formatPairs([
    ['size', renderSize(cache)],
    ['in use', renderUse(cache)],
    ['hit ratio', `${percent(counters.hit_ratio)} of ${counters.hits + counters.misses} blocks`],
    ['dirty', renderDirty(counters)],
    ['saved by sharing', formatSize(counters.shared_bytes)],
    ['read ahead', renderReadAhead(counters)],
  ]);
  const rows = volumes.map(({ volume, worker, mode, quota_bytes: quota, counters: own }) => [
    volume,
    String(worker),
    mode,
    formatSize(own.used_bytes),
    quota === 0 ? '-' : formatSize(quota),
    percent(own.hit_ratio),
    String(own.hits),
    String(own.misses),
    formatSize(own.shared_bytes),
    String(own.evictions),
    formatSize(own.dirty_bytes),
  ]);
  const header = ['VOLUME', 'WORKER', 'MODE', 'CACHED', 'QUOTA', 'HIT RATIO', 'HITS', 'MISSES'];
  const table = formatTable([...header, 'SHARED', 'EVICTED', 'DIRTY'], rows);
  const parts = workers.length > 1 ? [pairs, renderWorkers(cache)] : [pairs];
  return [...parts, rows.length === 0 ? 'no volume is on it\n' : table].join('\n');
}

function renderSize({ size_bytes: size, configured_bytes: configured, policy, workers }: CacheView): string {
  const told = size === configured ? '' : ` (the configuration says ${formatSize(configured)})`;
  const bytes = sum(workers.map((worker) => worker.bytes));
  const target = sum(workers.map((worker) => worker.target_bytes));
  const shrinks = bytes > target ? `, still ${formatSize(bytes)}: it shrinks as blocks come free` : '';
  return `${formatSize(size)}${told}, ${policy}${shrinks}`;
}

function renderUse({ workers }: CacheView): string {
  const used = sum(workers.map((worker) => worker.used_bytes));
  const metadata = sum(workers.map((worker) => worker.metadata_bytes));
  const huge = sum(workers.map((worker) => worker.huge_bytes));
  const pages = huge === 0 ? '' : `, ${formatSize(huge)} in huge pages`;
  return `${formatSize(used)} of content, ${formatSize(metadata)} to describe it${pages}`;
}

function renderDirty({ dirty_bytes: dirty, written_out_bytes: out, write_errors: errors, throttled }: CacheCounters) {
  const notes = [
    ...(out > 0 ? [`${formatSize(out)} written out`] : []),
    ...(throttled > 0 ? [`${throttled} writes went past`] : []),
    ...(errors > 0 ? [`${errors} write-outs failed`] : []),
  ];
  return [formatSize(dirty), ...notes].join(', ');
}

function renderReadAhead(counters: CacheCounters): string {
  const { read_ahead_bytes: all, read_ahead_used_bytes: used, read_ahead_wasted_bytes: wasted } = counters;
  return all === 0 ? '0' : `${formatSize(all)}, ${formatSize(used)} used, ${formatSize(wasted)} evicted unused`;
}

function renderWorkers({ workers }: CacheView): string {
  const rows = workers.map((worker) => [
    String(worker.worker),
    formatSize(worker.bytes),
    formatSize(worker.used_bytes),
    formatSize(worker.metadata_bytes),
    formatSize(worker.huge_bytes),
  ]);
  return formatTable(['WORKER', 'SIZE', 'IN USE', 'METADATA', 'HUGE PAGES'], rows);
}
