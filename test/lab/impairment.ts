// The bad cable of a relayed segment: test/tools/impair.c in the middle, told what to do to frames.
import type { Socket } from 'node:net';
import type { Cleanup } from './cleanup.js';
import { LabError } from './errors.js';
import { RELAY_INTERFACES, type Segment } from './netns.js';
import { repoRoot } from './paths.js';
import { LabProcess } from './process.js';
import { connectTo, onLines } from './socket.js';
import { within } from './wait.js';

/** Probabilities are 0 to 1; see impair.c. */
export interface Impairments {
  loss: number;
  duplicate: number;
  reorder: number;
  reorder_frames: number;
  reorder_ms: number;
  corrupt: number;
  delay_us: number;
  /** 0: frames of any size pass. */
  mtu: number;
}

/** From the I/O hypervisor to the host, and back. */
export type Direction = 'to-host' | 'to-iohv' | 'both';
const WORDS: Record<Direction, string> = { 'to-host': 'ab', 'to-iohv': 'ba', both: 'both' };

/** Of one direction. */
export interface RelayCounters {
  frames: number;
  bytes: number;
  passed: number;
  lost: number;
  duplicated: number;
  reordered: number;
  corrupted: number;
  delayed: number;
  oversized: number;
  overflow: number;
}

export const CLEAN: Impairments = {
  loss: 0,
  duplicate: 0,
  reorder: 0,
  reorder_frames: 8,
  reorder_ms: 2,
  corrupt: 0,
  delay_us: 0,
  mtu: 0,
};

export interface ImpairmentOptions {
  segment: Segment;
  dir: string;
  seed: number;
  cleanup: Cleanup;
}

export class Impairment {
  readonly #socket: Socket;
  #answer: (line: string) => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    onLines(socket, (line) => this.#answer(line));
  }

  /** Until then nothing passes the segment; then everything does, until it is told otherwise. */
  static async start({ segment, dir, seed, cleanup }: ImpairmentOptions): Promise<Impairment> {
    const control = `${dir}/impair.sock`;
    const relay = new LabProcess({
      name: 'impair',
      argv: segment.wrap('relay', [
        `${repoRoot}/build-rel/tools/impair`,
        ...['--seed', `${seed}`, '--control', control],
        ...[RELAY_INTERFACES.iohv, RELAY_INTERFACES.host],
      ]),
      logFile: `${dir}/impair.log`,
      cleanup,
    });
    return new Impairment(await connectTo(control, 'the relay', () => relay.isRunning));
  }

  /** What is not named stays as it is. */
  async set(change: Partial<Impairments>, direction: Direction = 'both'): Promise<void> {
    const words = Object.entries(change).map(([name, value]) => `${name}=${value}`);
    await this.#ask([WORDS[direction], ...words].join(' '));
  }

  async counters(): Promise<Record<'to-host' | 'to-iohv', RelayCounters>> {
    const { ab, ba } = await this.#ask('counters');
    return { 'to-host': ab, 'to-iohv': ba };
  }

  async #ask(line: string): Promise<{ ab: RelayCounters; ba: RelayCounters }> {
    const answer = new Promise<string>((resolve) => {
      this.#answer = resolve;
    });
    this.#socket.write(`${line}\n`);
    const text = await within({ what: `the relay to answer: ${line}`, timeoutMs: 20_000 }, answer);
    const result = JSON.parse(text) as { ab: RelayCounters; ba: RelayCounters } | { error: string };
    if ('error' in result) {
      throw new LabError(`the relay: ${result.error}`);
    }
    return result;
  }
}
