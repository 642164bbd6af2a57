// The commands of the I/O hypervisor's engine. It has several workers, each an engine of the addon and a whole
// shard with ports, sessions and volumes of its own; here they become one.
//
// A volume is with one worker, its home, and so are the requests to all its attachments. Each worker knows every
// attachment all the same: it answers a request to one that is elsewhere with that, unexecuted, and the host sends
// it to the right one. So a volume can be moved while guests use it:
//
//   from: its exports are elsewhere ── what executes has ended ── it is given away
//   to:   it is taken over as it is (nothing is closed, a ram volume keeps its content) ── its exports are here
//
// Requests that arrive in between are elsewhere at both, and the host comes again. With every move the volume gets
// another placement, a number that the host is told of with the worker and that its requests bear. Documents and
// reports of hosts go through worker 0.
import { errnoOf } from '../errors.js';
import type { NativeCommands, NativeEngine } from '../native/addon.js';
import {
  type EngineCommands,
  type EngineEvent,
  type ExportRow,
  type Geometry,
  type HostRow,
  type LayerArgs,
  type LayerRow,
  type NicArgs,
  type NicPort,
  type VolumeRow,
  WEIGHT_DEFAULT,
} from '../supervisor/protocol.js';
import { noteVolumeError } from '../supervisor/volume-errors.js';
import { cacheShare, failure, type Handlers, LOCK_TIMEOUT_MS } from './commands.js';
import { DomainCommands } from './domain-commands.js';
import { Gate } from './gate.js';
import { PatientEngine } from './patient.js';

/** Of the sessions with worker 0 and of the ports, which are the same for all. */
const OF_FIRST_WORKER: readonly EngineEvent['event'][] = [
  'host.up',
  'host.down',
  'host.report',
  'link.up',
  'link.down',
  'port.up',
  'port.down',
];

/** Whether an event of one of several workers is one of the engine. */
export const isOfEngine = ({ event }: EngineEvent, worker: number) => worker === 0 || !OF_FIRST_WORKER.includes(event);

export class IohvCommands {
  private readonly workers: readonly PatientEngine[];
  private readonly announce: (event: EngineEvent) => void;
  private readonly domains: DomainCommands;
  private readonly volumes = new Map<string, VolumeRow>();
  /** Of the volumes in files, head first: the C core knows descriptors, not paths. */
  private readonly layers = new Map<string, LayerArgs[]>();
  /** How each volume was asked for when it was opened, and the answer. */
  private readonly answered = new Map<string, { asked: string; geometry: Geometry }>();
  private readonly exports = new Map<number, ExportRow>();
  private readonly nics = new Map<number, NicPort>();
  private readonly hosts = new Map<string, Pick<HostRow, 'keyId' | 'since' | 'report'>>();
  /** A move owns its volume; whatever else concerns its exports shares it. */
  private readonly gate = new Gate();
  /** Flushing a volume shares its files; opening, cutting, closing and moving it own them. */
  private readonly files = new Gate();
  /** Of all workers together, as last asked for; 0: they have none. */
  private cacheBytes: number;

  constructor(engines: readonly NativeEngine[], announce: (event: EngineEvent) => void, cacheBytes = 0) {
    this.cacheBytes = cacheBytes;
    this.workers = engines.map((engine) => new PatientEngine(engine));
    this.announce = announce;
    this.domains = new DomainCommands(engines, this.volumes, this.exports);
    this.handlers = { ...this.ownHandlers, ...this.domains.handlers, ...this.protectHandlers };
  }

  readonly handlers: Handlers;

  /** They own the volume as a move does. */
  private readonly protectHandlers: Handlers = {
    'volume.protect': (args) =>
      this.gate.own(args.name, () => this.files.own(args.name, () => this.domains.protect(args))),
  };

