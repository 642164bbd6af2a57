// The parts of a status that both roles have.
import type { EngineRow, EngineStatus } from '../supervisor/engine-keeper.js';
import type { LinkRow, PortMode } from '../supervisor/protocol.js';
import type { Nested } from '../telemetry/metrics.js';
import type { EngineProcessView, EngineView, LinkView, XdpView } from './schemas.js';

/** Where a host agent with default settings puts its sockets. */
export const DEFAULT_SOCKET_DIR = '/run/outrigger/vhost';

export interface StatusContext {
  version: string;
  /** The configured network interfaces. */
  interfaces: readonly string[];
  mode: PortMode;
  /** performance.now() at the start of the supervisor. */
  startedAt: number;
}

/** enum or_link_form of native/transport/link_info.h, in its order. */
const LINK_FORMS: readonly Pick<LinkView, 'frames' | 'frames_why'>[] = [
  { frames: 'plain', frames_why: 'AF_XDP has no super-frames' },
  { frames: 'plain', frames_why: 'port.super_frames is off' },
  { frames: 'plain', frames_why: 'the link takes large frames' },
  { frames: 'plain', frames_why: 'the MTU of the link is too small for super-frames' },
  { frames: 'plain', frames_why: 'this kernel has no super-frames' },
  { frames: 'plain', frames_why: 'no super-frame was acknowledged yet' },
  { frames: 'plain', frames_why: 'super-frames do not reach the peer' },
  { frames: 'super', frames_why: 'the peer has acknowledged super-frames' },
];

/** enum or_xdp_form of native/transport/port.h, in its order; the first is that of other ports. */
const XDP_FORMS: readonly (Pick<XdpView, 'frames' | 'why'> | null)[] = [
  null,
  { frames: 'zero-copy', why: 'the driver has zero-copy' },
  { frames: 'copied', why: 'the driver has no zero-copy' },
  { frames: 'copied', why: 'the driver has no zero-copy, or none for an MTU above 3776' },
  { frames: 'copied', why: 'the driver has no XDP' },
  { frames: 'packet', why: 'another process has the XDP program or a queue of the interface' },
  { frames: 'packet', why: 'the kernel refuses AF_XDP for now' },
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

/** What has become of `port.mode: xdp`; null without it, and while there is no engine to ask. */
export async function xdpView(context: StatusContext, stats: () => Promise<Nested>): Promise<XdpView | null> {
  if (context.mode !== 'xdp') {
    return null;
  }
  const { port } = await stats().catch((): Nested => ({}));
  if (typeof port !== 'object') {
    return null;
  }
  const form = XDP_FORMS[Number(port.xdpForm)] ?? null;
  return form && { ...form, queues: Number(port.xdpQueues), zero_copy_queues: Number(port.xdpZeroCopyQueues) };
}

export function xdpProblems(xdp: XdpView | null): string[] {
  return xdp?.frames === 'packet' ? [`frames go through AF_PACKET instead of AF_XDP: ${xdp.why}`] : [];
}

export function statusBase(context: StatusContext, view: EngineView, engine: EngineStatus, xdp: XdpView | null) {
  const [first, second] = context.interfaces;
  return {
    version: context.version,
    uptime_s: Math.floor((performance.now() - context.startedAt) / 1000),
    engine: view,
    port: {
      interface: first ?? '',
      second_interface: second ?? null,
      mac: engine.mac,
      mtu: engine.mtu,
      mode: context.mode,
      xdp,
    },
  };
}
