// `outrigger iohv`: puts the parts of the I/O hypervisor together and runs them until a signal.
import { readFileSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';
import { iohvRoutes } from '../api/iohv-routes.js';
import { IohvViews } from '../api/iohv-views.js';
import { claimSocket, listenTcp, listenUnix } from '../api/listen.js';
import { SHARED_SCHEMAS } from '../api/schemas.js';
import { buildServer, type ServerOptions } from '../api/server.js';
import { cacheBytes } from '../config/cache-size.js';
import { keyId, readKeyFile } from '../config/keys.js';
import { loadIohvConfig } from '../config/load.js';
import { ConfigError } from '../config/problem.js';
import { type IohvConfig, iohvSocket } from '../config/schema.js';
import { bytesOf } from '../config/size.js';
import { readTokens, type TokenEntry } from '../config/tokens.js';
import { makeIohvServices } from '../supervisor/iohv-services.js';
import { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import type { KnownHost } from '../supervisor/model.js';
import { NetSetup } from '../supervisor/net-setup.js';
import type { EngineConfig } from '../supervisor/protocol.js';
import { RunLock } from '../supervisor/run-lock.js';
import { Store } from '../supervisor/store.js';
import type { Logger } from '../telemetry/log.js';
import {
  engineSettings,
  groupId,
  interfacesOf,
  openKeep,
  portSettings,
  type RunOptions,
  untilStopped,
  workerSettings,
} from './run-common.js';

/** How long a request of the API waits for the engine to follow. */
const APPLY_TIMEOUT_MS = 5000;

export async function runIohv({ configFile, engineProgram, log, events, version }: RunOptions): Promise<void> {
  let config = loadIohvConfig(configFile);
  const socket = iohvSocket(config);
  await claimSocket(socket);
  const lock = new RunLock(`${config.run_dir}/iohv.lock`);
  const superseded = new AbortController();
  const store = new Store(config.state_dir);
  try {
    const net = new NetSetup();
    const supervisor = new IohvSupervisor({
      store,
      hosts: readHosts(config),
      net,
      engine: engineSettings(config, toEngineConfig(config), engineProgram, superseded),
      openKeep,
      dispatch: { policy: config.worker.placement, rebalanceMs: config.worker.rebalance_ms },
      log,
    });
    const services = makeIohvServices({
      ...{ store, supervisor, net, log },
      volumeDir: config.volume_dir,
      protect: {
        journalDir: config.protect.journal_dir ?? config.volume_dir,
        totalBytes: bytesOf(config.protect.total),
      },
      applyTimeoutMs: APPLY_TIMEOUT_MS,
    });
    const context = {
      version,
      interfaces: interfacesOf(config.port),
      mode: config.port.mode,
      startedAt: performance.now(),
    };
    const views = new IohvViews(store, supervisor, context);
    const routes = iohvRoutes({ ...services, views, supervisor, events });
    const server = { title: 'Outrigger I/O hypervisor', version, log, schemas: SHARED_SCHEMAS.iohv, routes };

    const stopped = untilStopped(log, superseded.signal, () => {
      config = reload(configFile, config, supervisor, log);
    });
    await services.operations.resume();
    const local = await buildServer(server);
    await listenUnix(local, socket, groupId(config.api.socket_group));
    log.info('api.listening', { socket });
    const remote = await startHttps(server, config, log);
    supervisor.start();

    const ending = await stopped;
    await Promise.all([local.close(), remote?.close()]);
    await supervisor.stop(ending === 'leave');
  } finally {
    store.close();
    lock.release();
  }
}

async function startHttps(
  server: ServerOptions,
  config: IohvConfig,
  log: Logger,
): Promise<FastifyInstance | undefined> {
  const { listen } = config.api;
  if (listen === undefined) {
    return undefined;
  }
  // Read for every request: a token that was taken away is refused from that moment on.
  const tokens = (): readonly TokenEntry[] => {
    const result = readTokens(listen.tokens_file);
    if (!result.ok) {
      log.error('tokens.unreadable', { reason: result.problem.message });
    }
    return result.ok ? result.value : [];
  };
  const [cert, key] = [readFileSync(listen.cert, 'utf8'), readFileSync(listen.key, 'utf8')];
  const app = await buildServer({ ...server, https: { cert, key, tokens } });
  const port = await listenTcp(app, listen.address, listen.port);
  log.info('api.listening', { address: listen.address, port });
  return app;
}

/** SIGHUP: the list of hosts is taken from the file again; the rest needs a restart. */
function reload(file: string, current: IohvConfig, supervisor: IohvSupervisor, log: Logger): IohvConfig {
  try {
    const next = loadIohvConfig(file);
    supervisor.setHosts(readHosts(next));
    const rest = ({ hosts: _, ...others }: IohvConfig) => JSON.stringify(others);
    if (rest(next) !== rest(current)) {
      log.warn('config.partly', { reason: 'only `hosts` is read again; restart the supervisor for the other changes' });
    }
    log.info('config.reloaded', { hosts: next.hosts.length });
    return { ...current, hosts: next.hosts };
  } catch (error) {
    if (!(error instanceof ConfigError)) {
      throw error;
    }
    log.error('config.refused', { reason: error.message });
    return current;
  }
}

function readHosts(config: IohvConfig): KnownHost[] {
  return config.hosts.map(({ name, key_file }) => {
    const key = readKeyFile(key_file);
    if (!key.ok) {
      throw new Error(key.problem.message); // it was right when the configuration was checked
    }
    return { name, keyBase64: key.value.toString('base64'), keyId: keyId(key.value) };
  });
}

function toEngineConfig(config: IohvConfig): EngineConfig {
  const { count, cpu } = config.worker;
  const bytes = cacheBytes(config.cache.size);
  const cpus = Array.isArray(cpu) ? cpu : Array.from({ length: count }, () => cpu);
  return {
    role: 'iohv',
    port: portSettings(config.port),
    worker: workerSettings({ ...config.worker, cpu: cpus[0] ?? null }),
    iohv: {
      integrity: config.integrity,
      slots: config.slots,
      bufferBytes: config.buffer_mib * 1024 * 1024,
      ...(config.scheduling === 'fifo' ? { fifo: true } : {}),
      ...(bytes === 0 ? {} : { cache: { bytes, policy: config.cache.policy } }),
      ...(count > 1 ? { workerCpus: cpus } : {}),
    },
  };
}
