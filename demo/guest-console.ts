// The demo guest's console: shows what goes on there, and waits for what the exercise reports.
import { LabError } from '../test/lab/errors.js';
import type { Qemu } from '../test/lab/qemu.js';
import { within } from '../test/lab/wait.js';
import { parseReport, plainText, type Report } from './exercise.js';
import type { Step } from './screen.js';

type Kind = Report['kind'];

export class GuestConsole {
  readonly #qemu: Qemu;
  /** Lines that came while nobody waited. */
  readonly #kept: string[] = [];
  #take: ((line: string) => void) | undefined;
  /** Leaves the console to somebody else: QEMU serves one client at a time. */
  close: () => void = () => {};

  private constructor(qemu: Qemu) {
    this.#qemu = qemu;
  }

  static async open(qemu: Qemu): Promise<GuestConsole> {
    const console = new GuestConsole(qemu);
    console.close = await qemu.onConsole((line) => (console.#take ? console.#take(line) : console.#kept.push(line)));
    return console;
  }

  /** The next report of that kind; what comes before is shown. */
  async wait<K extends Kind>(kind: K, step: Step, timeoutMs: number): Promise<Extract<Report, { kind: K }>> {
    const where = `(console: ${this.#qemu.consoleLog})`;
    const isWanted = (report: Report): report is Extract<Report, { kind: K }> => report.kind === kind;
    const found = new Promise<Extract<Report, { kind: K }>>((resolve, reject) => {
      this.#take = (line) => {
        const report = parseReport(line);
        if (report !== undefined && isWanted(report)) {
          this.#take = undefined;
          resolve(report);
        } else {
          show(line, report, step);
        }
      };
      this.#qemu.process.ended.then((status) =>
        reject(new LabError(`QEMU ended with status ${status} ${where}\n${this.#qemu.process.tail()}`)),
      );
    });
    while (this.#take !== undefined && this.#kept.length > 0) {
      this.#take(this.#kept.shift() ?? '');
    }
    return within({ what: `the guest ${where}`, timeoutMs }, found);
  }
}

function show(line: string, report: Report | undefined, step: Step): void {
  if (report?.kind === 'step' || report?.kind === 'other') {
    step.detail(report.text);
    step.progress(report.text);
  } else if (plainText(line) !== '') {
    step.progress(`console: ${plainText(line)}`);
  }
}
