// Which worker serves which volume: the policies. They know neither clock nor engine: choose() is asked when a
// volume has no worker yet, a Balancer once per interval whether one should move.
//
//   static         by the name alone: the same after every restart, whatever the load
//   round-robin    in turn
//   least-loaded   the least loaded worker when it is opened, and of those that have next to nothing to do the one that
//                  has clones of the same base, which share what is cached; later the move that evens out the load best
//   isolate        the same, but heavy volumes, which take more than their share of all load, are packed on as few
//                  workers as carry them, so that light ones do not queue behind them
//
// What keeps a volume from going to and fro: workers count as uneven only when they are so for some intervals in a
// row, a move must make a clear difference, and who has moved rests. With steady loads every move brings the loads
// closer together, so there is a last one.

export const POLICIES = ['static', 'round-robin', 'least-loaded', 'isolate'] as const;
export type Policy = (typeof POLICIES)[number];

/** Policies under which volumes move by themselves. */
export const isOnline = (policy: Policy) => policy === 'least-loaded' || policy === 'isolate';

export interface VolumeLoad {
  name: string;
  worker: number;
  /** A smoothed rate: see load-meter.ts. */
  load: number;
  /** It does not move: it is pinned, or on its way already. */
  fixed: boolean;
}

export interface Move {
  name: string;
  from: number;
  to: number;
}

/** What a worker has: how much it has to do, how many volumes and NICs, and how many volumes over a layer of the new one. */
export interface Burden {
  load: number;
  count: number;
  kin?: number;
}

/** Less than 1 % of what a worker can do, in bytes/s: it does not matter where that is done. */
export const NEGLIGIBLE_LOAD = 16 << 20;
/** By this part of the greater load two workers must differ. */
const UNEVEN_SHARE = 0.2;
/** By this part of their difference a move must bring two workers closer together. */
const GAIN_SHARE = 0.1;
/** Intervals in a row before the first move. */
export const PATIENCE = 3;
/** Intervals for which a volume that has moved stays. */
export const REST = 5;
/** A volume becomes heavy above, and light again below, so many times an even share of all load. */
const HEAVY_ABOVE = 1.5;
const HEAVY_BELOW = 1;

/** `turn`: how many were placed before. */
export function choose(policy: Policy, name: string, turn: number, burdens: readonly Burden[]): number {
  switch (policy) {
    case 'static':
      return byName(name, burdens.length);
    case 'round-robin':
      return turn % burdens.length;
    default:
      return leastOf(burdens);
  }
}

/** By FNV-1a. */
export function byName(name: string, workers: number): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(name)) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return hash % workers;
}

/** Of workers that have next to nothing to do, the one with the most kin; without any, with the fewest volumes. */
function leastOf(burdens: readonly Burden[]): number {
  const weigh = ({ load }: Burden) => Math.max(load, NEGLIGIBLE_LOAD);
  const order = burdens.map((burden, worker) => ({ ...burden, worker }));
  const kinOf = ({ kin = 0 }: Burden) => kin;
  order.sort((a, b) => weigh(a) - weigh(b) || kinOf(b) - kinOf(a) || a.count - b.count || a.worker - b.worker);
  return order[0]?.worker ?? 0;
}

export class Balancer {
  private readonly policy: Policy;
  /** Intervals in a row in which a move was due. */
  private streak = 0;
  /** Volume -> how many intervals it still rests. */
  private readonly resting = new Map<string, number>();
  private heavy: ReadonlySet<string> = new Set();

  constructor(policy: Policy) {
    this.policy = policy;
  }

  /** Once per interval, with all volumes that are open: which one is to move now. */
  next(volumes: readonly VolumeLoad[], workers: number): Move | undefined {
    for (const [name, intervals] of this.resting) {
      if (intervals > 1) {
        this.resting.set(name, intervals - 1);
      } else {
        this.resting.delete(name);
      }
    }
    if (!isOnline(this.policy) || workers < 2) {
      return undefined;
    }
    this.heavy = this.policy === 'isolate' ? heavyOf(volumes, this.heavy) : new Set();
    const isDue = propose(volumes, () => true, this.heavy, workers) !== undefined;
    this.streak = isDue ? this.streak + 1 : 0;
    if (this.streak < PATIENCE) {
      return undefined;
    }
    const move = propose(volumes, ({ name }) => !this.resting.has(name), this.heavy, workers);
    if (move !== undefined) {
      this.moved(move.name);
    }
    return move;
  }

