// Whether other programs use the CPUs that the bench measures on. Client and server stand still between two
// rows: what the CPUs do then is somebody else's. Work in the middle of a row shows in how long loadgen was
// ready to run but had to wait for its CPU.
import { setTimeout as sleep } from 'node:timers/promises';
import { readCpuTimes } from './cpu-times.js';
import { CPUS } from './network.js';

const SAMPLE_MS = 150;
const BUSY_PERCENT_MAX = 10;
const WAIT_PERCENT_MAX = 5;

/** The share of the bench's CPUs that is in use while the bench itself does nothing. */
export async function busyPercent(): Promise<number> {
  const before = readCpuTimes(Object.values(CPUS));
  await sleep(SAMPLE_MS);
  const after = readCpuTimes(Object.values(CPUS));
  const busy = after.busyUs - before.busyUs;
  const total = busy + after.idleUs - before.idleUs;
  return total === 0 ? 0 : (busy / total) * 100;
}

export function isDisturbed(busyBefore: number, busyAfter: number, cpuWaitPercent: number): boolean {
  return Math.max(busyBefore, busyAfter) > BUSY_PERCENT_MAX || cpuWaitPercent > WAIT_PERCENT_MAX;
}
