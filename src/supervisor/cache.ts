// How volumes use the block cache: defaults, how settings are compared, merged and told.
import { formatSize } from '../config/size.js';
import type { VolumeCache } from './protocol.js';

export const CACHE_DEFAULT: VolumeCache = {
  mode: 'write-through',
  quotaBytes: 0,
  dirtyBytes: 0,
  dirtyAgeMs: 0,
  readAheadBytes: 512 * 1024,
};

export const sameCache = (a: VolumeCache, b: VolumeCache): boolean =>
  (Object.keys(CACHE_DEFAULT) as (keyof VolumeCache)[]).every((key) => a[key] === b[key]);

/** `write-back, quota 64M, read-ahead 512K`: what is not as by default stands for itself, the mode always. */
export function cacheText({ mode, quotaBytes, dirtyBytes, dirtyAgeMs, readAheadBytes }: VolumeCache): string {
  return [
    mode,
    ...(quotaBytes === 0 ? [] : [`quota ${formatSize(quotaBytes)}`]),
    ...(dirtyBytes === 0 ? [] : [`at most ${formatSize(dirtyBytes)} dirty`]),
    ...(dirtyAgeMs === 0 ? [] : [`dirty for at most ${dirtyAgeMs} ms`]),
    ...(readAheadBytes === CACHE_DEFAULT.readAheadBytes ? [] : [`read-ahead ${formatSize(readAheadBytes)}`]),
  ].join(', ');
}
