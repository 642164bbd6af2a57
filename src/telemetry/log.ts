// The log of a supervisor: one line per event on stderr, `LEVEL event key=value ...`. Under systemd the
// journal adds the time, so only a terminal gets one; there, levels are coloured.

export type LogLevel = 'info' | 'warn' | 'error';
export type LogFields = Record<string, string | number | boolean | null | undefined>;

export interface Logger {
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
}

export interface LogSink {
  write(text: string): unknown;
  isTTY?: boolean;
}

const COLOUR: Record<LogLevel, string> = { info: '\x1b[32m', warn: '\x1b[33m', error: '\x1b[31m' };

/** Quotes a value only when it holds what would make the line ambiguous. */
function formatValue(value: string | number | boolean | null): string {
  const text = String(value);
  return /^[^\s"=]+$/.test(text) ? text : JSON.stringify(text);
}

export function formatFields(fields: LogFields): string {
  return Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}=${formatValue(value as string | number | boolean | null)}`)
    .join('');
}

export function createLogger(sink: LogSink): Logger {
  const line = (level: LogLevel, event: string, fields: LogFields = {}) => {
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
