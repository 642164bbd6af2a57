// How long nobody served: from the end of one engine until the next one does what it did.

/** A peer that was there before and does not come back is not our blackout. */
const FORGET_MS = 60_000;

export class Blackout {
  /** Of the last one that ended. */
  lastMs: number | null = null;
  private since: number | undefined;
  private waiters: ((ms: number | undefined) => void)[] = [];

  get isOn(): boolean {
    return this.since !== undefined;
  }

  /** ms since it began; undefined when there is none. */
  get elapsedMs(): number | undefined {
    return this.since === undefined ? undefined : Math.round(performance.now() - this.since);
  }

  /** One that is on goes on. */
  begin(): void {
    this.since ??= performance.now();
  }

  /** It was none. */
  cancel(): void {
    this.since = undefined;
  }

  /** Its length; undefined when there was none, or nobody can tell any more. */
  end(): number | undefined {
    if (this.since === undefined) {
      return undefined;
    }
    const ms = performance.now() - this.since;
    this.since = undefined;
    const known = ms < FORGET_MS ? ms : undefined;
    this.lastMs = known ?? this.lastMs;
    for (const waiter of this.waiters.splice(0)) {
      waiter(known);
    }
    return known;
  }

  /** Resolves with the length of the present one when it ends, or with undefined after timeoutMs. */
  over(timeoutMs: number): Promise<number | undefined> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs, undefined);
      this.waiters.push((ms) => {
        clearTimeout(timer);
        resolve(ms);
      });
    });
  }
}
