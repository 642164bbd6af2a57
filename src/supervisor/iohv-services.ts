// All that can be asked of an I/O hypervisor, by subject. The REST interface offers it to operators.
import type { Logger } from '../telemetry/log.js';
import { CacheOperations } from './cache-operations.js';
import { DomainOperations, type ProtectSettings } from './domain-operations.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import type { NetSetup } from './net-setup.js';
import { NicOperations } from './nic-operations.js';
import { Operations } from './operations.js';
import { Snapshots } from './snapshots.js';
import type { Store } from './store.js';
import { Transfers } from './transfers.js';

export interface IohvServices {
  operations: Operations;
  nicOperations: NicOperations;
  cacheOperations: CacheOperations;
  domainOperations: DomainOperations;
  snapshots: Snapshots;
  transfers: Transfers;
}

export interface IohvServicesOptions {
  store: Store;
  supervisor: IohvSupervisor;
  net: NetSetup;
  volumeDir: string;
  protect: ProtectSettings;
  log: Logger;
  /** How long an operation waits for the engine to follow. */
  applyTimeoutMs: number;
}

/** They keep what they are given, and hold nothing that must be closed. */
export function makeIohvServices(options: IohvServicesOptions): IohvServices {
  const transfers = new Transfers(options);
  const snapshots = new Snapshots({ ...options, transfers });
  return {
    operations: new Operations({ ...options, snapshots, transfers }),
    nicOperations: new NicOperations(options),
    cacheOperations: new CacheOperations(options),
    domainOperations: new DomainOperations(options),
    snapshots,
    transfers,
  };
}
