// Running several things at a time.
import { availableParallelism } from 'node:os';
import type { Options } from './group.js';

/** How many programs at a time. One where what they print is shown as it comes, so that it does not mingle. */
export function lanesOf({ verbose }: Options): number {
  return verbose ? 1 : availableParallelism();
}

/** Runs `work` for each item, so many at a time, and yields the results as they come. */
export async function* inLanes<T, R>(
  items: readonly T[],
  lanes: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const running = new Set<Promise<R>>();
  const first = async () => {
    const [promise, result] = await Promise.race([...running].map(async (one) => [one, await one] as const));
    running.delete(promise);
    return result;
  };
  for (const item of items) {
    if (running.size === lanes) {
      yield await first();
    }
    running.add(work(item));
  }
  while (running.size > 0) {
    yield await first();
  }
}
