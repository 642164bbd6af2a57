// The part of the REST interface's schemas that is about the block cache.
import { type Static, Type } from '@sinclair/typebox';
import { CACHE_MODES, CACHE_POLICIES, type CachePolicy } from '../supervisor/protocol.js';
import { bytes, closed, nullable, oneOf } from './schema-parts.js';

const BYTES_MAX = Number.MAX_SAFE_INTEGER;
/** What or_cache_configure takes: longer would keep nothing from being lost that matters. */
const DIRTY_AGE_MS_MAX = 3_600_000;
const READ_AHEAD_MAX = 64 << 20;

const count = (description: string) => Type.Integer({ minimum: 0, description });

const settings = {
  mode: oneOf(
    CACHE_MODES,
    'none: it passes the cache by; write-through: a write ends when the storage has it; write-back: when it is in memory, and a flush makes it durable',
  ),
  quota_bytes: Type.Integer({
    minimum: 0,
    maximum: BYTES_MAX,
    description: 'a part of the cache of its own, no more and no less; 0: it shares',
  }),
  dirty_bytes: Type.Integer({
    minimum: 0,
    maximum: BYTES_MAX,
    description: 'write-back: how much may wait to be written out; 0: a quarter of the cache',
  }),
  dirty_age_ms: Type.Integer({
    minimum: 0,
    maximum: DIRTY_AGE_MS_MAX,
    description: 'write-back: and for how long, milliseconds; 0: 5 s',
  }),
  read_ahead_bytes: Type.Integer({
    minimum: 0,
    maximum: READ_AHEAD_MAX,
    description: 'how much is read ahead of a sequential reader at most; 0: nothing',
  }),
};

export const VolumeCacheView = Type.Object(settings, { description: 'how it uses the block cache' });
export type VolumeCacheView = Static<typeof VolumeCacheView>;
export const VolumeCacheChange = Type.Partial(Type.Object(settings), {
  ...closed,
  minProperties: 1,
  description: 'how it uses the block cache; what is left out stays as it is',
});
export type VolumeCacheChange = Static<typeof VolumeCacheChange>;

const counters = {
  used_bytes: bytes('content in memory now'),
  dirty_bytes: bytes('of that, not written out yet'),
  hits: count('blocks of 4 KiB that were read from memory'),
  misses: count('blocks that were not there'),
  fetched_bytes: bytes('read from the storage: for misses, once where several wait for a block, and ahead'),
  hit_ratio: nullable(Type.Number(), '0 to 1; null: nothing was read'),
  shared_bytes: bytes('of the hits, those in what another volume had read: what clones saved'),
  evictions: count('blocks that gave way to others'),
  bypassed: count('operations too large to be cached'),
  read_ahead_bytes: bytes('read ahead'),
  read_ahead_used_bytes: bytes('of that, read by a guest later'),
  read_ahead_wasted_bytes: bytes('of that, evicted unused'),
  written_out_bytes: bytes('written out'),
  write_errors: count('write-outs that the storage refused; they are tried again'),
  throttled: count('writes that went past the cache, because too much was dirty'),
};
const CacheCounters = Type.Object(counters);
export type CacheCounters = Static<typeof CacheCounters>;

export const CachedVolume = Type.Object(
  {
    volume: Type.String(),
    worker: Type.Integer({ description: 'the worker that serves it, in whose cache it is' }),
    ...settings,
    counters: CacheCounters,
  },
  { $id: 'CachedVolume', description: 'an open volume on the cache; counters begin when a worker gets the volume' },
);
export type CachedVolume = Static<typeof CachedVolume>;

export const CacheWorker = Type.Object(
  {
    worker: Type.Integer(),
    bytes: bytes('budget in force'),
    target_bytes: bytes('budget asked for: it shrinks as blocks come free'),
    used_bytes: bytes('content in memory'),
    metadata_bytes: bytes('of the budget, what is not content'),
    huge_bytes: bytes('of the memory for content, what is in huge pages for certain'),
  },
  { $id: 'CacheWorker', description: 'the cache of a worker' },
);
export type CacheWorker = Static<typeof CacheWorker>;

export const CacheView = Type.Object(
  {
    size_bytes: bytes('memory of all workers together; 0: there is no cache'),
    configured_bytes: bytes('`cache.size` of the configuration'),
    policy: Type.Unsafe<CachePolicy | null>({
      type: ['string', 'null'],
      enum: [...CACHE_POLICIES, null],
      description: 'which blocks give way; null: there is no cache',
    }),
    state: oneOf(['on', 'off', 'waiting'], 'off: the configuration has none; waiting: for the engine'),
    counters: CacheCounters,
    workers: Type.Array(Type.Ref('CacheWorker#')),
    volumes: Type.Array(Type.Ref('CachedVolume#')),
  },
  { $id: 'Cache', description: 'the block cache; the counters are sums of those of the volumes' },
);
export type CacheView = Omit<Static<typeof CacheView>, 'workers' | 'volumes'> & {
  workers: CacheWorker[];
  volumes: CachedVolume[];
};

export const CacheChange = Type.Object(
  {
    size_bytes: nullable(
      Type.Integer({ minimum: 1, maximum: BYTES_MAX }),
      'memory of all workers together, bytes; null: what the configuration says',
    ),
  },
  { ...closed, $id: 'CacheChange' },
);
export type CacheChange = Static<typeof CacheChange>;

export const GivenUpView = Type.Object(
  { bytes: bytes('acknowledged writes that are lost; of what could not be read nobody knows') },
  { $id: 'GivenUp', description: 'what killed engines had not written out, and nobody wants any more' },
);
export type GivenUpView = Static<typeof GivenUpView>;

export const CACHE_SCHEMAS = [CachedVolume, CacheWorker, CacheView, CacheChange, GivenUpView];
