// Those who wait until the reconciler's steps have brought something about.

export class StepWaiters {
  private readonly waiting = new Set<() => void>();

  /** A step has ended, well or not. */
  noteStep(): void {
    for (const look of [...this.waiting]) {
      look();
    }
  }

  /** Whether `isDone` came true, now or behind a step, before timeoutMs have passed. */
  until(isDone: () => boolean, timeoutMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.waiting.delete(look);
        resolve(isDone());
      };
      const look = () => {
        if (isDone()) {
          end();
        }
      };
      const timer = setTimeout(end, timeoutMs);
      this.waiting.add(look);
      look();
    });
  }
}
