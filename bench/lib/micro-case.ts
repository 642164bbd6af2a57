// What a micro-benchmark prints, one line of JSON for each case.
export interface MicroResult {
  group: string;
  name: string;
  /** Of an operation, for its rate; 0: none. */
  bytes: number;
  /** Nanoseconds per operation: median, fastest and slowest of several rounds. */
  ns: number;
  ns_min: number;
  ns_max: number;
}

export function resultOf(group: string, name: string, bytes: number, rounds: readonly number[]): MicroResult {
  const sorted = [...rounds].sort((a, b) => a - b);
  const [median = 0, min = 0, max = 0] = [sorted[Math.floor(sorted.length / 2)], sorted[0], sorted.at(-1)];
  return { group, name, bytes, ns: median, ns_min: min, ns_max: max };
}
