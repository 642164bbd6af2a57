// What a test group is: it runs items, some of them side by side, and says of each how it went.
import type { Counts } from './counts.js';

export interface Options {
  logDir: string;
  seeds: number;
  tidy: boolean;
  long: boolean;
  verbose: boolean;
}

/** One program or check that was run. */
export interface Item {
  name: string;
  counts: Counts;
  /** What to show when it failed. */
  output: string;
  /** Measurements and the like, shown in any case. */
  notes?: readonly string[];
}

export interface Group {
  name: string;
  about: string;
  run(options: Options): AsyncIterable<Item>;
}
