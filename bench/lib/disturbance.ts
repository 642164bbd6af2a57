// Whether other programs use the CPUs that the bench measures on. Client and server stand still between two
// rows: what the CPUs do then is somebody else's. Work in the middle of a row shows in how long loadgen was
// ready to run but had to wait for its CPU.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CPUS } from './network.js';

const SAMPLE_MS = 150;
const BUSY_PERCENT_MAX = 10;
const WAIT_PERCENT_MAX = 5;
const IDLE_FIELD = 4;
const IOWAIT_FIELD = 5;

/** The share of the bench's CPUs that is in use while the bench itself does nothing. */
export async function busyPercent(): Promise<number> {
  const before = readCpuTimes();
  await sleep(SAMPLE_MS);
  const after = readCpuTimes();
  const total = after.total - before.total;
  return total === 0 ? 0 : (1 - (after.idle - before.idle) / total) * 100;
}

export function isDisturbed(busyBefore: number, busyAfter: number, cpuWaitPercent: number): boolean {
  return Math.max(busyBefore, busyAfter) > BUSY_PERCENT_MAX || cpuWaitPercent > WAIT_PERCENT_MAX;
}

function readCpuTimes(): { idle: number; total: number } {
  const watched = Object.values(CPUS).map((cpu) => `cpu${cpu}`);
  let [idle, total] = [0, 0];
  for (const line of readFileSync('/proc/stat', 'utf8').split('\n')) {
    const fields = line.split(' ');
    if (watched.includes(fields[0] ?? '')) {
      idle += Number(fields[IDLE_FIELD]) + Number(fields[IOWAIT_FIELD]);
      total += fields.slice(1).reduce((sum, field) => sum + Number(field), 0);
    }
  }
  return { idle, total };
}
