// What was set up is taken down again in reverse order: at the end, on an error, and on a signal. Undoing is
// synchronous, so that it completes even inside a signal handler. Each step is registered before what it
// undoes is made, and must not mind if that was never made.
import { messageOf } from './errors.js';

export class Cleanup {
  readonly #steps: (() => void)[] = [];

  add(undo: () => void): void {
    this.#steps.push(undo);
  }

  run(): void {
    for (let undo = this.#steps.pop(); undo !== undefined; undo = this.#steps.pop()) {
      try {
        undo();
      } catch (error) {
        process.stderr.write(`while cleaning up: ${messageOf(error)}\n`);
      }
    }
  }

  /** From now on a signal that ends the process cleans up first. `announce` is called before. */
  onSignals(announce: () => void = () => {}): void {
    const codes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
    for (const [signal, code] of Object.entries(codes)) {
      process.once(signal, () => {
        announce();
        this.run();
        process.exit(code);
      });
    }
  }
}
