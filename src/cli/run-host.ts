// `outrigger host`: puts the parts of the host agent together and runs them until a signal.
import { hostRoutes } from '../api/host-routes.js';
import { HostViews } from '../api/host-views.js';
import { claimSocket, listenUnix } from '../api/listen.js';
import { SHARED_SCHEMAS } from '../api/schemas.js';
import { buildServer } from '../api/server.js';
import { readKeyFile } from '../config/keys.js';
import { loadHostConfig } from '../config/load.js';
import { type HostConfig, hostSocket, vhostSocketDir } from '../config/schema.js';
import { HostSupervisor } from '../supervisor/host-supervisor.js';
import type { EngineConfig } from '../supervisor/protocol.js';
import { RunLock } from '../supervisor/run-lock.js';
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

export async function runHost({ configFile, engineProgram, log, events, version }: RunOptions): Promise<void> {
  const config = loadHostConfig(configFile);
  const socket = hostSocket(config);
  await claimSocket(socket);
  const lock = new RunLock(`${config.run_dir}/host.lock`);
  const superseded = new AbortController();
  const supervisor = new HostSupervisor({
    name: config.name,
    version,
    socketDir: vhostSocketDir(config),
    socketAccess: { mode: Number.parseInt(config.socket_mode, 8), groupId: groupId(config.socket_group) },
    engine: engineSettings(config, toEngineConfig(config), engineProgram, superseded),
    openKeep,
    log,
  });
  const context = {
    version,
    interfaces: interfacesOf(config.port),
    mode: config.port.mode,
    startedAt: performance.now(),
  };
  const routes = hostRoutes(new HostViews(config.name, supervisor, context), supervisor, events);
  const stopped = untilStopped(log, superseded.signal, () =>
    log.warn('config.unchanged', { reason: 'the host agent reads its file at its start only' }),
  );
  const app = await buildServer({ title: 'Outrigger host agent', version, log, schemas: SHARED_SCHEMAS.host, routes });
  await listenUnix(app, socket, groupId(config.api.socket_group));
  log.info('api.listening', { socket });
  supervisor.start();

  const ending = await stopped;
  await app.close();
  await supervisor.stop(ending === 'leave');
  lock.release();
}

function toEngineConfig(config: HostConfig): EngineConfig {
  const key = readKeyFile(config.iohv.key_file);
  if (!key.ok) {
    throw new Error(key.problem.message); // it was right when the configuration was checked
  }
  return {
    role: 'host',
    port: portSettings(config.port),
    worker: workerSettings(config.worker),
    host: {
      name: config.name,
      keyBase64: key.value.toString('base64'),
      serverMacs: [config.iohv.mac, config.iohv.second_mac].flatMap((mac) =>
        mac === undefined ? [] : [mac.toLowerCase()],
      ),
      integrityMin: config.iohv.integrity_min,
    },
  };
}
