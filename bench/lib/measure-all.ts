// All systems, all rounds: which workloads against which far ends, and the rows that come of it.
import { Cleanup } from '../../test/lab/cleanup.js';
import { Files } from './files.js';
import { measureSystem } from './measure.js';
import { Progress } from './progress.js';
import { keyOf, type Measured, type Row, rowOf } from './row.js';
import type { Integrity, ServerKind, System } from './system.js';
import type { Workload } from './workloads.js';

/** One far end to start, and what to measure against it. */
export interface Stop {
  system: System;
  mtu: number;
  integrity: Integrity;
  vms: number;
  workers: number;
  workloads: readonly Workload[];
}

export interface Plan {
  stops: readonly Stop[];
  seconds: number;
  repeat: number;
  volumeMib: number;
  server: ServerKind;
}

/** Repeats go round all systems, so that a slow minute of the machine does not hit one of them only. */
export async function measureAll(plan: Plan, cleanup: Cleanup): Promise<Row[]> {
  const { seconds, repeat, volumeMib, server } = plan;
  const stops = plan.stops.filter(({ workloads }) => workloads.length > 0);
  const files = new Files(volumeMib * 1024 * 1024, cleanup);
  const progress = new Progress(repeat * stops.reduce((sum, { workloads }) => sum + workloads.length, 0));
  const measured = new Map<string, Measured[]>();
  for (let round = 0; round < repeat; round++) {
    for (const { system, workloads, ...where } of stops) {
      const own = new Cleanup();
      cleanup.add(() => own.run());
      const visit = { ...where, server, files, cleanup: own };
      for (const row of await measureSystem(system, visit, workloads, seconds, progress)) {
        measured.set(keyOf(row), [...(measured.get(keyOf(row)) ?? []), row]);
      }
      own.run();
      files.dropShared();
    }
  }
  progress.clear();
  return [...measured.values()].map(rowOf);
}
