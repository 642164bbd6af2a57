// What each worker of the engine does, looked at for a moment.
import { setTimeout as sleep } from 'node:timers/promises';
import { counterOf, type Nested } from '../telemetry/metrics.js';
import type { EngineSettings } from './engine-settings.js';
import type { IohvActual } from './iohv-planner.js';

export interface WorkerInfo {
  worker: number;
  cpu: number | null;
  /** Of the time; polling counts. */
  utilisation: number;
  requestsPerS: number;
  sessions: number;
  volumes: number;
  nics: number;
}

const LOOK_MS = 250;

/** `stats`: the counters of all workers, asked for twice. */
export async function lookAtWorkers(
  stats: () => Promise<Nested[]>,
  actual: () => Pick<IohvActual, 'volumes' | 'nics'> | undefined,
  config: EngineSettings['config'],
): Promise<WorkerInfo[]> {
  const before = await stats();
  await sleep(LOOK_MS);
  const after = await stats();
  const { volumes, nics } = actual() ?? {};
  const cpus = config.role === 'iohv' ? config.iohv.workerCpus : undefined;
  return after.map((counters, worker) => {
    const change = (...path: string[]) => counterOf(counters, path) - counterOf(before[worker] ?? counters, path);
    const elapsedMs = Math.max(change('loop', 'elapsedMs'), 1);
    const hasIt = (row: { worker?: number }) => (row.worker ?? 0) === worker;
    return {
      worker,
      cpu: cpus === undefined ? config.worker.cpu : (cpus[worker] ?? null),
      utilisation: Math.min(Math.max(1 - change('loop', 'sleptMs') / elapsedMs, 0), 1),
      requestsPerS: Math.round((change('server', 'requests') / elapsedMs) * 1000),
      sessions: counterOf(counters, ['server', 'sessions']),
      volumes: [...(volumes?.values() ?? [])].filter(hasIt).length,
      nics: [...(nics?.values() ?? [])].filter(hasIt).length,
    };
  });
}
