// Those who wait until the engine has cut a volume: until it writes into the head that the store gives it.
import { refuse } from '../errors.js';

export class CutWaiters {
  /** By the name of the volume; one at a time. */
  private readonly waiting = new Map<string, { content: string; end(failure?: string): void }>();

  /**
   * Resolves when the engine has followed, or finds the head, `content`, as it opens the volume. Throws engine_refused
   * when it will not, or after timeoutMs, when nobody knows yet. Look at once whether it has.
   */
  async wait(name: string, content: string, timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const ended = new Promise<string | undefined>((resolve) => {
      this.waiting.set(name, { content, end: resolve });
      timer = setTimeout(() => resolve('the engine has not done it yet, and may still do it'), timeoutMs);
    });
    const failure = await ended;
    clearTimeout(timer);
    this.waiting.delete(name);
    if (failure !== undefined) {
      throw refuse('engine_refused', `the volume ${name} could not be cut: ${failure}`);
    }
  }

  /** Tells those whose volume has this head now, or none any more. */
  look(isCut: (name: string, content: string) => boolean): void {
    for (const [name, { content, end }] of this.waiting) {
      if (isCut(name, content)) {
        end();
      }
    }
  }

  /** The step that cuts the volume has failed, and the store was taken back. */
  fail(name: string, reason: string): void {
    this.waiting.get(name)?.end(reason);
  }
}