  /** Somebody has moved it: it rests. */
  moved(name: string): void {
    this.resting.set(name, REST + 1); // the next call counts one down
  }
}

const sumOf = (volumes: readonly VolumeLoad[]) => volumes.reduce((sum, { load }) => sum + load, 0);

/** `before`: what was heavy so far. */
function heavyOf(volumes: readonly VolumeLoad[], before: ReadonlySet<string>): ReadonlySet<string> {
  const total = sumOf(volumes);
  const share = total / volumes.length;
  const isHeavy = ({ name, load }: VolumeLoad) => load > share * (before.has(name) ? HEAVY_BELOW : HEAVY_ABOVE);
  return new Set(total < NEGLIGIBLE_LOAD ? [] : volumes.filter(isHeavy).map(({ name }) => name));
}

type MayMove = (volume: VolumeLoad) => boolean;

function propose(
  volumes: readonly VolumeLoad[],
  mayMove: MayMove,
  heavy: ReadonlySet<string>,
  workers: number,
): Move | undefined {
  const all = Array.from({ length: workers }, (_, worker) => worker);
  return heavy.size === 0
    ? evenOut(volumes, mayMove, all)
    : separate(
        volumes,
        mayMove,
        volumes.filter(({ name }) => heavy.has(name)),
        all,
      );
}

/** The move among these workers that brings two of them closest together. */
function evenOut(volumes: readonly VolumeLoad[], mayMove: MayMove, workers: readonly number[]): Move | undefined {
  const loads = new Map(workers.map((worker) => [worker, sumOf(volumes.filter((v) => v.worker === worker))]));
  let best: { move: Move; gain: number } | undefined;
  for (const volume of volumes.filter((v) => !v.fixed && mayMove(v))) {
    const from = loads.get(volume.worker) ?? 0;
    for (const [to, load] of loads) {
      const difference = from - load;
      const left = Math.abs(difference - 2 * volume.load);
      const isUneven = from >= NEGLIGIBLE_LOAD && difference > from * UNEVEN_SHARE;
      const gain = volume.load * (difference - volume.load); // by half of which the squares of all loads shrink
      if (isUneven && left < difference * (1 - GAIN_SHARE) && gain > (best?.gain ?? 0)) {
        best = { move: { name: volume.name, from: volume.worker, to }, gain };
      }
    }
  }
  return best?.move;
}

/**
 * Heavy volumes get their share of the workers, at least one, and leave one at least. Those that have most of them
 * now keep them. First a heavy volume leaves the light ones, then light ones the heavy, the greatest first; at last
 * the load within both kinds is evened out.
 */
function separate(
  volumes: readonly VolumeLoad[],
  mayMove: MayMove,
  heavy: readonly VolumeLoad[],
  workers: readonly number[],
): Move | undefined {
  const share = Math.round((sumOf(heavy) / sumOf(volumes)) * workers.length);
  const count = Math.min(Math.max(share, 1), workers.length - 1);
  const heavyLoad = (worker: number) => sumOf(heavy.filter((v) => v.worker === worker));
  const carriers = [...workers].sort((a, b) => heavyLoad(b) - heavyLoad(a) || a - b).slice(0, count);
  const others = workers.filter((worker) => !carriers.includes(worker));
  const light = volumes.filter((volume) => !heavy.includes(volume));
  for (const [kind, where] of [
    [heavy, carriers],
    [light, others],
  ] as const) {
    const strays = kind.filter((v) => !where.includes(v.worker) && !v.fixed && mayMove(v));
    const [first] = strays.sort((a, b) => b.load - a.load);
    if (first !== undefined) {
      const burdens = where.map((worker) => {
        const there = volumes.filter((v) => v.worker === worker);
        return { load: sumOf(there), count: there.length };
      });
      return { name: first.name, from: first.worker, to: where[leastOf(burdens)] ?? 0 };
    }
  }
  return evenOut(heavy, mayMove, carriers) ?? evenOut(light, mayMove, others);
}
