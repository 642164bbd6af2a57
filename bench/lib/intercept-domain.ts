// A protection domain that a benchmark drives: epochs on a clock, and what the domain says of them.
import { readdirSync, readlinkSync, statSync } from 'node:fs';
import { EpochDriver } from '../../src/protect/epoch-driver.js';
import { domainOf, type OpenDomain } from '../../test/lab/domain.js';
import type { Outrigger } from '../../test/lab/outrigger.js';

const SAMPLE_MS = 100;
const DOMAIN = 'bench';
const STEPS = ['cut', 'sync', 'release', 'apply'] as const;

/** What it cost to hold, over a row. */
export interface Held {
  /** At most, of samples every 100 ms. */
  held_bytes_max: number;
  epochs: number;
  /** Epochs that were left out because the one before was not over. */
  skipped: number;
  /** Of a cut and its commit together, as their caller sees them; microseconds. */
  checkpoint_us: number;
  /** Of each: how often, and the mean, microseconds. */
  cut_count: number;
  cut_us: number;
  sync_count: number;
  sync_us: number;
  release_count: number;
  release_us: number;
  apply_count: number;
  apply_us: number;
}

export class BenchDomain {
  readonly #lab: Outrigger;

  private constructor(lab: Outrigger) {
    this.#lab = lab;
  }

  static async create(lab: Outrigger, vm: string): Promise<BenchDomain> {
    await lab.cli('iohv', 'protect', 'domain', 'create', DOMAIN, '--vm', vm);
    return new BenchDomain(lab);
  }

  view(): Promise<OpenDomain> {
    return domainOf(this.#lab, DOMAIN);
  }

  /** Epochs of that length while `body` runs. */
  async hold<T>(everyMs: number, body: () => Promise<T>): Promise<{ result: T; held: Held }> {
    const before = await this.view();
    const driver = await EpochDriver.start({ socket: before.socket, everyMs });
    let most = 0;
    let sampling = Promise.resolve();
    const timer = setInterval(() => {
      sampling = this.view().then(
        ({ counters }) => {
          most = Math.max(most, counters.held_bytes);
        },
        () => {},
      );
    }, SAMPLE_MS);
    try {
      const result = await body();
      clearInterval(timer);
      const { epochs, skipped, mean_us } = await driver.stop();
      await sampling;
      const held = {
        held_bytes_max: most,
        epochs,
        skipped,
        checkpoint_us: mean_us,
        ...this.#times(before, await this.view()),
      };
      return { result, held };
    } finally {
      clearInterval(timer);
      await driver.stop();
    }
  }

  #times(before: OpenDomain, after: OpenDomain) {
    const entries = STEPS.flatMap((step) => {
      const [old, now] = [before.counters.times[step], after.counters.times[step]];
      const count = now.count - old.count;
      const us = count === 0 ? 0 : (now.count * now.mean_us - old.count * old.mean_us) / count;
      return [[`${step}_count`, count] as const, [`${step}_us`, us] as const];
    });
    return Object.fromEntries(entries) as Record<`${(typeof STEPS)[number]}_${'count' | 'us'}`, number>;
  }

  /** What the region takes of the machine's memory. */
  regionBytes(): number {
    const folder = `/proc/${this.#lab.supervisor('iohv').pid}/fd`;
    const regions = readdirSync(folder).filter((fd) => /^\/memfd:.*(domain|hold)/.test(readlink(`${folder}/${fd}`)));
    return regions.reduce((sum, fd) => sum + statSync(`${folder}/${fd}`).blocks * 512, 0);
  }
}

/** '' of one that was closed meanwhile. */
function readlink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
