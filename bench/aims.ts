// Question: what does Outrigger reach of what it aims at? One run that measures all that the aims compare (lib/aims.ts),
// with hogs and idle, and prints them as one table: `mac` beside `crc`, because the peers check nothing.
import { writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { type HogsRow, judgeHogs, measureHogs } from './hogs.js';
import { IDLE_AIM_PERCENT, type Idle, isIdleEnough, measureIdle } from './idle.js';
import { judge, type Verdict } from './lib/aims.js';
import { loadgenProgram } from './lib/loadgen.js';
import { describeMachine } from './lib/machine.js';
import { measureAll, type Stop } from './lib/measure-all.js';
import type { Row } from './lib/row.js';
import { SYSTEMS } from './lib/systems.js';
import { formatTables } from './lib/table.js';
import { SWEEPS, type Workload } from './lib/workloads.js';

const MTU = 9000;
const LARGE_MTU = 65535;
const IDLE_DISKS = 16;
const IDLE_SECONDS = 20;
const VOLUME_MIB = 256;
const HOGS_ROUNDS = 1;

const PROTECTIONS = ['mac', 'crc'] as const;
const REMOTE = ['outrigger-ram', 'qemu-nbd', 'nbdkit-file', 'nbdkit-memory', 'tcp-echo', 'port-echo'];
const VM = ['outrigger-vm', 'qsd-vm-memory'];
const FILE = ['outrigger-file', 'local-file'];

export interface AimsOptions {
  seconds: number;
  repeat: number;
  json: string | undefined;
  command: string;
}

export async function benchAims({ seconds, repeat, json, command }: AimsOptions): Promise<void> {
  loadgenProgram();
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const started = new Date().toISOString();
  const machine = describeMachine();
  try {
    const plan = { stops: planAims(), seconds, repeat, volumeMib: VOLUME_MIB, server: 'engine' } as const;
    const rows = await measureAll(plan, cleanup);
    const hogs = await measureHogs({ seconds, repeat: HOGS_ROUNDS, integrity: 'crc', json: undefined }, cleanup);
    const idle = await measureIdle(IDLE_SECONDS, IDLE_DISKS, cleanup);
    process.stdout.write(`${formatTables(rows, SWEEPS.standard)}\n${formatAimsTable(rows, hogs, idle)}`);
    if (json !== undefined) {
      const aims = judge(rows);
      const result = { bench: 'aims', started, command, seconds, repeat, machine, aims, hogs, idle, rows };
      writeFileSync(json, `${JSON.stringify(result, null, 1)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

/** What has no aim at the larger frames, or in a VM, is not measured there. */
function planAims(): Stop[] {
  const all = SWEEPS.standard;
  return [
    ...stopsOf(REMOTE, MTU, all),
    ...stopsOf(
      REMOTE,
      LARGE_MTU,
      all.filter(({ qd }) => qd > 1),
    ),
    ...stopsOf(
      VM,
      MTU,
      all.filter(({ bs }) => bs === 4096),
    ),
    ...stopsOf(
      FILE,
      MTU,
      all.filter(({ qd }) => qd === 32),
    ),
  ];
}

function stopsOf(names: readonly string[], mtu: number, workloads: readonly Workload[]): Stop[] {
  return names.flatMap((name) => {
    const system = SYSTEMS.find((other) => other.name === name);
    if (system === undefined) {
      throw new Error(`there is no system ${name}`);
    }
    const integrities = system.integrities.includes('none') ? (['none'] as const) : PROTECTIONS;
    return integrities.map((integrity) => ({
      system,
      mtu: system.remote ? mtu : 0,
      integrity,
      vms: 1,
      workers: 1,
      workloads,
    }));
  });
}

interface Line {
  what: string;
  aim: string;
  /** By protection; `none` where it is not about one. */
  reached: Map<string, Pick<Verdict, 'met' | 'ratio'>>;
}

/** Markdown, so that it can be kept. */
export function formatAimsTable(rows: readonly Row[], hogs: readonly HogsRow[], idle: Idle): string {
  const lines = gather(judge(rows));
  const show = ({ reached }: Line, protection: string) => {
    const verdict = reached.get(protection);
    return verdict === undefined ? '' : `${verdict.ratio.toFixed(2)}x ${verdict.met ? 'met' : 'missed'}`;
  };
  const together = idle.percent_of_one_core.together ?? 0;
  const idleIs = `${together.toFixed(2)} % ${isIdleEnough(idle) ? 'met' : 'missed'}`;
  return [
    '| what | aim | `mac` | `crc` |',
    '|---|---|---|---|',
    ...lines.map((line) => `| ${line.what} | ${line.aim} | ${show(line, 'mac')} | ${show(line, 'crc')} |`),
    ...judgeHogs(hogs).map(
      ({ row, aim, ratio, met }) =>
        `| ${row}, a hog on each core | ${aim} | | ${ratio.toFixed(2)}x ${met ? 'met' : 'missed'} |`,
    ),
    `| idle, ${idle.disks} disks | below ${IDLE_AIM_PERCENT} % of one core, both sides together | ${idleIs} | |`,
    '',
  ].join('\n');
}

/** One line for the same aim on the same workload. */
function gather(verdicts: readonly Verdict[]): Line[] {
  const lines = new Map<string, Line>();
  for (const { aim, system, workload, mtu, integrity, met, ratio } of verdicts) {
    const what = `${system}, ${workload}, MTU ${mtu}`;
    const line = lines.get(what + aim) ?? { what, aim, reached: new Map() };
    line.reached.set(integrity, { met, ratio });
    lines.set(what + aim, line);
  }
  return [...lines.values()];
}
