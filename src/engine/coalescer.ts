// Keeps a sender of news from driving its readers: of each key at most one value per interval is passed on,
// the last one. The first comes through at once.

interface Turn {
  timer: NodeJS.Timeout;
  next: (() => void) | undefined;
}

export class Coalescer {
  private readonly intervalMs: number;
  private readonly turns = new Map<string, Turn>();

  constructor(intervalMs: number) {
    this.intervalMs = intervalMs;
  }

  /** Calls `deliver` now or at the end of the interval, unless a newer offer of this key takes its place. */
  offer(key: string, deliver: () => void): void {
    const turn = this.turns.get(key);
    if (turn !== undefined) {
      turn.next = deliver;
      return;
    }
    this.turns.set(key, { timer: setTimeout(() => this.endTurn(key), this.intervalMs), next: undefined });
    deliver();
  }

  stop(): void {
    for (const { timer } of this.turns.values()) {
      clearTimeout(timer);
    }
    this.turns.clear();
  }

  private endTurn(key: string): void {
    const next = this.turns.get(key)?.next;
    this.turns.delete(key);
    if (next !== undefined) {
      this.offer(key, next);
    }
  }
}
