// How a volume uses the block cache, on the command line: `--cache write-back --cache-quota 64M`.
import type { VolumeCacheChange, VolumeCacheView } from '../api/cache-schemas.js';
import { CACHE_MODES, type CacheMode } from '../supervisor/protocol.js';
import { formatSize, formatTimeout, parseSize, parseTimeout } from './format.js';

const GROUP = 'The block cache:';

export const CACHE_OPTIONS = {
  cache: {
    choices: CACHE_MODES,
    describe: 'write-through (default); write-back: writes end in memory, a flush makes them durable; none',
    group: GROUP,
  },
  'cache-quota': { type: 'string', describe: 'a part of the cache of its own: 64M; none: it shares', group: GROUP },
  'read-ahead': {
    type: 'string',
    describe: 'how much is read ahead of a sequential reader at most: 512K (default); none',
    group: GROUP,
  },
  'dirty-max': {
    type: 'string',
    describe: 'write-back: how much may wait to be written out: 64M; default: a quarter of the cache',
    group: GROUP,
  },
  'dirty-age': { type: 'string', describe: 'write-back: and for how long: 500ms, 5s (default), 1min', group: GROUP },
} as const;

export interface CacheArgs {
  cache?: CacheMode | undefined;
  cacheQuota?: string | undefined;
  readAhead?: string | undefined;
  dirtyMax?: string | undefined;
  dirtyAge?: string | undefined;
}

/** undefined: nothing is said about the cache. */
export function parseVolumeCache(args: CacheArgs): VolumeCacheChange | undefined {
  const { cache, cacheQuota, readAhead, dirtyMax, dirtyAge } = args;
  const size = (text: string, zero: string, option: string) => (text === zero ? 0 : parseSize(text, option));
  const change: VolumeCacheChange = {
    ...(cache === undefined ? {} : { mode: cache }),
    ...(cacheQuota === undefined ? {} : { quota_bytes: size(cacheQuota, 'none', '--cache-quota') }),
    ...(readAhead === undefined ? {} : { read_ahead_bytes: size(readAhead, 'none', '--read-ahead') }),
    ...(dirtyMax === undefined ? {} : { dirty_bytes: size(dirtyMax, 'default', '--dirty-max') }),
    ...(dirtyAge === undefined
      ? {}
      : { dirty_age_ms: dirtyAge === 'default' ? 0 : parseTimeout(dirtyAge, '--dirty-age') }),
  };
  return Object.keys(change).length === 0 ? undefined : change;
}

export function formatVolumeCache(cache: VolumeCacheView): string {
  const { mode, quota_bytes: quota, dirty_bytes: dirty, dirty_age_ms: age, read_ahead_bytes: ahead } = cache;
  return [
    mode,
    ...(quota === 0 ? [] : [`quota ${formatSize(quota)}`]),
    ...(dirty === 0 ? [] : [`at most ${formatSize(dirty)} dirty`]),
    ...(age === 0 ? [] : [`dirty for at most ${formatTimeout(age)}`]),
    ahead === 0 ? 'no read-ahead' : `read-ahead ${formatSize(ahead)}`,
  ].join(', ');
}