  private readonly ownHandlers: Handlers = {
    'host.add': async ({ name, keyBase64, keyId, exports, nics = [] }) => {
      await this.addHost(name, keyBase64, keyId);
      await Promise.all(exports.map((row) => this.addExport({ ...row, host: name })));
      const openings = nics.map((args) =>
        this.openNic({ ...args, host: name }).then(
          () => [args.id],
          () => [], // the supervisor tries again, and hears why
        ),
      );
      const openNics = (await Promise.all(openings)).flat();
      const [first, ...others] = this.workers;
      await Promise.all(others.map((worker) => worker.submit('host.admit', { name })));
      await first?.submit('host.admit', { name }); // the last one, because it tells the host of the others
      return { openNics };
    },
    'host.remove': async ({ name }) => {
      await this.everywhere('host.remove', { name });
      this.hosts.delete(name);
      return {};
    },
    hosts: () => this.listHosts(),
    'volume.open': (args) => this.files.own(args.name, () => this.openOnce(args)),
    'volume.close': ({ name }) =>
      this.gate.share(name, () =>
        this.files.own(name, async () => {
          await this.closeVolume(name);
          return {};
        }),
      ),
    'layer.create': async (args) => {
      await this.worker(0).submit('layer.create', args);
      return {};
    },
    'volume.cut': (args) =>
      this.files.own(args.name, async () => {
        await this.cutVolume(args);
        return {};
      }),
    'volume.rebase': ({ name, layers }) =>
      this.files.own(name, async () => {
        const worker = this.worker(this.volumes.get(name)?.worker);
        await worker.submit('volume.rebase', { name, layers, lockTimeoutMs: LOCK_TIMEOUT_MS });
        this.layers.set(name, [...(this.layers.get(name) ?? []).slice(0, 1), ...layers]);
        return {};
      }),
    'layer.merge': (args) => this.worker(0).submit('layer.merge', { ...args, lockTimeoutMs: LOCK_TIMEOUT_MS }),
    'volume.layers': ({ name }) => this.files.share(name, () => this.listLayers(name)),
    'volume.flush': ({ name }) =>
      this.files.share(name, async () => {
        await this.worker(this.volumes.get(name)?.worker).submit('volume.flush', { name });
        return {};
      }),
    'volume.move': ({ name, to }) => this.gate.own(name, () => this.files.own(name, () => this.moveVolume(name, to))),
    'volume.list': () =>
      [...this.volumes.values()].map((row) => {
        const layers = this.layers.get(row.name);
        return layers === undefined ? row : { ...row, layers };
      }),
    'volume.cache': ({ name, ...change }) =>
      this.gate.share(name, async () => {
        const { worker, cache } = this.volumes.get(name) ?? {};
        await this.worker(worker).submit('volume.cache', { name, ...change });
        const row = this.volumes.get(name);
        const { drop: _, ...settings } = change;
        if (row !== undefined && cache !== undefined) {
          this.volumes.set(name, { ...row, cache: { ...cache, ...settings } });
        }
        return {};
      }),
    'cache.set': async ({ bytes }) => {
      if (this.cacheBytes === 0) {
        throw failure('EINVAL', 'this engine was started without a cache');
      }
      const share = cacheShare(bytes, this.workers.length);
      await allEnded(this.workers.map((worker) => worker.submit('cache.set', { bytes: share })));
      this.cacheBytes = bytes;
      return {};
    },
    'cache.list': () => this.listCaches(),
    keep: (args) => this.worker(0).submit('keep', args),
    'keep.give-up': () => this.worker(0).submit('keep.give-up', {}),
    'keep.forget': ({ content }) => this.worker(0).submit('keep.give-up', { content }),
    'export.add': async (row) => {
      await this.addExport(row);
      return {};
    },
    'export.set': ({ id, weight }) =>
      this.gate.share(this.exports.get(id)?.volume ?? '', async () => {
        const row = this.exports.get(id);
        await this.homeOf(row).submit('export.set', { id, weight });
        if (row) {
          this.exports.set(id, { ...row, weight });
        }
        return {};
      }),
    'export.remove': ({ id }) =>
      this.gate.share(this.exports.get(id)?.volume ?? '', async () => {
        await this.everywhere('export.remove', { id });
        this.exports.delete(id);
        return {};
      }),
    'export.list': () => [...this.exports.values()],
    loads: async () => {
      const loads = await Promise.all(this.workers.map((worker) => worker.submit('loads', {})));
      return { exports: loads.flatMap(({ exports }, worker) => exports.map((load) => ({ ...load, worker }))) };
    },
    'nic.open': async (args) => {
      await this.openNic(args);
      return {};
    },
    'nic.set': async ({ id, ...change }) => {
      const nic = this.nics.get(id);
      await this.worker(nic?.worker).submit('nic.set', { id, ...change });
      if (nic) {
        this.nics.set(id, { ...nic, ...change });
      }
      return {};
    },
    'nic.close': async ({ id }) => {
      await this.worker(this.nics.get(id)?.worker).submit('nic.close', { id });
      this.nics.delete(id);
      return {};
    },
    'nic.list': async () => {
      const rows = await Promise.all(this.workers.map((worker) => worker.submit('nic.list', {})));
      return rows.flat().flatMap(({ id, gone, stats }) => {
        const nic = this.nics.get(id);
        return nic ? [{ ...nic, gone, stats }] : [];
      });
    },
    'document.set': async (args) => {
      await this.worker(0).submit('document.set', args);
      return {};
    },
  };

  observe(event: EngineEvent): void {
    if (event.event === 'volume.error') {
      noteVolumeError(this.volumes, event.data);
      return;
    }
    if (event.event !== 'host.up' && event.event !== 'host.down' && event.event !== 'host.report') {
      return;
    }
    const host = this.hosts.get(event.data.host);
    if (host && event.event === 'host.report') {
      host.report = event.data.document;
    } else if (host) {
      host.since = Date.now();
    }
  }

