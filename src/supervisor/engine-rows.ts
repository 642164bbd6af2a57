// What the I/O hypervisor's engine says of itself when it is asked: empty while it is away, or when it dies meanwhile,
// or of what an engine of an earlier version does not know.
import type { Nested } from '../telemetry/metrics.js';
import { type EngineCaller, EngineCommandError, EngineGoneError } from './engine-client.js';
import type { DomainRow, EngineCommands, HostRow, NicRow } from './protocol.js';

export type CacheState = EngineCommands['cache.list']['result'];

/** An engine of a build without NICs has none. */
export const listNics = (engine: EngineCaller): Promise<NicRow[]> => orIfUnknown(engine.request('nic.list', {}), []);

/** Likewise of one without a cache. */
export const listCache = (engine: EngineCaller): Promise<CacheState> =>
  orIfUnknown(engine.request('cache.list', {}), { bytes: 0, workers: [], volumes: [] });

/** Likewise of one without protection domains. */
export const listDomains = (engine: EngineCaller): Promise<DomainRow[]> =>
  orIfUnknown(engine.request('domain.list', {}), []);

export class EngineRows {
  private readonly engine: () => EngineCaller | undefined;

  /** `engine`: the present one; undefined while there is none. */
  constructor(engine: () => EngineCaller | undefined) {
    this.engine = engine;
  }

  hosts(): Promise<HostRow[]> {
    return this.ask((engine) => engine.request('hosts', {}), []);
  }

  /** NICs that are open, with their counters. */
  nics(): Promise<NicRow[]> {
    return this.ask(listNics, []);
  }

  /** Domains that are open. */
  domains(): Promise<DomainRow[]> {
    return this.ask(listDomains, []);
  }

  /** The counters of each worker since it began. */
  workers(): Promise<Nested[]> {
    return this.ask((engine) => orIfUnknown(engine.request('workers', {}), []), []);
  }

  /** What the cache holds and counted; undefined while the engine is away. */
  cache(): Promise<CacheState | undefined> {
    return this.ask(listCache, undefined);
  }

  private async ask<T>(question: (engine: EngineCaller) => Promise<T>, away: T): Promise<T> {
    const engine = this.engine();
    try {
      return engine === undefined ? away : await question(engine);
    } catch (error) {
      if (error instanceof EngineGoneError) {
        return away;
      }
      throw error;
    }
  }
}

/** `otherwise`: the answer of an engine of an earlier version, which does not know the command. */
export async function orIfUnknown<T>(answer: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof EngineCommandError && error.code === 'EOPNOTSUPP') {
      return otherwise;
    }
    throw error;
  }
}
