// Prints what the groups do: one line per group, more for what failed (or for everything, with --verbose).
import { add, type Counts, formatCounts, NOTHING } from './counts.js';
import type { Group, Item, Options } from './group.js';

const FAILURE_LINES = 80;

export class Reporter {
  readonly #options: Options;

  constructor(options: Options) {
    this.#options = options;
  }

  async runGroup(group: Group): Promise<Counts> {
    const startedAt = performance.now();
    let total: Counts = NOTHING;
    this.#print(`${group.name} ...`);
    for await (const item of group.run(this.#options)) {
      total = add(total, item.counts);
      this.#report(item);
    }
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    this.#print(`${group.name}: ${formatCounts(total)}   (${seconds} s)`);
    return total;
  }

  #report({ name, counts, output, notes = [] }: Item): void {
    if (counts.failed > 0) {
      this.#print(`  FAILED ${name}: ${formatCounts(counts)}`);
      this.#print(indent(output.trimEnd().split('\n').slice(-FAILURE_LINES)));
    } else if (this.#options.verbose) {
      this.#print(`  ${name}: ${formatCounts(counts)}`);
    }
    if (notes.length > 0) {
      this.#print(indent(notes));
    }
  }

  #print(text: string): void {
    process.stdout.write(`${text}\n`);
  }
}

function indent(lines: readonly string[]): string {
  return lines.map((line) => `    ${line}`).join('\n');
}
