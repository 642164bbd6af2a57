// How large the block cache may be: said by the configuration, and later by `outrigger cache set`.
import { CACHE_BYTES_MIN } from '../supervisor/protocol.js';
import type { IohvConfig } from './schema.js';
import { bytesOf, formatSize } from './size.js';

/** `cache.size` in bytes. */
export const cacheBytes = (size: IohvConfig['cache']['size']): number => bytesOf(size);

/** Bytes. */
export interface CacheRange {
  least: number;
  most: number;
}

/** Of all workers together. */
export const cacheRange = (workers: number, memoryBytes: number): CacheRange => ({
  least: workers * CACHE_BYTES_MIN,
  most: memoryBytes,
});

/** Why it cannot be so large; undefined when it can. */
export function cacheSizeProblem(bytes: number, { least, most }: CacheRange): string | undefined {
  if (bytes < least) {
    return `${formatSize(bytes)} is too small for a cache`;
  }
  return bytes > most ? `${formatSize(bytes)} is more than the memory of this machine` : undefined;
}
