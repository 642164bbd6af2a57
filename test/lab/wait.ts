// Waiting for a condition. Every wait has a limit and says what it waited for when it gives up; the limits
// are generous, they exist so that a hang becomes a message, not to time anything.
import { setTimeout as sleep } from 'node:timers/promises';
import { LabError } from './errors.js';

export interface WaitOptions {
  what: string;
  timeoutMs: number;
  intervalMs?: number;
}

/** Polls until `probe` gives something other than undefined or false, and returns that. */
export async function waitFor<T>(
  { what, timeoutMs, intervalMs = 50 }: WaitOptions,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) {
      return value;
    }
    if (performance.now() > deadline) {
      throw new LabError(`waited ${timeoutMs / 1000} s for ${what}`);
    }
    await sleep(intervalMs);
  }
}

/** `promise`, or an error after the time. */
export async function within<T>({ what, timeoutMs }: WaitOptions, promise: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = sleep(timeoutMs, undefined, { signal: timer.signal }).then(
    () => Promise.reject(new LabError(`waited ${timeoutMs / 1000} s for ${what}`)),
    () => new Promise<never>(() => {}),
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}
