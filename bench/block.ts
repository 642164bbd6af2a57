// Question: how fast is a block volume behind Outrigger, compared with its peers and its limits?
//
// All systems are measured by the same program (native/load.c) in the same run, over the same veth
// pair: the client on one CPU, the far end on another. README.md tells the method.
import { writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { formatAims } from './lib/aims.js';
import { BenchError } from './lib/errors.js';
import { Files } from './lib/files.js';
import { loadgenProgram } from './lib/loadgen.js';
import { measureSystem } from './lib/measure.js';
import { Progress } from './lib/progress.js';
import { keyOf, type Measured, type Row, rowOf } from './lib/row.js';
import type { Integrity, ServerKind, System } from './lib/system.js';
import { SYSTEMS } from './lib/systems.js';
import { formatTables } from './lib/table.js';
import { selectWorkloads, type Workload } from './lib/workloads.js';

export interface BlockOptions {
  seconds: number;
  repeat: number;
  mtus: readonly number[];
  systems: readonly string[];
  sweeps: readonly string[];
  vms: readonly number[];
  only: readonly string[];
  integrities: readonly string[];
  volumeMib: number;
  server: ServerKind;
  json: string | undefined;
}

/** One far end to start, and what to measure against it. */
interface Stop {
  system: System;
  mtu: number;
  integrity: Integrity;
  vms: number;
}

export async function benchBlock(options: BlockOptions): Promise<void> {
  const workloads = selectWorkloads(options.sweeps, options.only);
  const stops = planStops(options);
  // What would fail after minutes shall fail now.
  loadgenProgram();
  if (options.json !== undefined) {
    writeFileSync(options.json, '[]\n');
  }
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const rows = await measureAll(options, stops, workloads, cleanup);
    process.stdout.write(formatTables(rows, workloads));
    process.stdout.write(formatCpus(stops));
    process.stdout.write(formatAims(rows));
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify(rows, null, 1)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

function planStops({ systems, mtus, integrities, vms }: BlockOptions): Stop[] {
  const known = SYSTEMS.map(({ name }) => name);
  const unknown = systems.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new BenchError(`--systems: there is no ${unknown}; there are ${known.join(', ')}`);
  }
  const chosen = SYSTEMS.filter(({ name, byDefault }) => (systems.length > 0 ? systems.includes(name) : byDefault));
  const stops = mtus.flatMap((mtu, index) =>
    chosen
      .filter(({ remote }) => remote || index === 0)
      .flatMap((system) =>
        system.integrities
          .filter((integrity) => integrity === 'none' || integrities.includes(integrity))
          .flatMap((integrity) =>
            vms
              .filter((count) => count === 1 || system.kind === 'vm')
              .map((count) => ({ system, mtu: system.remote ? mtu : 0, integrity, vms: count })),
          ),
      ),
  );
  if (stops.length === 0) {
    throw new BenchError('--systems, --integrity and --vms leave nothing to measure');
  }
  return stops;
}

/** Repeats go round all systems, so that a slow minute of the machine does not hit one of them only. */
async function measureAll(
  options: BlockOptions,
  stops: readonly Stop[],
  workloads: readonly Workload[],
  cleanup: Cleanup,
): Promise<Row[]> {
  const files = new Files(options.volumeMib * 1024 * 1024, cleanup);
  const progress = new Progress(options.repeat * stops.length * workloads.length);
  const measured = new Map<string, Measured[]>();
  for (let round = 0; round < options.repeat; round++) {
    for (const { system, ...where } of stops) {
      const own = new Cleanup();
      cleanup.add(() => own.run());
      const visit = { ...where, server: options.server, files, cleanup: own };
      const fitting = workloads.filter(({ bs }) => bs <= (system.largestBs?.(where.mtu) ?? bs));
      for (const row of await measureSystem(system, visit, fitting, options.seconds, progress)) {
        measured.set(keyOf(row), [...(measured.get(keyOf(row)) ?? []), row]);
      }
      own.run();
      files.dropShared();
    }
  }
  progress.clear();
  return [...measured.values()].map(rowOf);
}

/** Which programs ran where: systems that share a CPU among two are compared with those that do not. */
function formatCpus(stops: readonly Stop[]): string {
  const lines = [...new Set(stops.map(({ system }) => `  ${system.name}: ${system.cpus}`))];
  return `\nCPUs:\n${lines.join('\n')}\n`;
}
