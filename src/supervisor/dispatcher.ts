// The dispatcher: which worker serves which volume and NIC. A volume goes where the operator pinned it, stays where
// it is, or goes where the policy says; it can move while guests use it. A NIC stays where it was opened first, with
// all others of its hub. The volumes and NICs of a protection domain are with the domain's worker. This is the
// supervisor's memory: a new supervisor takes it over from the engine, a new engine from the supervisor.
import { LoadMeter } from './load-meter.js';
import type { Desired, Domain, Nic, Placed, Placement, Volume } from './model.js';
import { Balancer, type Burden, byName, choose, type Policy } from './placement.js';
import type { ExportLoad, ExportRow, NicPort, VolumeRow } from './protocol.js';

export class Dispatcher {
  private readonly policy: Policy;
  private readonly moves: boolean;
  private readonly balancer: Balancer;
  private readonly volumes = new Map<string, Placed>();
  /** By groupOf(). */
  private readonly groups = new Map<string, number>();
  private meter = new LoadMeter();
  /** When the loads were measured last, by performance.now(); undefined: not since the engine is there. */
  private measuredAt: number | undefined;
  private loads: ReadonlyMap<string, number> = new Map();
  private workers = 1;
  /** How many volumes and NICs were placed so far. */
  private turn = 0;

  /** moves: balance() will be called; without it clones of one base would stay together whatever they have to do. */
  constructor(policy: Policy, moves: boolean) {
    this.policy = policy;
    this.moves = moves;
    this.balancer = new Balancer(policy);
  }

  get count(): number {
    return this.workers;
  }

  /** An engine is there, with so many workers. What it has stays where it is. */
  adopt(workers: number, volumes: Iterable<VolumeRow>, nics: Iterable<NicPort>): void {
    this.workers = workers;
    this.meter = new LoadMeter();
    this.measuredAt = undefined;
    for (const { name, worker = 0, placement = 0 } of volumes) {
      this.volumes.set(name, { worker, placement, reason: this.volumes.get(name)?.reason ?? this.policy });
    }
    for (const port of nics) {
      this.groups.set(groupOf(port), port.worker ?? 0);
    }
  }

  /** Where everything belongs. What has no place yet gets one. */
  follow({ volumes, nics, nicAttachments, domains }: Desired): Placement {
    const known = new Set(volumes.map(({ name }) => name));
    for (const name of this.volumes.keys()) {
      if (!known.has(name)) {
        this.volumes.delete(name);
      }
    }
    const groups = new Set(nics.map(groupOf));
    for (const group of this.groups.keys()) {
      if (!groups.has(group)) {
        this.groups.delete(group);
      }
    }
    const protectedAt = new Map(
      domains.flatMap((domain) => domain.volumes.map(({ volume }) => [volume, this.workerOfDomain(domain)] as const)),
    );
    this.placeNics(domains, nics, nicAttachments);
    for (const { name, worker } of volumes) {
      const placed = this.volumes.get(name);
      const there = protectedAt.get(name);
      if (there !== undefined) {
        this.place(name, there, 'protected');
      } else if (worker !== null && worker < this.workers) {
        this.place(name, worker, 'pinned');
      } else if (placed?.reason === 'pinned' || placed?.reason === 'protected') {
        this.volumes.set(name, { ...placed, reason: this.policy });
      }
    }
    const unplaced = volumes.filter(({ name }) => !this.isPlaced(name, this.volumes.get(name)));
    const unplacedGroups = [...groups].filter((group) => !this.isThere(this.groups.get(group)));
    if (unplaced.length + unplacedGroups.length > 0) {
      const burdens = this.burdens();
      const place = (name: string, kin: readonly number[] = []) => {
        const candidates = burdens.map((burden, worker) => ({ ...burden, kin: kin[worker] ?? 0 }));
        const worker = choose(this.policy, name, this.turn++, candidates);
        (burdens[worker] as Burden).count++;
        return worker;
      };
      for (const volume of unplaced) {
        this.place(volume.name, place(volume.name, this.kinOf(volume, volumes)), this.policy);
      }
      for (const group of unplacedGroups) {
        this.groups.set(group, place(group));
      }
    }
    return {
      volumes: this.volumes,
      nics: new Map(nics.map((nic) => [nic.name, this.groups.get(groupOf(nic)) ?? 0])),
      domains: new Map(domains.map((domain) => [domain.id, this.workerOfDomain(domain)])),
    };
  }

