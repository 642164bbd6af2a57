// The load generator as the driver sees it: where it is, how it is run, what it prints.
import { existsSync } from 'node:fs';
import { type Argv, run } from '../../test/lab/command.js';
import { repoRoot } from '../../test/lab/paths.js';
import { BenchError } from './errors.js';

const FIELDS = [
  ...(['iops', 'p50_us', 'p99_us', 'p999_us', 'max_us', 'mbps'] as const),
  ...(['client_cpu_us_per_io', 'agent_cpu_us_per_io', 'server_cpu_us_per_io', 'cpu_wait_percent', 'errors'] as const),
];

/** A bucket: the most nanoseconds that its operations took, and how many they are. */
export type Bucket = readonly [ns: number, count: number];

export type Figures = Record<(typeof FIELDS)[number], number>;

export interface Result extends Figures {
  /** Empty where it was not asked for. */
  latency_ns: Bucket[];
}

/** Arguments that make it write the whole volume and do nothing else. */
export const FILL = ['--op', 'write', '--bs', '128k', '--qd', '8', '--fill', '--seconds', '0'] as const;

export function loadgenProgram(): string {
  const file = process.env.OUTRIGGER_LOADGEN ?? `${repoRoot}/build-rel/loadgen`;
  if (!existsSync(file)) {
    throw new BenchError(`${file} is missing: start with \`npm run bench\`, or set OUTRIGGER_LOADGEN to where it is`);
  }
  return file;
}

/** Runs it to its end, in a session of its own, which `wrap` may give a priority. `wrap` says where. */
export async function runLoadgen(args: readonly string[], wrap = (argv: Argv): Argv => argv): Promise<string> {
  const { status, stdout, stderr } = await run(['setsid', ...wrap([loadgenProgram(), ...args])], 3_600_000);
  if (status !== 0) {
    throw new BenchError(stderr.trim() || `loadgen reported errors: ${stdout.trim()}`);
  }
  return stdout;
}

export function parseResult(output: string): Result {
  const fields = JSON.parse(output) as Record<string, unknown>;
  const entries = FIELDS.map((name) => {
    const value = fields[name];
    if (typeof value !== 'number') {
      throw new BenchError(`loadgen printed no ${name}: ${output}`);
    }
    return [name, value] as const;
  });
  return { ...(Object.fromEntries(entries) as Figures), latency_ns: (fields.latency_ns ?? []) as Bucket[] };
}
