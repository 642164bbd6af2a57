// The log of a supervisor: one line per event on stderr, `LEVEL event key=value ...`, and the same in the ring
// that the REST interface serves. Under systemd the journal adds the time, so only a terminal gets one; there,
// levels are coloured.
import type { EventFields, EventKind, EventLog, LogLevel, LogValue } from './events.js';

export type LogFields = Record<string, LogValue | undefined>;

export interface Logger {
  info<K extends EventKind>(event: K, fields?: EventFields<K>): void;
  warn<K extends EventKind>(event: K, fields?: EventFields<K>): void;
  error<K extends EventKind>(event: K, fields?: EventFields<K>): void;
}

export interface LogSink {
  write(text: string): unknown;
  isTTY?: boolean;
}

const COLOUR: Record<LogLevel, string> = { info: '\x1b[32m', warn: '\x1b[33m', error: '\x1b[31m' };

/** Quotes a value only when it holds what would make the line ambiguous. */
function formatValue(value: LogValue): string {
  const text = String(value);
  return /^[^\s"=\p{Cc}]+$/u.test(text) ? text : JSON.stringify(text);
}

export function formatFields(fields: LogFields): string {
  return Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}=${formatValue(value as LogValue)}`)
    .join('');
}

export function createLogger(sink: LogSink, events: EventLog): Logger {
  const line = <K extends EventKind>(level: LogLevel, event: K, fields: EventFields<K> = {}) => {
    events.add(level, event, fields);
    const rest = `${event}${formatFields(fields)}\n`;
    if (sink.isTTY) {
      const time = new Date().toISOString().slice(11, 23);
      sink.write(`${time} ${COLOUR[level]}${level.padEnd(5)}\x1b[0m ${rest}`);
    } else {
      sink.write(`${level} ${rest}`);
    }
  };
  return {
    info: (event, fields) => line('info', event, fields),
    warn: (event, fields) => line('warn', event, fields),
    error: (event, fields) => line('error', event, fields),
  };
}
