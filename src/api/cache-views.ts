// The block cache as the REST interface shows it: settings from the desired state, the rest from the engine.
import { CACHE_DEFAULT } from '../supervisor/cache.js';
import type { CacheState } from '../supervisor/engine-rows.js';
import type { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import type { CacheInfo, CacheStats, VolumeCache } from '../supervisor/protocol.js';
import type { Store } from '../supervisor/store.js';
import type {
  CacheCounters,
  CachedVolume,
  CacheView,
  CacheWorker,
  VolumeCacheChange,
  VolumeCacheView,
} from './cache-schemas.js';

const BLOCK = 4096;
const EMPTY: CacheState = { bytes: 0, workers: [], volumes: [] };

export class CacheViews {
  private readonly store: Store;
  private readonly supervisor: IohvSupervisor;

  constructor(store: Store, supervisor: IohvSupervisor) {
    this.store = store;
    this.supervisor = supervisor;
  }

  async cache(): Promise<CacheView> {
    const { cacheSettings: settings } = this.supervisor;
    const state = await this.supervisor.rows.cache();
    const { cacheBytes, volumes } = this.store.desired();
    const modes = new Map(volumes.map(({ name, cache }) => [name, cache]));
    const { workers, volumes: rows } = state ?? EMPTY;
    return {
      size_bytes: settings === undefined ? 0 : (cacheBytes ?? settings.bytes),
      configured_bytes: settings?.bytes ?? 0,
      policy: settings?.policy ?? null,
      state: settings === undefined ? 'off' : state === undefined || state.bytes === 0 ? 'waiting' : 'on',
      counters: toCounters(rows.map(({ stats }) => stats)),
      workers: workers.map(toWorker),
      volumes: rows.map(
        ({ name, worker, mode, stats }): CachedVolume => ({
          ...{ volume: name, worker },
          ...toVolumeCache({ ...(modes.get(name) ?? CACHE_DEFAULT), mode }),
          counters: toCounters([stats]),
        }),
      ),
    };
  }
}

export function toVolumeCache(cache: VolumeCache): VolumeCacheView {
  return {
    mode: cache.mode,
    quota_bytes: cache.quotaBytes,
    dirty_bytes: cache.dirtyBytes,
    dirty_age_ms: cache.dirtyAgeMs,
    read_ahead_bytes: cache.readAheadBytes,
  };
}

export function toCacheChanges(change: VolumeCacheChange): Partial<VolumeCache> {
  const { mode, quota_bytes, dirty_bytes, dirty_age_ms, read_ahead_bytes } = change;
  return {
    ...(mode === undefined ? {} : { mode }),
    ...(quota_bytes === undefined ? {} : { quotaBytes: quota_bytes }),
    ...(dirty_bytes === undefined ? {} : { dirtyBytes: dirty_bytes }),
    ...(dirty_age_ms === undefined ? {} : { dirtyAgeMs: dirty_age_ms }),
    ...(read_ahead_bytes === undefined ? {} : { readAheadBytes: read_ahead_bytes }),
  };
}

function toWorker({ bytes, bytesTarget, blocks, metadataBytes, hugeBytes }: CacheInfo, worker: number): CacheWorker {
  return {
    ...{ worker, bytes, target_bytes: bytesTarget, used_bytes: blocks * BLOCK },
    ...{ metadata_bytes: metadataBytes, huge_bytes: hugeBytes },
  };
}

/** Of several volumes together. */
function toCounters(all: readonly CacheStats[]): CacheCounters {
  const sum = (key: keyof CacheStats) => all.reduce((total, stats) => total + stats[key], 0);
  const bytes = (key: keyof CacheStats) => sum(key) * BLOCK;
  const [hits, misses] = [sum('hits'), sum('misses')];
  return {
    used_bytes: bytes('blocks'),
    dirty_bytes: bytes('dirty'),
    ...{ hits, misses },
    hit_ratio: hits + misses === 0 ? null : Math.round((hits / (hits + misses)) * 1e4) / 1e4,
    fetched_bytes: bytes('fetched'),
    shared_bytes: bytes('sharedHits'),
    evictions: sum('evictions'),
    bypassed: sum('bypassed'),
    read_ahead_bytes: bytes('ahead'),
    read_ahead_used_bytes: bytes('aheadUsed'),
    read_ahead_wasted_bytes: bytes('aheadWasted'),
    written_out_bytes: bytes('writtenOut'),
    write_errors: sum('writeErrors'),
    throttled: sum('throttled'),
  };
}
