// What both roles do to run: settings of the engine, signals.
import { systemProbe } from '../config/checks.js';
import type { IohvConfig } from '../config/schema.js';
import type { PortSettings, WorkerSettings } from '../supervisor/protocol.js';
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

export function portSettings(port: IohvConfig['port']): PortSettings {
  return { interface: port.interface, mtu: port.mtu, ethertype: port.ethertype };
}

export function workerSettings(worker: IohvConfig['worker']): WorkerSettings {
  return { cpu: worker.cpu, nice: worker.nice, spinUs: worker.spin_us };
}

/** The id of a group that the configuration's checks have seen. */
export function groupId(group: string | null): number | null {
  return group === null ? null : (systemProbe.groupId(group) ?? null);
}

/** Resolves at SIGTERM or SIGINT; calls onReload at every SIGHUP until then. */
export function untilStopped(log: Logger, onReload: () => void): Promise<void> {
  return new Promise((resolve) => {
    process.on('SIGHUP', onReload);
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        log.info('stopping', { signal });
        process.off('SIGHUP', onReload);
        resolve();
      });
    }
  });
}
