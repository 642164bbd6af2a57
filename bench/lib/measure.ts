// One visit to a system: it is started, filled, measured with each workload, and ended.
import { messageOf } from '../../test/lab/errors.js';
import { busyPercent, isDisturbed } from './disturbance.js';
import { BenchError } from './errors.js';
import { FILL, parseResult, type Result, runLoadgen } from './loadgen.js';
import type { Progress } from './progress.js';
import { describeSystem, type Measured } from './row.js';
import type { System, Target, Visit } from './system.js';
import { describeWorkload, type Workload } from './workloads.js';

/** How often a row is measured at most while other programs disturb it. */
const TRIES = 2;

export async function measureSystem(
  system: System,
  visit: Visit,
  workloads: readonly Workload[],
  seconds: number,
  progress: Progress,
): Promise<Measured[]> {
  const { mtu, integrity, vms, workers } = visit;
  const where = { system: system.name, mtu, integrity, vms, workers };
  const target = await system.open(visit);
  const rows: Measured[] = [];
  try {
    if (system.needsFill) {
      for (const fill of target.fills ?? [target.args]) {
        await runLoadgen([...fill, ...FILL], target.wrap);
      }
      await target.settled?.();
    }
    for (const workload of workloads) {
      progress.step(`${describeSystem(where)}: ${describeWorkload(workload)}`);
      rows.push({ ...where, ...workload, ...(await measure(target, measureArgs(workload, target, seconds))) });
    }
  } catch (error) {
    const log = target.log();
    throw new BenchError(`${system.name}: ${messageOf(error)}${log === '' ? '' : `\nits server said:\n${log}`}`);
  }
  await target.stop();
  return rows;
}

/** Measures again when other programs disturbed; returns the last result. */
async function measure(target: Target, args: readonly string[]): Promise<Result & { disturbed: boolean }> {
  let busyBefore = await busyPercent();
  for (let attempt = 1; ; attempt++) {
    const result = parseResult(await runLoadgen(args, target.wrap));
    const busyAfter = await busyPercent();
    const waited = target.sharesCpu ? 0 : result.cpu_wait_percent;
    const disturbed = isDisturbed(busyBefore, busyAfter, waited);
    if (!disturbed || attempt === TRIES) {
      return { ...result, disturbed };
    }
    busyBefore = busyAfter;
  }
}

export function measureArgs(
  { op, bs, qd }: Workload,
  { args, pids, agentPids = [] }: Target,
  seconds: number,
): string[] {
  return [
    ...args,
    ...['--op', op, '--bs', String(bs), '--qd', String(qd), '--seconds', String(seconds), '--json', '--histogram'],
    ...(pids.length > 0 ? ['--server-pid', pids.join()] : []),
    ...(agentPids.length > 0 ? ['--agent-pid', agentPids.join()] : []),
  ];
}
