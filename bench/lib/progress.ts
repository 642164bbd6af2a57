// What is being measured: one line that is rewritten on a terminal, a line per step elsewhere.
export class Progress {
  readonly #total: number;
  #done = 0;

  constructor(total: number) {
    this.#total = total;
  }

  step(text: string): void {
    this.#done++;
    const line = `[${this.#done}/${this.#total}] ${text}`;
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${line}` : `${line}\n`);
  }

  /** Removes the line, so that other output starts cleanly. */
  clear(): void {
    if (process.stderr.isTTY) {
      process.stderr.write('\r\x1b[K');
    }
  }
}
