// Prometheus text out of nested counters. The engine's `stats` is an object of numbers; names of keys become
// names of metrics, except below the keys of LABELS, where the next key is a label:
// {server: {refused: {digest: 3}}} -> outrigger_engine_server_refused{reason="digest"} 3

export interface Nested {
  [key: string]: number | Nested;
}

const LABELS: Readonly<Record<string, string>> = {
  refused: 'reason',
  dropped: 'reason',
  workers: 'worker',
  volumes: 'volume',
  devices: 'device',
  nics: 'nic',
  hosts: 'host',
};

/** Counters of the same kind added up. */
export function sumCounters(a: Nested, b: Nested): Nested {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...keys].map((key) => [key, sum(a[key], b[key])]));
}

function sum(a: number | Nested = {}, b: number | Nested = {}): number | Nested {
  return typeof a === 'object' && typeof b === 'object' ? sumCounters(a, b) : numberOf(a) + numberOf(b);
}

const numberOf = (value: number | Nested) => (typeof value === 'number' ? value : 0);

/** The counter at the end of a path of keys; 0 when there is none. */
export function counterOf(nested: Nested, path: readonly string[]): number {
  const found = path.reduce<number | Nested | undefined>(
    (at, key) => (typeof at === 'object' ? at[key] : undefined),
    nested,
  );
  return typeof found === 'number' ? found : 0;
}

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

function snakeCase(key: string): string {
  return key
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^A-Za-z0-9_]/g, '_')
    .toLowerCase();
}

/** Flattens nested counters under a metric name prefix. */
export function flatten(prefix: string, nested: Nested, labels: Record<string, string> = {}): Sample[] {
  return Object.entries(nested).flatMap(([key, value]) => {
    const name = `${prefix}_${snakeCase(key)}`;
    if (typeof value === 'number') {
      return [{ name, labels, value }];
    }
    const label = LABELS[key];
    if (label === undefined) {
      return flatten(name, value, labels);
    }
    return Object.entries(value).flatMap(([labelValue, inner]) => {
      const labelled = { ...labels, [label]: labelValue };
      return typeof inner === 'number' ? [{ name, labels: labelled, value: inner }] : flatten(name, inner, labelled);
    });
  });
}

function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');
}

/** The text format 0.0.4: samples of one name stand together, as the format demands, and `_total` ends a counter's. */
export function toPrometheus(samples: readonly Sample[]): string {
  const byName = new Map<string, string[]>();
  for (const { name, labels, value } of samples) {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
    const line = `${name}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${value}`;
    byName.set(name, [...(byName.get(name) ?? []), line]);
  }
  const typeOf = (name: string) => (name.endsWith('_total') ? 'counter' : 'untyped');
  return [...byName].map(([name, lines]) => `# TYPE ${name} ${typeOf(name)}\n${lines.join('\n')}\n`).join('');
}
