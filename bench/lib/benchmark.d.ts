// The part of the npm package `benchmark` that we use: synchronous functions, without setup and teardown, which
// it would rebuild from their text.
declare module 'benchmark' {
  class Benchmark {
    constructor(name: string, fn: () => unknown, options?: { maxTime?: number; minSamples?: number });
    run(): this;
    readonly error?: unknown;
    /** Seconds per call, of each sample. */
    readonly stats: { readonly sample: readonly number[] };
  }
  export default Benchmark;
}
