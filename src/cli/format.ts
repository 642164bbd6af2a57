// Text for humans: sizes, tables, errors.
import { IO_TIMEOUT_MS_MAX } from '../config/rules.js';
import { sizeOf } from '../config/size.js';
import { type OutriggerError, refuse } from '../errors.js';

export { formatSize } from '../config/size.js';

/** Bytes of `10G`, `512M`, `4096`: binary units, at most a fraction that is whole in bytes. */
export function parseSize(text: string, option: string): number {
  const bytes = sizeOf(text) ?? 0;
  if (bytes <= 0) {
    throw refuse('usage', `${option} ${text} is not a size such as 512M, 10G or 1.5T (binary units)`, { command: '' });
  }
  return bytes;
}

const DURATIONS: Record<string, number> = { ms: 1, s: 1000, min: 60_000, m: 60_000, h: 3_600_000 };

/** Milliseconds of `500ms`, `30s`, `5min`, `1h`; 0 for `none`. */
export function parseTimeout(text: string, option: string): number {
  if (text.trim() === 'none') {
    return 0;
  }
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)$/.exec(text.trim());
  const ms = match === null ? Number.NaN : Number(match[1]) * (DURATIONS[match[2] ?? ''] ?? Number.NaN);
  if (!Number.isSafeInteger(ms) || ms <= 0 || ms > IO_TIMEOUT_MS_MAX) {
    throw refuse('usage', `${option} ${text} is not a time such as 500ms, 30s or 5min, of at most a day, or none`, {
      command: '',
    });
  }
  return ms;
}

export function formatTimeout(ms: number): string {
  return ms === 0 ? 'none' : ms % 1000 === 0 ? `${ms / 1000} s` : `${ms} ms`;
}

export function formatDuration(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  return first === -1
    ? '0 s'
    : parts
        .slice(first, first + 2)
        .map(([value, unit]) => `${value} ${unit}`)
        .join(' ');
}

/** Columns as wide as they need to be; '' for no rows so that the caller can say why. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd();
  return [header, ...rows].map((row) => `${line(row)}\n`).join('');
}

/** Names and values, one pair per line. */
export function formatPairs(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([key]) => key.length));
  return pairs.map(([key, value]) => `${key.padEnd(width)}  ${value}\n`).join('');
}

/** `error: what` and, below, `hint: how to mend it`. */
export function formatError(error: OutriggerError): string {
  return `error: ${error.message} (${error.code})\n  hint: ${error.hint}\n`;
}
