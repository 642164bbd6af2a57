// How an engine looks to a human.
import type { EngineProcessView, EngineUpgrade, EngineView, WorkerView } from '../api/schemas.js';
import { formatPairs, formatTable } from './format.js';

const milliseconds = (ms: number) => `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
const buildOf = ({ version, build, present }: EngineProcessView) =>
  `${version} ${build}${present ? '' : ' (not the present one)'}`;

export function renderProcesses({ processes }: EngineView): string {
  if (processes.length === 0) {
    return 'no engine runs just now; `outrigger engine show` says why\n';
  }
  const rows = processes.map((process) => [String(process.pid), process.state, buildOf(process), process.since]);
  return formatTable(['PID', 'STATE', 'BUILD', 'SINCE'], rows);
}

/** One line for the status: what runs, what stands by, how it went so far. */
export function summarizeEngine(engine: EngineView): string {
  const blackout = engine.last_blackout_ms === null ? '' : `, last blackout ${milliseconds(engine.last_blackout_ms)}`;
  const deaths = engine.deaths === 0 ? '' : `, ${engine.deaths} lost so far`;
  const standby = engine.standby === 'off' ? '' : `, standby ${engine.standby}`;
  return engine.pid === null
    ? `${engine.state}: ${engine.last_error || '-'}`
    : `${engine.state}, pid ${engine.pid}${standby}${deaths}${blackout}`;
}

export function renderEngine(engine: EngineView): string {
  const { processes, last_blackout_ms: blackout } = engine;
  const line = (state: EngineProcessView['state']) => {
    const found = processes.find((process) => process.state === state);
    return found === undefined ? '-' : `pid ${found.pid}, ${buildOf(found)}, since ${found.since}`;
  };
  return formatPairs([
    ['state', engine.state],
    ['active', line('active')],
    ['standby', engine.standby === 'ready' ? line('standby') : engine.standby],
    ['deaths', String(engine.deaths)],
    ['last error', engine.last_error || '-'],
    ['last blackout', blackout === null ? '-' : milliseconds(blackout)],
    ['log', engine.log],
  ]);
}

export function renderWorkers(workers: readonly WorkerView[]): string {
  if (workers.length === 0) {
    return 'no engine runs just now; `outrigger engine show` says why\n';
  }
  const rows = workers.map(({ worker, cpu, utilisation, requests_per_s, sessions, volumes, nics }) => [
    String(worker),
    cpu === null ? '-' : String(cpu),
    `${Math.round(utilisation * 100)} %`,
    ...[requests_per_s, sessions, volumes, nics].map(String),
  ]);
  return formatTable(['WORKER', 'CPU', 'BUSY', 'REQUESTS/S', 'SESSIONS', 'VOLUMES', 'NICS'], rows);
}

export function renderUpgrade({ from, to, blackout_ms: blackout }: EngineUpgrade): string {
  return formatPairs([
    ['from', `pid ${from.pid}, ${buildOf(from)}`],
    ['to', `pid ${to.pid}, ${buildOf(to)}`],
    ['blackout', blackout === null ? 'not over yet: see `outrigger status`' : milliseconds(blackout)],
  ]);
}