  /** Throws EINVAL. */
  private worker(number = 0): PatientEngine {
    const worker = this.workers[number];
    if (worker === undefined) {
      throw failure('EINVAL', `there is no worker ${number}: this engine has ${this.workers.length}`);
    }
    return worker;
  }

  /** That one worker does not know it is an error only when none does. */
  private async everywhere<C extends 'host.remove' | 'export.remove'>(
    command: C,
    args: NativeCommands[C]['args'],
  ): Promise<void> {
    const outcomes = await Promise.allSettled(this.workers.map((worker) => worker.submit(command, args)));
    const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
    const grave = reasons.find((reason) => errnoOf(reason) !== 'ENOENT');
    if (grave !== undefined || reasons.length === this.workers.length) {
      throw grave ?? reasons[0];
    }
  }

  /** The hosts are not let in yet. A worker that has it is as well: an earlier attempt failed at another one. */
  private async addHost(name: string, keyBase64: string, keyId: string): Promise<void> {
    const again = this.hosts.get(name)?.keyId === keyId;
    this.hosts.set(name, { keyId, since: null, report: null });
    const key = Buffer.from(keyBase64, 'base64');
    await Promise.all(
      this.workers.map((worker) =>
        worker.submit('host.add', { name, key }).catch((error: unknown) => {
          if (!(again && errnoOf(error) === 'EEXIST')) {
            throw error;
          }
        }),
      ),
    );
  }

  private async listHosts(): Promise<HostRow[]> {
    const [first = [], ...others] = await Promise.all(this.workers.map((worker) => worker.submit('hosts', {})));
    return first.map((row) => {
      const rows = [row, ...others.map((list) => list.find(({ name }) => name === row.name))];
      const total = (key: 'requests' | 'inFlight') => rows.reduce((sum, other) => sum + (other?.[key] ?? 0), 0);
      return {
        ...row,
        requests: total('requests'),
        inFlight: total('inFlight'),
        ...(others.length > 0 ? { workers: rows.map((other) => other?.up ?? false) } : {}),
        ...(this.hosts.get(row.name) ?? { keyId: null, since: null, report: null }),
      };
    });
  }

  /**
   * A supervisor that was restarted while a predecessor's opening went on does not know of it, and asks again. When it
   * asks for something else, a cut has been recorded meanwhile, say, it gets that: nobody uses the volume yet.
   */
  private async openOnce(args: EngineCommands['volume.open']['args']): Promise<Geometry> {
    const asked = JSON.stringify(args);
    const answered = this.answered.get(args.name);
    if (answered?.asked === asked) {
      return answered.geometry;
    }
    if (answered !== undefined) {
      await this.closeVolume(args.name);
    }
    const geometry = await this.openVolume(args);
    this.answered.set(args.name, { asked, geometry });
    return geometry;
  }

  private async closeVolume(name: string): Promise<void> {
    await this.worker(this.volumes.get(name)?.worker).submit('volume.close', { name });
    this.volumes.delete(name);
    this.layers.delete(name);
    this.answered.delete(name);
  }

  private async openVolume(args: EngineCommands['volume.open']['args']): Promise<Geometry> {
    const { worker = 0, placement = 0, domain, ...described } = args;
    const geometry = await this.worker(worker).submit('volume.open', { ...described, lockTimeoutMs: LOCK_TIMEOUT_MS });
    if (domain !== undefined) {
      await this.domains.protectOpened(args.name, worker, domain);
    }
    const { name, kind, path, content, layers, readOnly, flushFailed, cache } = args;
    const fresh = { worker, placement, readOnly, flushFailed, errors: 0, lastError: null };
    const named = content === undefined ? {} : { content };
    const cached = this.cacheBytes > 0 && kind === 'file' && cache !== undefined ? { cache } : {};
    const held = domain === undefined ? {} : { domain };
    this.volumes.set(name, { name, kind, path: path ?? null, ...named, ...fresh, ...cached, ...held, ...geometry });
    if (kind === 'file') {
      this.layers.set(name, layers ?? [{ path: path ?? '', content: content ?? '', raw: true }]);
    }
    return geometry;
  }

  private async listCaches(): Promise<EngineCommands['cache.list']['result']> {
    const bytes = this.cacheBytes;
    if (bytes === 0) {
      return { bytes, workers: [], volumes: [] };
    }
    const lists = await Promise.all(this.workers.map((worker) => worker.submit('cache.list', {})));
    return {
      bytes,
      workers: lists.map(({ info }) => info),
      volumes: lists.flatMap(({ volumes }, worker) => volumes.map((row) => ({ ...row, worker }))),
    };
  }

