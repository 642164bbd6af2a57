// What a campaign does to a running system. Each kind leaves it whole again: what it kills is started anew
// by whoever would do so in reality (an engine by its supervisor; a supervisor by systemd, whose part is
// played here), a cable is plugged in again.
import { setTimeout as sleep } from 'node:timers/promises';
import { LabError } from '../lab/errors.js';
import type { Side } from '../lab/netns.js';
import type { Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import type { Random } from './random.js';

const UP_TIMEOUT_MS = 60_000;
const RESTART_MS = [100, 1000] as const;
const CUT_MS = [1000, 3000] as const;
const FLAP_MS = [20, 300] as const;
const FLAPS = [3, 8] as const;
const MOVE_ROUNDS = [2, 6] as const;
const MOVE_PAUSE_MS = [0, 60] as const;

/** While nothing could get through, in process.hrtime's nanoseconds. */
export interface Outage {
  fromNs: bigint;
  toNs: bigint;
}

export interface Kind {
  name: string;
  /** False when this build has no means for it. */
  isPossible(lab: Outrigger): Promise<boolean>;
  /** Resolves when everything runs again; I/O need not flow yet. */
  inject(lab: Outrigger, random: Random): Promise<Outage[]>;
}

type Victim = readonly [Side, 'engine' | 'supervisor'];

const always = async () => true;

async function whole(lab: Outrigger, deadEngines: readonly number[]): Promise<void> {
  await waitFor({ what: 'both engines to run again', timeoutMs: UP_TIMEOUT_MS }, async () => {
    const engines = [(await lab.tryStatus('iohv'))?.engine, (await lab.tryStatus('host'))?.engine];
    return engines.every((e) => e?.state === 'running' && e.pid !== null && !deadEngines.includes(e.pid));
  });
  await lab.waitForSession();
}

/** All of them at the same time. */
function kill(name: string, ...victims: Victim[]): Kind {
  return {
    name,
    isPossible: always,
    async inject(lab, random) {
      const engines: number[] = [];
      for (const [side, what] of victims) {
        if (what === 'engine') {
          engines.push(await lab.enginePid(side));
        }
      }
      const supervisors = victims.flatMap(([side, what]) => (what === 'supervisor' ? [side] : []));
      // Supervisors first: they shall not see what happens to their engines.
      for (const pid of [...supervisors.map((side) => lab.supervisor(side).pid), ...engines]) {
        process.kill(pid, 'SIGKILL');
      }
      await Promise.all(
        supervisors.map(async (side) => {
          await lab.supervisor(side).ended;
          await sleep(random.between(...RESTART_MS));
          await lab.start(side);
        }),
      );
      await whole(lab, engines);
      return [];
    },
  };
}

/** Only the time counts when the cable was out for certain: what the commands take belongs to the blackout. */
async function cut(lab: Outrigger, ms: number): Promise<Outage> {
  lab.segment.setLink('down');
  const fromNs = process.hrtime.bigint();
  await sleep(ms);
  const toNs = process.hrtime.bigint();
  lab.segment.setLink('up');
  return { fromNs, toNs };
}

const LINK_CUT: Kind = {
  name: 'link-cut',
  isPossible: always,
  async inject(lab, random) {
    const outage = await cut(lab, random.between(...CUT_MS));
    await whole(lab, []);
    return [outage];
  },
};

const LINK_FLAP: Kind = {
  name: 'link-flap',
  isPossible: always,
  async inject(lab, random) {
    const outages: Outage[] = [];
    for (let left = random.between(...FLAPS); left > 0; left--) {
      outages.push(await cut(lab, random.between(...FLAP_MS)));
      await sleep(random.between(...FLAP_MS));
    }
    await whole(lab, []);
    return outages;
  },
};

function upgrade(side: Side): Kind {
  return {
    name: `${side}-engine-upgrade`,
    isPossible: async (lab) => /\bupgrade\b/.test((await lab.tryCli(side, 'engine', '--help')).stdout),
    async inject(lab) {
      const old = await lab.enginePid(side);
      const { status, stdout, stderr } = await lab.tryCli(side, 'engine', 'upgrade');
      if (status !== 0) {
        throw new LabError(`outrigger engine upgrade: exit status ${status}\n${stderr}${stdout}`);
      }
      await whole(lab, [old]);
      return [];
    },
  };
}

const hasWorkers = async (lab: Outrigger) => lab.workers > 1;

/** Every volume to another worker. */
async function moveAll(lab: Outrigger, random: Random): Promise<void> {
  const { volumes } = await lab.iohvStatus();
  for (const { name, worker } of random.shuffled(volumes)) {
    await lab.moveVolume(name, (worker + random.between(1, lab.workers - 1)) % lab.workers);
  }
}

const MOVES: Kind = {
  name: 'volume-moves',
  isPossible: hasWorkers,
  async inject(lab, random) {
    for (let left = random.between(...MOVE_ROUNDS); left > 0; left--) {
      await moveAll(lab, random);
      await sleep(random.between(...MOVE_PAUSE_MS));
    }
    return [];
  },
};

/** The engine of one side dies somewhere in the middle of moves. */
function killWhileMoving(side: Side): Kind {
  return {
    name: `pair-moves-${side}-engine`,
    isPossible: hasWorkers,
    async inject(lab, random) {
      const engine = await lab.enginePid(side);
      const moved = moveAll(lab, random).catch(() => {}); // one that the engine did not end is made by the next
      await sleep(random.between(...MOVE_PAUSE_MS));
      process.kill(engine, 'SIGKILL');
      await moved;
      await whole(lab, [engine]);
      return [];
    },
  };
}

export const KINDS: readonly Kind[] = [
  kill('iohv-engine-kill', ['iohv', 'engine']),
  kill('iohv-supervisor-kill', ['iohv', 'supervisor']),
  kill('host-engine-kill', ['host', 'engine']),
  kill('host-supervisor-kill', ['host', 'supervisor']),
  LINK_CUT,
  LINK_FLAP,
  upgrade('iohv'),
  upgrade('host'),
  MOVES,
  killWhileMoving('iohv'),
  killWhileMoving('host'),
  kill('pair-iohv-both', ['iohv', 'engine'], ['iohv', 'supervisor']),
  kill('pair-host-both', ['host', 'engine'], ['host', 'supervisor']),
  kill('pair-engines', ['iohv', 'engine'], ['host', 'engine']),
  kill('pair-supervisors', ['iohv', 'supervisor'], ['host', 'supervisor']),
];

/** In rounds: every kind comes up once before any comes up again. */
export function* schedule(kinds: readonly Kind[], events: number, random: Random): Generator<Kind> {
  for (let done = 0; done < events; ) {
    for (const kind of random.shuffled(kinds).slice(0, events - done)) {
      done++;
      yield kind;
    }
  }
}
