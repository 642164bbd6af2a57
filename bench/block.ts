// Question: how fast is a block volume behind Outrigger, compared with its peers and its limits?
//
// All systems are measured by the same program (native/load.c) in the same run, over the same veth
// pair: the client on one CPU, the far end on another. README.md tells the method.
import { mkdirSync, writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { formatAims } from './lib/aims.js';
import { formatComparison } from './lib/compare.js';
import { BenchError } from './lib/errors.js';
import { loadgenProgram } from './lib/loadgen.js';
import { describeMachine } from './lib/machine.js';
import { measureAll, type Stop } from './lib/measure-all.js';
import { writeReport } from './lib/report/write.js';
import { makeResult, readResult, writeResult } from './lib/result.js';
import type { ServerKind } from './lib/system.js';
import { SYSTEMS } from './lib/systems.js';
import { formatTables } from './lib/table.js';
import { SWEEPS, sameWorkload, selectWorkloads, type Workload } from './lib/workloads.js';

export interface BlockOptions {
  seconds: number;
  repeat: number;
  mtus: readonly number[];
  systems: readonly string[];
  sweeps: readonly string[];
  vms: readonly number[];
  workers: readonly number[];
  only: readonly string[];
  integrities: readonly string[];
  volumeMib: number;
  server: ServerKind;
  json: string | undefined;
  report: string | undefined;
  compare: string | undefined;
  /** As it was given, to stand in the result. */
  command: string;
}

export async function benchBlock(options: BlockOptions): Promise<void> {
  const workloads = selectWorkloads(options.sweeps, options.only);
  const stops = planStops(options, workloads);
  // What would fail after minutes shall fail now.
  loadgenProgram();
  const old = options.compare === undefined ? undefined : readResult(options.compare);
  const started = new Date().toISOString();
  const machine = describeMachine();
  if (options.report !== undefined) {
    mkdirSync(options.report, { recursive: true });
  }
  const files = [options.json, options.report && `${options.report}/result.json`].filter((file) => file !== undefined);
  for (const file of files) {
    writeFileSync(file, '{}\n');
  }
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const rows = await measureAll({ ...options, stops }, cleanup);
    const { command, seconds } = options;
    const cpus = Object.fromEntries(stops.map(({ system }) => [system.name, system.cpus]));
    const result = makeResult({ started, command, seconds, machine, cpus, rows });
    for (const file of files) {
      writeResult(file, result);
    }
    process.stdout.write(formatTables(rows, workloads) + formatCpus(cpus) + formatAims(rows));
    if (old !== undefined) {
      process.stdout.write(formatComparison(old, result, options.compare ?? ''));
    }
    if (options.report !== undefined) {
      process.stdout.write(`\nReport: ${writeReport(options.report, [result])}\n`);
    }
  } finally {
    cleanup.run();
  }
}

function planStops({ systems, mtus, integrities, vms, workers }: BlockOptions, workloads: readonly Workload[]): Stop[] {
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
              .flatMap((count) =>
                workers
                  .filter((some) => some === 1 || system.hasWorkers)
                  .map((some) => ({ system, mtu: system.remote ? mtu : 0, integrity, vms: count, workers: some })),
              ),
          ),
      )
      .map((where) => ({ ...where, workloads: workloads.filter((workload) => isMeasured(workload, where)) })),
  );
  if (stops.length === 0) {
    throw new BenchError('--systems, --integrity, --vms and --workers leave nothing to measure');
  }
  return stops;
}

/** Sweeps are for one VM and worker: every depth and block with every number of them would take hours. */
function isMeasured(workload: Workload, { system, mtu, vms, workers }: Omit<Stop, 'workloads'>): boolean {
  const fits = workload.bs <= (system.largestBs?.(mtu) ?? workload.bs);
  return fits && ((vms === 1 && workers === 1) || SWEEPS.standard.some((other) => sameWorkload(other, workload)));
}

/** Which programs ran where: systems that share a CPU among two are compared with those that do not. */
function formatCpus(cpus: Record<string, string>): string {
  const lines = Object.entries(cpus).map(([system, where]) => `  ${system}: ${where}`);
  return `\nCPUs:\n${lines.join('\n')}\n`;
}
