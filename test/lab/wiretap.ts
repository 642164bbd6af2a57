// Somebody on the segment who listens: test/tools/wiretap.c on one side of it.
import type { Cleanup } from './cleanup.js';
import { SEGMENT_INTERFACE, type Segment, type Side } from './netns.js';
import { repoRoot } from './paths.js';
import { LabProcess } from './process.js';

const TIMEOUT_MS = 20_000;

export interface WiretapOptions {
  segment: Segment;
  /** It hears what arrives there. */
  side: Side;
  texts: readonly string[];
  dir: string;
  cleanup: Cleanup;
}

export interface Overheard {
  frames: number;
  /** Frames that the kernel dropped because it was too slow. */
  dropped: number;
  /** For each text: how many frames held it. */
  found: number[];
}

export class Wiretap {
  readonly #process: LabProcess;

  private constructor(process: LabProcess) {
    this.#process = process;
  }

  /** Resolves when it listens. */
  static async start({ segment, side, texts, dir, cleanup }: WiretapOptions): Promise<Wiretap> {
    const tap = new LabProcess({
      name: 'wiretap',
      argv: segment.wrap(side, [`${repoRoot}/build-rel/tools/wiretap`, SEGMENT_INTERFACE, ...texts]),
      logFile: `${dir}/wiretap-${side}.log`,
      cleanup,
    });
    await tap.waitForLine(/^ready$/, TIMEOUT_MS);
    return new Wiretap(tap);
  }

  async stop(): Promise<Overheard> {
    const result = this.#process.waitForLine(/^\{/, TIMEOUT_MS);
    await this.#process.stop();
    return JSON.parse(await result) as Overheard;
  }
}
