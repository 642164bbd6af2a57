// What an operator can do to the block cache: give it another budget, and let it forget; also what killed engines had
// not written out. How a volume uses it is
// one of the things that Operations changes of a volume.
import { totalmem } from 'node:os';
import { cacheRange, cacheSizeProblem } from '../config/cache-size.js';
import { formatSize } from '../config/size.js';
import { refuse } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { CACHE_KEY } from './iohv-planner.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import { assertCacheable, findVolume } from './operations.js';
import type { Store } from './store.js';

export interface CacheOperationsOptions {
  store: Store;
  supervisor: IohvSupervisor;
  log: Logger;
  /** How long an operation waits for the engine to follow. */
  applyTimeoutMs: number;
}

export class CacheOperations {
  private readonly options: CacheOperationsOptions;

  constructor(options: CacheOperationsOptions) {
    this.options = options;
  }

  /** Of all workers together; null: the configuration's. Throws cache_off, cache_size, engine_refused. */
  async resize(bytes: number | null): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const configured = this.configured();
    const wanted = bytes ?? configured;
    const range = cacheRange(supervisor.workerCount, totalmem());
    const problem = cacheSizeProblem(wanted, range);
    if (problem !== undefined) {
      throw refuse('cache_size', problem, { least: formatSize(range.least), most: formatSize(range.most) });
    }
    if (store.desired().cacheBytes !== bytes) {
      store.setCacheBytes(bytes);
      log.info('cache.changed', { bytes: wanted });
    }
    await supervisor.apply(applyTimeoutMs);
    const failure = supervisor.failureOf(CACHE_KEY);
    if (failure !== undefined) {
      throw refuse('engine_refused', `the cache could not be resized: ${failure}`);
    }
  }

  /** Throws volume_not_found, cache_off, volume_uncached, engine_unavailable. */
  async drop(name: string): Promise<void> {
    const { store, supervisor, log } = this.options;
    const volume = findVolume(store.desired().volumes, name);
    this.configured();
    assertCacheable(volume);
    if (supervisor.engineStatus().state === 'running' && !supervisor.isCached(name)) {
      throw refuse('volume_uncached', `the volume ${name} is not open`);
    }
    await supervisor.dropCache(name);
    log.info('cache.dropped', { volume: name });
  }

  /**
   * Gives up what keeps volumes from being opened: acknowledged writes that killed engines had in their caches. Returns
   * how many bytes could be told. Throws engine_unavailable, engine_refused.
   */
  async giveUpKept(): Promise<number> {
    const { supervisor, log, applyTimeoutMs } = this.options;
    const bytes = await supervisor.giveUpKept();
    log.warn('cache.given-up', { bytes });
    await supervisor.apply(applyTimeoutMs);
    return bytes;
  }

  /** Of every volume that has something there. */
  async dropAll(): Promise<void> {
    const { store, supervisor } = this.options;
    this.configured();
    const cached = store.desired().volumes.filter(({ name }) => supervisor.isCached(name));
    await Promise.all(cached.map(({ name }) => this.drop(name)));
  }

  private configured(): number {
    const { cacheSettings } = this.options.supervisor;
    if (cacheSettings === undefined) {
      throw refuse('cache_off', 'the configuration has no block cache: `cache.size` is 0');
    }
    return cacheSettings.bytes;
  }
}
