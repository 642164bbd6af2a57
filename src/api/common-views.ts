// The parts of a status that both roles have.
import type { EngineRow, EngineStatus } from '../supervisor/engine-keeper.js';
import type { EngineProcessView, EngineView } from './schemas.js';

export interface StatusContext {
  version: string;
  /** The configured network interface. */
  interface: string;
  /** performance.now() at the start of the supervisor. */
  startedAt: number;
}

export function iso(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}

export function engineView(engine: EngineStatus, log: string): EngineView {
  return {
    state: engine.state,
    pid: engine.pid,
    started_at: iso(engine.startedAt),
    deaths: engine.deaths,
    last_error: engine.lastError,
    standby: engine.standby,
    last_blackout_ms: engine.lastBlackoutMs,
    processes: engine.rows.map(processView),
    log,
  };
}

export function processView({ pid, state, version, build, isPresent, since }: EngineRow): EngineProcessView {
  return { pid, state, version, build, present: isPresent, since: new Date(since).toISOString() };
}

export function statusBase(context: StatusContext, view: EngineView, engine: EngineStatus) {
  return {
    version: context.version,
    uptime_s: Math.floor((performance.now() - context.startedAt) / 1000),
    engine: view,
    port: { interface: context.interface, mac: engine.mac, mtu: engine.mtu },
  };
}
