// What a campaign found: as JSON, and as a table for the terminal or the documentation.

export interface Spread {
  p50: number;
  p99: number;
  max: number;
}

export interface KindResult {
  events: number;
  blackoutMs: Spread;
  /** How often the client's socket was closed: a QEMU would have noticed the event. */
  reconnects: number;
}

export interface CampaignResult {
  seed: number;
  events: number;
  seconds: number;
  ioErrors: number;
  mismatches: number;
  duplicates: number;
  /** Writes acknowledged but not executed. */
  unexecuted: number;
  blackoutMs: Spread;
  kinds: Record<string, KindResult>;
  /** Kinds that this build has no means for. */
  skipped: string[];
  client: { requests: number; acknowledged: number; executed: number; repeated: number };
  guest: { passes: number; blackoutMs: number };
  /** In words, what went wrong. */
  problems: string[];
}

/** One event that happened. */
export interface EventOutcome {
  kind: string;
  blackoutMs: number;
  reconnects: number;
}

export function isClean(result: CampaignResult): boolean {
  const { ioErrors, mismatches, duplicates, unexecuted, problems } = result;
  return ioErrors + mismatches + duplicates + unexecuted + problems.length === 0;
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  // The nearest rank: a value that was measured.
  const rank = (share: number) => round(sorted[Math.max(Math.ceil(share * sorted.length) - 1, 0)] ?? 0);
  return { p50: rank(0.5), p99: rank(0.99), max: rank(1) };
}

export function byKind(outcomes: readonly EventOutcome[]): Record<string, KindResult> {
  const names = [...new Set(outcomes.map(({ kind }) => kind))].sort();
  return Object.fromEntries(
    names.map((name) => {
      const own = outcomes.filter(({ kind }) => kind === name);
      return [
        name,
        {
          events: own.length,
          blackoutMs: spreadOf(own.map(({ blackoutMs }) => blackoutMs)),
          reconnects: own.reduce((sum, { reconnects }) => sum + reconnects, 0),
        },
      ];
    }),
  );
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

const HEADINGS = ['event', 'times', 'p50 ms', 'p99 ms', 'max ms', 'reconnects'];

function rows({ kinds, events, blackoutMs }: CampaignResult): string[][] {
  const row = (name: string, count: number, { p50, p99, max }: Spread, reconnects: number) => [
    ...[name, `${count}`, p50.toFixed(0), p99.toFixed(0), max.toFixed(0), `${reconnects}`],
  ];
  const each = Object.entries(kinds).map(([name, kind]) => row(name, kind.events, kind.blackoutMs, kind.reconnects));
  const reconnects = Object.values(kinds).reduce((sum, kind) => sum + kind.reconnects, 0);
  return [...each, row('all', events, blackoutMs, reconnects)];
}

export function formatTable(result: CampaignResult): string {
  const table = [HEADINGS, ...rows(result)];
  const widths = HEADINGS.map((_, column) => Math.max(...table.map((line) => line[column]?.length ?? 0)));
  const layOut = (line: string[]) =>
    line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ');
  return `${table.map(layOut).join('\n')}\n`;
}

export function formatMarkdown(result: CampaignResult): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const rule = line(HEADINGS.map((_, i) => (i === 0 ? '---' : '---:')));
  return `${[line(HEADINGS), rule, ...rows(result).map(line)].join('\n')}\n\n${formatSummary(result)}\n`;
}

export function formatSummary(result: CampaignResult): string {
  const { client, guest, seconds, seed } = result;
  return [
    `${result.events} events in ${Math.round(seconds)} s (seed ${seed}): ${result.ioErrors} I/O errors,`,
    `${result.mismatches} mismatches, ${result.duplicates} duplicates, ${result.unexecuted} unexecuted;`,
    `${client.acknowledged} writes acknowledged and ${client.executed} executed, ${client.repeated} of them again`,
    `after a crash; ${guest.passes} verified passes in the guest, its longest blackout ${Math.round(guest.blackoutMs)} ms`,
  ].join(' ');
}
