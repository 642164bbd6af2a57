// The commands about protection domains. A domain is with one worker, and so are its volumes and NICs; whichever worker
// opens it next takes up what it holds, so the number of workers may change between engines.
import { errnoOf } from '../errors.js';
import type { NativeCommands, NativeEngine } from '../native/addon.js';
import type { DomainRow, EngineCommands, ExportRow, VolumeDomain, VolumeRow } from '../supervisor/protocol.js';
import { failure, type Handlers, LOCK_TIMEOUT_MS } from './commands.js';
import { PatientEngine } from './patient.js';

type Policy = Pick<DomainRow, 'overflow' | 'commitTimeoutMs'>;
type OfEpochs = 'domain.cut' | 'domain.commit' | 'domain.fence' | 'domain.reset' | 'domain.abort';

export class DomainCommands {
  private readonly engines: readonly NativeEngine[];
  /** Of the engine as a whole. */
  private readonly volumes: Map<string, VolumeRow>;
  private readonly exports: Map<number, ExportRow>;
  /** By id: what the C core does not tell again. */
  private readonly open = new Map<number, Policy & { worker: number }>();
  private readonly opening = new Map<number, Promise<DomainRow>>();

  constructor(engines: readonly NativeEngine[], volumes: Map<string, VolumeRow>, exports: Map<number, ExportRow>) {
    this.engines = engines;
    this.volumes = volumes;
    this.exports = exports;
  }

  readonly handlers: Handlers = {
    'journal.create': async (args) => {
      await this.patient(0).submit('journal.create', args);
      return {};
    },
    // A supervisor that was restarted meanwhile asks again: there is one opening, and one answer for all.
    'domain.open': (args) => {
      const begun = this.opening.get(args.id) ?? this.openDomain(args).finally(() => this.opening.delete(args.id));
      this.opening.set(args.id, begun);
      return begun;
    },
    'domain.set': async ({ id, ...change }) => {
      const row = this.find(id);
      await this.patient(row.worker).submit('domain.set', { id, ...change });
      this.open.set(id, { ...row, ...change });
      return {};
    },
    // What one that could not be opened had held is forgotten as well: whichever worker is asked.
    'domain.close': async ({ id, forget }) => {
      if (this.opening.has(id)) {
        throw failure('EBUSY', `the domain ${id} is being opened`);
      }
      const worker = forget ? (this.open.get(id)?.worker ?? 0) : this.find(id).worker;
      await this.patient(worker).submit('domain.close', { id, forget });
      this.open.delete(id);
      for (const { name, domain } of [...this.volumes.values()]) {
        if (domain?.id === id) {
          this.volumes.delete(name);
        }
      }
      return {};
    },
    'domain.cut': (args) => this.submit('domain.cut', args),
    'domain.commit': (args) => this.submit('domain.commit', args),
    'domain.fence': (args) => this.submit('domain.fence', args),
    'domain.reset': (args) => this.submit('domain.reset', args),
    'domain.abort': async (args) => {
      await this.submit('domain.abort', args);
      return {};
    },
    'domain.list': async () => {
      const lists = await Promise.all(this.engines.map((_, worker) => this.patient(worker).submit('domain.list', {})));
      return lists.flat().flatMap((status) => {
        const row = this.open.get(status.id);
        return row === undefined ? [] : [{ ...status, ...row }];
      });
    },
  };

  /** Of an open volume; the caller owns it. */
  async protect({
    name,
    domain,
    generation,
  }: EngineCommands['volume.protect']['args']): Promise<Record<string, never>> {
    const row = this.volumes.get(name);
    if (row === undefined) {
      throw failure('ENOENT', `the volume ${name} is not open`);
    }
    if (row.domain?.id === domain?.id) {
      return {}; // a supervisor that was restarted meanwhile has not heard of it
    }
    const args = domain === null ? { name, domain } : { name, domain, generation };
    await this.patient(row.worker).submit('volume.protect', args);
    const { domain: _, ...bare } = row;
    this.volumes.set(name, domain === null ? bare : { ...bare, domain });
    for (const exported of [...this.exports.values()].filter(({ volume }) => volume === name)) {
      const { domainGeneration: __, standby: ___, ...plain } = exported;
      this.exports.set(exported.id, domain === null ? plain : { ...plain, domainGeneration: generation });
    }
    return {};
  }

  /** Of a volume that nobody knows of yet; when it cannot be in its domain it is closed again. */
  async protectOpened(name: string, worker: number, domain: VolumeDomain): Promise<void> {
    const engine = this.patient(worker);
    try {
      await engine.submit('volume.protect', { name, domain, generation: 0 });
    } catch (error) {
      await engine.submit('volume.close', { name });
      throw error;
    }
  }

  private async openDomain({ worker, ...args }: EngineCommands['domain.open']['args']): Promise<DomainRow> {
    const { id, overflow, commitTimeoutMs } = args;
    const row = { overflow, commitTimeoutMs, worker };
    const status = await this.patient(worker).submit('domain.open', { ...args, lockTimeoutMs: LOCK_TIMEOUT_MS });
    this.open.set(id, row);
    return { ...status, ...row };
  }

  /** EAGAIN is an answer here: too many epochs are under way, or a fence is. */
  private async submit<C extends OfEpochs>(
    command: C,
    args: NativeCommands[C]['args'] & { id: number },
  ): Promise<NativeCommands[C]['result']> {
    const { worker } = this.find(args.id);
    try {
      return await this.engine(worker).submit(command, args);
    } catch (error) {
      throw errnoOf(error) === 'EAGAIN' ? failure('EAGAIN', 'too many epochs are not committed yet') : error;
    }
  }

  private find(id: number): Policy & { worker: number } {
    const row = this.open.get(id);
    if (row === undefined) {
      throw failure('ENOENT', `there is no domain ${id}`);
    }
    return row;
  }

  private engine(worker: number): NativeEngine {
    const engine = this.engines[worker];
    if (engine === undefined) {
      throw failure('EINVAL', `there is no worker ${worker}: this engine has ${this.engines.length}`);
    }
    return engine;
  }

  private patient(worker = 0): PatientEngine {
    return new PatientEngine(this.engine(worker));
  }
}