  workerOf(volume: string): number {
    return this.volumes.get(volume)?.worker ?? 0;
  }

  /** The operator wants it there, for now. */
  assign(volume: string, worker: number): void {
    this.place(volume, worker, 'operator');
    this.balancer.moved(volume);
  }

  /** It has moved. The next engine goes on with this number, so that hosts need not hear of another one. */
  noteMoved(volume: string, placement: number): void {
    const placed = this.volumes.get(volume);
    if (placed !== undefined) {
      this.volumes.set(volume, { ...placed, placement });
    }
  }

  /**
   * Once per interval: what passed through the engine's exports so far. Returns whether something is to move.
   * `open`: the volumes of the engine, at the workers that have them now.
   */
  balance(
    rows: readonly ExportLoad[],
    exports: ReadonlyMap<number, ExportRow>,
    open: ReadonlyMap<string, VolumeRow>,
  ): boolean {
    const now = performance.now();
    const seconds = (now - (this.measuredAt ?? now - 1000)) / 1000;
    this.measuredAt = now;
    const loads = new Map<string, number>();
    for (const [id, load] of this.meter.take(rows, seconds)) {
      const name = exports.get(id)?.volume;
      if (name !== undefined) {
        loads.set(name, (loads.get(name) ?? 0) + load);
      }
    }
    this.loads = loads;
    const volumes = [...open.values()].map(({ name, worker = 0 }) => {
      const placed = this.volumes.get(name);
      return {
        name,
        worker,
        load: loads.get(name) ?? 0,
        fixed: placed?.reason === 'pinned' || placed?.reason === 'protected' || placed?.worker !== worker,
      };
    });
    const move = this.balancer.next(volumes, this.workers);
    if (move !== undefined) {
      this.place(move.name, move.to, this.policy);
    }
    return move !== undefined;
  }

  /** An engine may have fewer workers than one before it. */
  private workerOfDomain({ worker }: Domain): number {
    return worker % this.workers;
  }

  /** Those of domains go with them; one that is open elsewhere will be there only when it is opened again. */
  private placeNics(domains: readonly Domain[], nics: readonly Nic[], nicAttachments: Desired['nicAttachments']): void {
    const byVm = new Map(domains.flatMap((domain) => domain.members.map(({ vm }) => [vm, domain] as const)));
    for (const attachment of nicAttachments) {
      const domain = byVm.get(attachment.vm);
      const nic = nics.find(({ name }) => name === attachment.nic);
      if (domain !== undefined && nic !== undefined) {
        this.groups.set(groupOf(nic), this.workerOfDomain(domain));
      }
    }
  }

  private place(name: string, worker: number, reason: string): void {
    this.volumes.set(name, { worker, placement: this.volumes.get(name)?.placement ?? 0, reason });
  }

  private isPlaced(name: string, placed: Placed | undefined): boolean {
    const isAstray = placed?.reason === 'static' && placed.worker !== byName(name, this.workers);
    return this.isThere(placed?.worker) && !isAstray;
  }

  private isThere(worker: number | undefined): boolean {
    return worker !== undefined && worker < this.workers;
  }

  /** How many volumes over one of its layers each worker has. */
  private kinOf({ name, layers }: Volume, volumes: readonly Volume[]): number[] {
    const counts = new Array<number>(this.workers).fill(0);
    const contents = new Set(layers.map(({ content }) => content));
    for (const other of contents.size < 2 || !this.moves ? [] : volumes) {
      const { worker } = this.volumes.get(other.name) ?? {};
      const isKin = other.name !== name && other.layers.some(({ content }) => contents.has(content));
      if (isKin && worker !== undefined && worker < this.workers) {
        counts[worker] = (counts[worker] ?? 0) + 1;
      }
    }
    return counts;
  }

  private burdens(): Burden[] {
    const burdens = Array.from({ length: this.workers }, (): Burden => ({ load: 0, count: 0 }));
    for (const [name, { worker }] of this.volumes) {
      const burden = burdens[worker];
      if (burden !== undefined) {
        burden.load += this.loads.get(name) ?? 0;
        burden.count++;
      }
    }
    for (const worker of this.groups.values()) {
      const burden = burdens[worker];
      if (burden !== undefined) {
        burden.count++;
      }
    }
    return burdens;
  }
}

/** What must be with one worker: a hub, or a NIC by itself. The names cannot be the same. */
function groupOf({ name, hub }: Pick<Nic, 'name' | 'hub'>): string {
  return hub === null ? name : `hub ${hub}`;
}
