// One life of an I/O hypervisor within the test's own process: a real store, supervisor and REST interface on a
// unix socket, with the engine's double.
import { iohvRoutes } from '../../../src/api/iohv-routes.js';
import { IohvViews } from '../../../src/api/iohv-views.js';
import { claimSocket, listenUnix } from '../../../src/api/listen.js';
import { SHARED_SCHEMAS } from '../../../src/api/schemas.js';
import { buildServer } from '../../../src/api/server.js';
import { makeIohvServices } from '../../../src/supervisor/iohv-services.js';
import { IohvSupervisor } from '../../../src/supervisor/iohv-supervisor.js';
import { NetSetup } from '../../../src/supervisor/net-setup.js';
import type { Policy } from '../../../src/supervisor/placement.js';
import type { CacheSettings, EngineConfig } from '../../../src/supervisor/protocol.js';
import { Store } from '../../../src/supervisor/store.js';
import { EventLog } from '../../../src/telemetry/events.js';
import { createLogger, type Logger } from '../../../src/telemetry/log.js';
import { doubleSettings, type Scratch } from './support.js';

export interface Life {
  log: Logger;
  /** What the log has written. */
  events: EventLog;
  store: Store;
  supervisor: IohvSupervisor;
  end(): Promise<void>;
}

const hosts = ['h1', 'h2'].map((name) => ({ name, keyBase64: 'AAAA', keyId: `key-of-${name}` }));

export interface LifeOptions {
  port?: Partial<EngineConfig['port']>;
  workers?: number;
  policy?: Policy;
  cache?: CacheSettings;
}

/** Everything lies in `dir`: api.sock, the engines' sockets, state/, volumes/. */
export async function beginIohv({ dir }: Scratch, options: LifeOptions = {}): Promise<Life> {
  const { port, workers = 1, policy = 'least-loaded', cache } = options;
  const engineConfig: EngineConfig = {
    role: 'iohv',
    port: { interfaces: ['lo'], mtu: 0, ethertype: 0x88b5, ...port },
    worker: { cpu: null, nice: 0, spinUs: 0 },
    iohv: {
      ...{ integrity: 'mac', slots: 8, bufferBytes: 1 << 20 },
      ...(cache === undefined ? {} : { cache }),
      ...(workers > 1 ? { workerCpus: Array.from({ length: workers }, () => null) } : {}),
    },
  };
  const store = new Store(`${dir}/state`);
  const events = new EventLog();
  const log = createLogger({ write() {} }, events);
  const net = new NetSetup();
  const supervisor = new IohvSupervisor({
    ...{ store, hosts, log, net },
    engine: doubleSettings(dir, engineConfig),
    openKeep: () => ({ devices: () => [], close() {} }),
    dispatch: { policy, rebalanceMs: 0 },
  });
  const services = makeIohvServices({
    ...{ store, supervisor, net, log, volumeDir: `${dir}/volumes`, applyTimeoutMs: 5000 },
    protect: { journalDir: `${dir}/volumes`, totalBytes: 1 << 30 },
  });
  await services.operations.resume();
  const views = new IohvViews(store, supervisor, {
    version: '1',
    interfaces: ['lo'],
    mode: 'packet',
    startedAt: performance.now(),
  });
  const routes = iohvRoutes({ ...services, views, supervisor, events });
  const app = await buildServer({ title: 't', version: '1', log, schemas: SHARED_SCHEMAS.iohv, routes });
  await claimSocket(`${dir}/api.sock`);
  await listenUnix(app, `${dir}/api.sock`, null);
  supervisor.start();
  return {
    log,
    events,
    store,
    supervisor,
    async end() {
      await app.close();
      await supervisor.stop();
      store.close();
    },
  };
}
