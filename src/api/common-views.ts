// The parts of a status that both roles have.
import type { EngineRow, EngineStatus } from '../supervisor/engine-keeper.js';
import type { LinkRow } from '../supervisor/protocol.js';
import type { EngineProcessView, EngineView, LinkView } from './schemas.js';

/** Where a host agent with default settings puts its sockets. */
export const DEFAULT_SOCKET_DIR = '/run/outrigger/vhost';

export interface StatusContext {
  version: string;
  /** The configured network interfaces. */
  interfaces: readonly string[];
  /** performance.now() at the start of the supervisor. */
  startedAt: number;
}

/** enum or_link_form of native/transport/link_info.h, in its order. */
const LINK_FORMS: readonly Pick<LinkView, 'frames' | 'frames_why'>[] = [
  { frames: 'plain', frames_why: 'a port of this kind has no super-frames' },
  { frames: 'plain', frames_why: 'port.super_frames is off' },
  { frames: 'plain', frames_why: 'the link takes large frames' },
  { frames: 'plain', frames_why: 'the MTU of the link is too small for super-frames' },
  { frames: 'plain', frames_why: 'this kernel has no super-frames' },
  { frames: 'plain', frames_why: 'no super-frame was acknowledged yet' },
  { frames: 'plain', frames_why: 'super-frames do not reach the peer' },
  { frames: 'super', frames_why: 'the peer has acknowledged super-frames' },
];

export function linkView({ up, srttUs, framesLost, form }: LinkRow): LinkView {
  const { frames, frames_why } = LINK_FORMS[form] ?? { frames: 'plain', frames_why: '' };
  return { up, srtt_us: srttUs, frames_lost: framesLost, frames, frames_why };
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
  const [first, second] = context.interfaces;
  return {
    version: context.version,
    uptime_s: Math.floor((performance.now() - context.startedAt) / 1000),
    engine: view,
    port: { interface: first ?? '', second_interface: second ?? null, mac: engine.mac, mtu: engine.mtu },
  };
}
