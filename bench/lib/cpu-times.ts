// What the CPUs did since boot, from /proc/stat.
import { readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100;

export interface CpuTimes {
  busyUs: number;
  /** Waiting for a disk is idle. */
  idleUs: number;
}

/** Of these CPUs together; of all without a list. */
export function readCpuTimes(cpus?: readonly number[], text = readFileSync('/proc/stat', 'utf8')): CpuTimes {
  const names = cpus?.map((cpu) => `cpu${cpu}`) ?? ['cpu'];
  let [busy, idle] = [0, 0];
  for (const line of text.split('\n')) {
    const [name = '', ...fields] = line.split(/\s+/);
    if (names.includes(name)) {
      const [user = 0, nice = 0, system = 0, idling = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] =
        fields.map(Number);
      busy += user + nice + system + irq + softirq + steal; // guests are in user
      idle += idling + iowait;
    }
  }
  const ticksToUs = 1e6 / TICKS_PER_SECOND;
  return { busyUs: busy * ticksToUs, idleUs: idle * ticksToUs };
}
