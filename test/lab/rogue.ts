// Somebody on the segment without a key: test/tools/rogue.c. The middle of a relayed segment becomes a hub, so
// that they hear every frame and nobody's address is learned:
//
//   iohv: seg0 ── veth ── a0 ┐
//                            ├ hub ── r0 ── veth ── rogue0
//   host: seg0 ── veth ── b0 ┘
import type { Cleanup } from './cleanup.js';
import { runSync } from './command.js';
import { LabError } from './errors.js';
import { RELAY_INTERFACES, type Segment } from './netns.js';
import { HOST_NAME } from './outrigger.js';
import { repoRoot } from './paths.js';
import { LabProcess } from './process.js';

const HUB_END = 'r0';
const ROGUE_END = 'rogue0';
const NOBODY = '02:00:00:00:0a:ee';
const START_TIMEOUT_MS = 20_000;

export interface RogueCounters {
  seconds: number;
  cpu_seconds: number;
  sent: number;
  failed: number;
  heard: number;
  kinds: Record<string, number>;
}

export interface RogueOptions {
  segment: Segment;
  dir: string;
  cleanup: Cleanup;
  /** Frames per second; 0: as many as go. */
  rate: number;
  /** The same frames, to an address that nobody has. */
  dead: boolean;
  seed: number;
  kinds?: readonly string[];
}

export function makeHub(segment: Segment): void {
  const ip = (...args: string[]) => runSync(['ip', '-n', segment.namespace('relay'), ...args]);
  const mtu = ['mtu', `${segment.mtu}`];
  ip('link', 'add', 'hub', ...mtu, 'type', 'bridge', 'ageing_time', '0', 'mcast_snooping', '0');
  ip('link', 'add', HUB_END, ...mtu, 'type', 'veth', 'peer', 'name', ROGUE_END, ...mtu);
  for (const port of [...Object.values(RELAY_INTERFACES), HUB_END]) {
    ip('link', 'set', port, 'master', 'hub');
  }
  for (const link of ['hub', HUB_END, ROGUE_END]) {
    ip('link', 'set', link, 'up');
  }
}

export class Rogue {
  readonly #process: LabProcess;

  private constructor(process: LabProcess) {
    this.#process = process;
  }

  /** Resolves when they have begun. */
  static async start({ segment, dir, cleanup, rate, dead, seed, kinds }: RogueOptions): Promise<Rogue> {
    const process = new LabProcess({
      name: 'rogue',
      argv: segment.wrap('relay', [
        `${repoRoot}/build-rel/tools/rogue`,
        ...['--interface', ROGUE_END, '--iohv', segment.mac('iohv'), '--host', segment.mac('host')],
        ...['--name', HOST_NAME, '--rate', `${rate}`, '--seed', `${seed}`],
        ...(dead ? ['--dead', NOBODY] : []),
        ...(kinds === undefined ? [] : ['--kinds', kinds.join(',')]),
      ]),
      logFile: `${dir}/rogue.log`,
      cleanup,
    });
    await process.waitForLine(/^ready$/, START_TIMEOUT_MS);
    return new Rogue(process);
  }

  async stop(): Promise<RogueCounters> {
    const status = await this.#process.stop();
    const line = this.#process.tail().split('\n').at(-1) ?? '';
    if (status !== 0 || !line.startsWith('{')) {
      throw new LabError(`the rogue ended with status ${status}:\n${this.#process.tail()}`);
    }
    return JSON.parse(line) as RogueCounters;
  }
}
