// What both roles do to run: settings of the engine, signals.
import { systemProbe } from '../config/checks.js';
import type { HostConfig, IohvConfig } from '../config/schema.js';
import { buildOf } from '../engine/identity.js';
import { loadAddon, type NativeDescriptorStore } from '../native/addon.js';
import { chooseLauncher } from '../supervisor/engine-launcher.js';
import type { EngineSettings } from '../supervisor/engine-settings.js';
import type { EngineConfig, PortSettings, WorkerSettings } from '../supervisor/protocol.js';
import type { EventLog } from '../telemetry/events.js';
import type { Logger } from '../telemetry/log.js';

export interface RunOptions {
  configFile: string;
  /** Main module of the engine. */
  engineProgram: string;
  log: Logger;
  /** What the log has written. */
  events: EventLog;
  version: string;
}

export function interfacesOf(port: IohvConfig['port']): string[] {
  return port.second_interface === undefined ? [port.interface] : [port.interface, port.second_interface];
}

export function portSettings(port: IohvConfig['port']): PortSettings {
  const { mode, mtu, ethertype, super_frames: superFrames } = port;
  return { interfaces: interfacesOf(port), mode, mtu, ethertype, superFrames };
}

export function workerSettings(worker: HostConfig['worker']): WorkerSettings {
  return { cpu: worker.cpu, nice: worker.nice, spinUs: worker.spin_us };
}

/** The id of a group that the configuration's checks have seen. */
export function groupId(group: string | null): number | null {
  return group === null ? null : (systemProbe.groupId(group) ?? null);
}

/** What a supervisor needs to run the engines of its role. */
export function engineSettings(
  config: Pick<IohvConfig, 'run_dir' | 'engine'>,
  engineConfig: EngineConfig,
  engineProgram: string,
  superseded: AbortController,
): EngineSettings {
  const filesPrefix = `${config.run_dir}/${engineConfig.role}-engine`;
  return {
    config: engineConfig,
    filesPrefix,
    launcher: chooseLauncher(config.engine.launcher, engineProgram, filesPrefix),
    standby: config.engine.standby,
    presentBuild: () => buildOf(engineProgram),
    onSuperseded: () => superseded.abort(),
  };
}

/** stop: with the engine; leave: the engine goes on, for the next supervisor. */
export type Ending = 'stop' | 'leave';

/** Resolves at a signal that ends us, or when we are superseded; calls onReload at every SIGHUP until then. */
export function untilStopped(log: Logger, superseded: AbortSignal, onReload: () => void): Promise<Ending> {
  return new Promise((resolve) => {
    const end = (ending: Ending) => {
      process.off('SIGHUP', onReload);
      resolve(ending);
    };
    process.on('SIGHUP', onReload);
    superseded.addEventListener('abort', () => end('leave'));
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const) {
      process.on(signal, () => {
        log.info('stopping', { signal });
        end(signal === 'SIGQUIT' ? 'leave' : 'stop');
      });
    }
  });
}

/** What an engine leaves there outlives it: see native/keep/store.h. */
export function openKeep(socket: string): NativeDescriptorStore {
  const { DescriptorStore } = loadAddon();
  return new DescriptorStore(socket);
}
