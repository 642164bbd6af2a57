// Question: what do the small operations cost of which everything consists? In C (native/micro): digests, wire, rings,
// overlap rule. In JavaScript (lib/micro-js.ts): the border to the C core, documents, the portable form of volumes.
import { existsSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Cleanup } from '../test/lab/cleanup.js';
import { type Argv, run } from '../test/lab/command.js';
import { SEGMENT_INTERFACE, Segment } from '../test/lab/netns.js';
import { repoRoot } from '../test/lab/paths.js';
import { BenchError } from './lib/errors.js';
import type { MicroResult } from './lib/micro-case.js';
import { onServerCpu } from './lib/system.js';
import { layOut } from './lib/table.js';

const MICRO = `${repoRoot}/build-rel/micro`;
const MICRO_JS = fileURLToPath(new URL('./lib/micro-js.js', import.meta.url));
const MTU = 9000;
const TIMEOUT_MS = 600_000;

export interface MicroOptions {
  only: string;
  json: string | undefined;
}

export async function benchMicro({ only, json }: MicroOptions): Promise<void> {
  if (!existsSync(MICRO)) {
    throw new BenchError(`${MICRO} is missing: start with \`npm run bench\``);
  }
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const segment = Segment.open(MTU, cleanup);
    const results = [
      ...(await measure(onServerCpu([MICRO, only]))),
      // Its worker has a thread of its own, so it is not pinned to one CPU.
      ...(await measure(segment.wrap('iohv', [process.execPath, MICRO_JS, SEGMENT_INTERFACE, only]))),
    ];
    if (results.length === 0) {
      throw new BenchError(`--only ${only}: there is no such case`);
    }
    process.stdout.write(formatMicro(results));
    if (json !== undefined) {
      writeFileSync(json, `${JSON.stringify(results, null, 1)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

async function measure(argv: Argv): Promise<MicroResult[]> {
  const { status, stdout, stderr } = await run(['setsid', ...argv], TIMEOUT_MS);
  if (status !== 0) {
    throw new BenchError(stderr.trim() || `${argv.join(' ')}: ended with status ${status}`);
  }
  const lines = stdout.split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as MicroResult);
}

export function formatMicro(results: readonly MicroResult[]): string {
  const lines = results.map(({ group, name, bytes, ns, ns_min, ns_max }) => [
    ...[group, name, bytes === 0 ? '-' : bytes.toLocaleString('en')],
    ...[ns, ns_min, ns_max].map((value) => formatNs(value)),
    bytes === 0 ? '-' : (bytes / ns).toFixed(2),
  ]);
  return `${layOut([['', 'operation', 'bytes', 'ns', 'fastest', 'slowest', 'GB/s'], ...lines], 2).join('\n')}\n`;
}

function formatNs(value: number): string {
  return value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString('en');
}