  /** One that was done already is not done again: a supervisor that was restarted meanwhile has not heard of it. */
  private async cutVolume({ name, path, content }: EngineCommands['volume.cut']['args']): Promise<void> {
    if (this.volumes.get(name)?.content === content) {
      return;
    }
    const worker = this.worker(this.volumes.get(name)?.worker);
    await worker.submit('volume.cut', { name, path, content, lockTimeoutMs: LOCK_TIMEOUT_MS });
    this.layers.set(name, [{ path, content }, ...(this.layers.get(name) ?? [])]);
    const row = this.volumes.get(name);
    if (row !== undefined) {
      this.volumes.set(name, { ...row, path, content });
    }
  }

  private async listLayers(name: string): Promise<LayerRow[]> {
    const rows = await this.worker(this.volumes.get(name)?.worker).submit('volume.layers', { name });
    return rows.map((row, index) => ({ ...row, path: this.layers.get(name)?.[index]?.path ?? '' }));
  }

  private async openNic(args: NicArgs & { host: string }): Promise<void> {
    await this.worker(args.worker).submit('nic.open', args);
    this.nics.set(args.id, { ...args, features: '0x0', filter: null, gone: false });
  }

  private homeOf(row: ExportRow | undefined): PatientEngine {
    return this.worker(this.volumes.get(row?.volume ?? '')?.worker ?? row?.worker);
  }

  /** With the worker that has the volume; elsewhere at the others, and before, so that it is never at two. */
  private addExport(row: ExportRow): Promise<void> {
    return this.gate.share(row.volume, async () => {
      const home = this.homeOf(row);
      const others = this.workers.filter((worker) => worker !== home);
      const { placement = 0 } = this.volumes.get(row.volume) ?? row;
      const placed = { ...row, placement };
      await Promise.all(others.map((worker) => worker.submit('export.add', elsewhere(placed))));
      await home.submit('export.add', here(placed));
      this.exports.set(row.id, placed);
    });
  }

  private async moveVolume(name: string, to: number): Promise<EngineCommands['volume.move']['result']> {
    const startedAt = performance.now();
    const row = this.volumes.get(name);
    if (row === undefined) {
      throw failure('ENOENT', `the volume ${name} is not open`);
    }
    const { worker: from = 0, placement: before = 0, domain } = row;
    if (domain !== undefined && from !== to) {
      throw failure('EBUSY', `the volume ${name} is in a protection domain, whose worker has it`);
    }
    this.worker(to); // before anything is touched
    if (from === to) {
      return { ms: 0, placement: before };
    }
    const placement = (before + 1) >>> 0;
    await this.passVolume(name, from, to, placement);
    this.announce({ event: 'volume.moved', data: { volume: name, to, placement } });
    return { ms: performance.now() - startedAt, placement };
  }

  /** When the new worker cannot have it, it is back with the old one. */
  private async passVolume(name: string, from: number, to: number, placement: number): Promise<void> {
    const rows = [...this.exports.values()].filter(({ volume }) => volume === name);
    try {
      await this.setElsewhere(rows, from);
      await this.hand(name, from, to);
    } catch (error) {
      await this.setHere(rows, from);
      throw error;
    }
    const moved = rows.map((row) => ({ ...row, placement }));
    try {
      await this.setHere(moved, to);
    } catch (error) {
      await this.setElsewhere(moved, to);
      await this.hand(name, to, from);
      await this.setHere(rows, from);
      throw error;
    }
    for (const row of moved) {
      this.exports.set(row.id, row);
    }
    const row = this.volumes.get(name);
    if (row !== undefined) {
      this.volumes.set(name, { ...row, placement });
    }
  }

  /** The volume alone. Afterwards it is with one of the two. */
  private async hand(name: string, from: number, to: number): Promise<void> {
    const move = async (worker: number) => {
      await this.worker(worker).submit('volume.open', { name, passed: true });
      const row = this.volumes.get(name);
      if (row !== undefined) {
        this.volumes.set(name, { ...row, worker });
      }
    };
    await this.worker(from).submit('volume.give', { name });
    try {
      await move(to);
    } catch (error) {
      await move(from);
      throw error;
    }
  }

  private setElsewhere(rows: readonly ExportRow[], worker: number): Promise<void> {
    return allEnded(rows.map((row) => this.worker(worker).submit('export.add', elsewhere(row))));
  }

  private setHere(rows: readonly ExportRow[], worker: number): Promise<void> {
    return allEnded(rows.map((row) => this.worker(worker).submit('export.add', here(row))));
  }
}

const here = (row: ExportRow) => ({ ...row, weight: row.weight ?? WEIGHT_DEFAULT });
const elsewhere = (row: ExportRow) => ({ ...here(row), elsewhere: true });

/** Also when one fails, so that nothing is under way when it is undone. */
async function allEnded(work: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(work);
  await Promise.all(work);
}
