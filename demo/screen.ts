// The demo's output: numbered steps with details, a live line while something takes long, in colour on a
// terminal. Elsewhere (a log, CI) the live line becomes an ordinary line every few seconds.

type Style = 'bold' | 'dim' | 'green' | 'red' | 'cyan';

const CODES: Record<Style, string> = { bold: '1', dim: '2', green: '32', red: '31', cyan: '36' };
const LIVE_INTERVAL_MS = 250;
const LOG_INTERVAL_MS = 10_000;

export interface Step {
  /** A line that stays. */
  detail(text: string): void;
  /** A command as a user would type it. */
  command(text: string): void;
  /** What it is doing just now. */
  progress(text: string): void;
}

export class Screen {
  readonly #out = process.stdout;
  readonly #isTerminal = process.stdout.isTTY === true;
  readonly #isColoured = this.#isTerminal && !process.env.NO_COLOR;
  #steps = 0;

  style(style: Style, text: string): string {
    return this.#isColoured ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text;
  }

  line(text = ''): void {
    this.#out.write(`${text}\n`);
  }

  async step<T>(title: string, run: (step: Step) => Promise<T>): Promise<T> {
    const startedAt = performance.now();
    const seconds = () => (performance.now() - startedAt) / 1000;
    let doing = '';
    const live = () => this.#live(`${seconds().toFixed(0).padStart(5)} s  ${doing}`);
    this.line(`${this.style('cyan', `[${++this.#steps}]`)} ${this.style('bold', title)}`);
    const timer = setInterval(live, this.#isTerminal ? LIVE_INTERVAL_MS : LOG_INTERVAL_MS);
    try {
      const result = await run({
        detail: (text) => this.#keep(this.style('dim', text)),
        command: (text) => this.#keep(`${this.style('green', '$')} ${text}`),
        progress: (text) => {
          doing = text;
        },
      });
      this.#keep(`${this.style('green', 'ok')} ${this.style('dim', `${seconds().toFixed(1)} s`)}`);
      return result;
    } catch (error) {
      this.#keep(this.style('red', 'failed'));
      throw error;
    } finally {
      clearInterval(timer);
    }
  }

  #keep(text: string): void {
    this.#clearLive();
    this.line(text.replace(/^/gm, '    '));
  }

  #live(text: string): void {
    if (this.#isTerminal) {
      this.#clearLive();
      this.#out.write(`    ${text}`.slice(0, (this.#out.columns || 80) - 1));
    } else {
      this.line(`    ${text}`);
    }
  }

  #clearLive(): void {
    if (this.#isTerminal) {
      this.#out.write('\r\x1b[K');
    }
  }
}
