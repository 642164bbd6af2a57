// The block cache in /metrics.
import { flatten, type Sample } from '../telemetry/metrics.js';
import type { CacheCounters, CacheView } from './cache-schemas.js';

export function cacheSamples({ state, size_bytes, workers, volumes }: CacheView): Sample[] {
  if (state === 'off') {
    return [];
  }
  return [
    ...flatten('outrigger_cache', { sizeBytes: size_bytes }),
    ...workers.flatMap((one) => {
      const values = {
        bytes: one.bytes,
        targetBytes: one.target_bytes,
        usedBytes: one.used_bytes,
        metadataBytes: one.metadata_bytes,
        hugeBytes: one.huge_bytes,
      };
      return flatten('outrigger_cache', values, { worker: String(one.worker) });
    }),
    ...volumes.flatMap(({ volume, counters }) => flatten('outrigger_volume_cache', valuesOf(counters), { volume })),
  ];
}

function valuesOf(counters: CacheCounters): Record<string, number> {
  return {
    usedBytes: counters.used_bytes,
    dirtyBytes: counters.dirty_bytes,
    hitsTotal: counters.hits,
    missesTotal: counters.misses,
    fetchedBytesTotal: counters.fetched_bytes,
    sharedBytesTotal: counters.shared_bytes,
    evictionsTotal: counters.evictions,
    bypassedTotal: counters.bypassed,
    readAheadBytesTotal: counters.read_ahead_bytes,
    readAheadUsedBytesTotal: counters.read_ahead_used_bytes,
    readAheadWastedBytesTotal: counters.read_ahead_wasted_bytes,
    writtenOutBytesTotal: counters.written_out_bytes,
    writeErrorsTotal: counters.write_errors,
    throttledTotal: counters.throttled,
  };
}
