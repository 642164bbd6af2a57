// Question: what does an idle system cost? A whole I/O hypervisor and host agent, with a session and attached disks
// but no guest, should take less than 1 % of one core together.
//
// CPU time is read from the kernel's scheduler statistics of every thread, to the nanosecond.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cleanup } from '../test/lab/cleanup.js';
import { HOST_NAME, Outrigger } from '../test/lab/outrigger.js';
import { waitFor } from '../test/lab/wait.js';

export const IDLE_AIM_PERCENT = 1;
const DISKS_MS = 60_000;
/** After set-up, until caches are warm and just-in-time compilation has calmed down. */
const SETTLE_MS = 30_000;

export interface IdleOptions {
  seconds: number;
  disks: number;
  json: string | undefined;
}

export interface Idle {
  seconds: number;
  disks: number;
  /** By process, and `together`. */
  percent_of_one_core: Record<string, number>;
}

export async function benchIdle({ seconds, disks, json }: IdleOptions): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const idle = await measureIdle(seconds, disks, cleanup);
    for (const [name, share] of Object.entries(idle.percent_of_one_core)) {
      process.stdout.write(`${name.replace('_', ' ').padEnd(16)} ${share.toFixed(3).padStart(8)} % of one core\n`);
    }
    process.stdout.write(
      `aim with ${disks} disks: below ${IDLE_AIM_PERCENT} % together: ${isIdleEnough(idle) ? 'met' : 'missed'}\n`,
    );
    if (json !== undefined) {
      writeFileSync(json, `${JSON.stringify(idle)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

export function isIdleEnough({ percent_of_one_core: percent }: Idle): boolean {
  return (percent.together ?? 0) < IDLE_AIM_PERCENT;
}

export async function measureIdle(seconds: number, disks: number, cleanup: Cleanup): Promise<Idle> {
  const lab = await Outrigger.open({ mtu: 9000, cleanup });
  await lab.startBoth();
  for (let index = 0; index < disks; index++) {
    await lab.cli('iohv', 'volume', 'create', `idle${index}`, '--size', '64M');
    await lab.cli('iohv', 'attach', `vm${index}`, '--host', HOST_NAME, '--disk', `idle${index}`);
  }
  await waitFor({ what: 'the disks on the host', timeoutMs: DISKS_MS }, async () => {
    const there = (await lab.hostStatus()).vms.flatMap((vm) => vm.disks);
    return there.filter(({ state }) => state === 'listening').length === disks;
  });
  const processes = {
    iohv_supervisor: lab.supervisor('iohv').pid,
    iohv_engine: await lab.enginePid('iohv'),
    host_supervisor: lab.supervisor('host').pid,
    host_engine: await lab.enginePid('host'),
  };
  await sleep(SETTLE_MS);
  const percent = await measure(processes, seconds);
  const together = Object.values(percent).reduce((sum, share) => sum + share, 0);
  await lab.stop();
  return { seconds, disks, percent_of_one_core: { ...percent, together } };
}

async function measure(processes: Record<string, number>, seconds: number): Promise<Record<string, number>> {
  const before = Object.values(processes).map(cpuTimeNs);
  const start = process.hrtime.bigint();
  await sleep(seconds * 1000);
  const elapsed = Number(process.hrtime.bigint() - start);
  return Object.fromEntries(
    Object.entries(processes).map(([name, pid], index) => {
      const used = cpuTimeNs(pid) - (before[index] ?? 0);
      return [name, (used / elapsed) * 100];
    }),
  );
}

/** Nanoseconds of CPU that the living threads of a process have used. */
function cpuTimeNs(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => {
    const [onCpu] = readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ');
    return sum + Number(onCpu);
  }, 0);
}
