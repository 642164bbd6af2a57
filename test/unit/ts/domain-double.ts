// Protection domains of the engine's double. What the real one has in a journal and in kept memory is in the journal's
// file, so it outlives the engine: the generation, the epochs, and whether something is uncommitted. Files beside the
// engine's socket steer it:
//  - `lost`: what a domain held is lost, so it opens in the state `rewind`;
//  - `fatal-fence`, `fatal-abort`: the engine dies at this command before it has done it; `late-fence`, `late-abort`,
//    `late-close`: when it has done it;
//  - `unprotected`: it commits by itself; the next cut removes the file;
//  - `no-journals`: none can be made; `damaged`: no domain can be opened.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { DomainArgs, DomainRow, DomainStatus, EngineCommands } from '../../../src/supervisor/protocol.js';

interface Kept {
  generation: number;
  open: number;
  committed: number;
  /** Something was written that is not committed. */
  dirty: boolean;
  /** Nobody may open it again. */
  forgotten?: boolean;
}

interface Open {
  args: DomainArgs;
  kept: Kept;
  rewind: boolean;
  /** Nothing happened since the last fence. */
  fenced: boolean;
}

const NEVER = { count: 0, totalNs: 0, maxNs: 0 };

export class DomainDouble {
  private readonly domains = new Map<number, Open>();
  private readonly beside: (name: string) => string;
  private readonly refusal: (code: string, message: string) => Error;

  constructor(beside: (name: string) => string, refusal: (code: string, message: string) => Error) {
    this.beside = beside;
    this.refusal = refusal;
  }

  create({ path }: { path: string }): void {
    if (existsSync(this.beside('no-journals'))) {
      throw this.refusal('EFBIG', `cannot make the journal ${path}: File too large`);
    }
    if (!existsSync(path)) {
      writeFileSync(path, JSON.stringify({ generation: 1, open: 1, committed: 0, dirty: false } satisfies Kept));
    }
  }

  open(args: DomainArgs): DomainRow {
    if (existsSync(this.beside('damaged'))) {
      throw this.refusal('EBADMSG', `${args.journal} is damaged`);
    }
    const kept = JSON.parse(readFileSync(args.journal, 'utf8')) as Kept;
    if (kept.forgotten) {
      throw this.refusal('EBADMSG', `${args.journal} has no region any more`);
    }
    const rewind = existsSync(this.beside('lost'));
    this.domains.set(args.id, { args, kept, rewind, fenced: false });
    return this.row(args.id);
  }

  set({ id, ...change }: EngineCommands['domain.set']['args']): void {
    Object.assign(this.find(id).args, change);
  }

  close({ id, forget }: EngineCommands['domain.close']['args']): void {
    const domain = forget ? this.domains.get(id) : this.find(id);
    if (domain !== undefined) {
      domain.kept.forgotten = forget;
      this.keep(domain);
      this.domains.delete(id);
    }
    this.dieIf('late-close');
  }

  /** A guest wrote: nothing can be aborted any more. */
  write(id: number): void {
    const domain = this.find(id);
    domain.fenced = false;
    domain.kept.dirty = true;
    this.keep(domain);
  }

  cut({ id, generation }: EngineCommands['domain.cut']['args']): EngineCommands['domain.cut']['result'] {
    const domain = this.running(id, generation);
    const unprotected = this.unprotected;
    rmSync(this.beside('unprotected'), { force: true });
    domain.fenced = false;
    domain.kept.open++;
    this.keep(domain);
    return { epoch: domain.kept.open - 1, unprotected };
  }

  commit({
    id,
    generation,
    epoch,
  }: EngineCommands['domain.commit']['args']): EngineCommands['domain.commit']['result'] {
    const domain = this.running(id, generation);
    if (epoch >= domain.kept.open) {
      throw this.refusal('EINVAL', `epoch ${epoch} is open`);
    }
    domain.kept = { ...domain.kept, committed: Math.max(domain.kept.committed, epoch), dirty: false };
    this.keep(domain);
    return { committed: domain.kept.committed, unprotected: this.unprotected };
  }

  fence({ id, generation }: EngineCommands['domain.fence']['args'], reset: boolean): { committed: number } {
    this.dieIf('fatal-fence');
    const domain = this.find(id);
    if (domain.rewind !== reset) {
      throw this.refusal('EIO', domain.rewind ? 'its VM must be taken back first' : 'it is running');
    }
    if (generation <= domain.kept.generation) {
      throw this.refusal('ESTALE', `it has generation ${domain.kept.generation}`);
    }
    domain.kept.generation = generation;
    domain.fenced = true;
    if (reset) {
      rmSync(this.beside('lost'), { force: true });
      domain.rewind = false;
      domain.kept.dirty = false;
    }
    this.keep(domain);
    this.dieIf('late-fence');
    return { committed: domain.kept.committed };
  }

  abort(id: number): void {
    this.dieIf('fatal-abort');
    const domain = this.find(id);
    if (!domain.fenced) {
      throw this.refusal('EBUSY', 'something happened since the last fence');
    }
    domain.kept = { ...domain.kept, open: domain.kept.committed + 1, dirty: false };
    this.keep(domain);
    this.dieIf('late-abort');
  }

  list(): DomainRow[] {
    return [...this.domains.keys()].map((id) => this.row(id));
  }

  /** Whether a volume can be in it. */
  assertOpen(id: number): void {
    this.find(id);
  }

  private get unprotected(): boolean {
    return existsSync(this.beside('unprotected'));
  }

  private row(id: number): DomainRow {
    const { args, kept, rewind } = this.find(id);
    const { name, worker, overflow, commitTimeoutMs, bytes: bytesMax } = args;
    const { generation, open, committed, dirty } = kept;
    const status: DomainStatus = {
      ...{ id, name, state: rewind ? 'rewind' : 'running', generation, open, committed, applied: committed },
      ...{ bytes: dirty ? 4096 : 0, bytesMax, waiting: 0, packets: 3, packetsFenced: 0, packetsLost: 0 },
      ...{ writesFenced: 0, cuts: open - 1, commits: committed, overflows: 0 },
      ...{ unprotected: this.unprotected, connections: 0, recordsBad: 0 },
      times: { cut: NEVER, sync: { count: 2, totalNs: 3000, maxNs: 2000 }, release: NEVER, apply: NEVER },
    };
    return { ...status, worker, overflow, commitTimeoutMs };
  }

  private find(id: number): Open {
    const domain = this.domains.get(id);
    if (domain === undefined) {
      throw this.refusal('ENOENT', `there is no domain ${id}`);
    }
    return domain;
  }

  private running(id: number, generation: number): Open {
    const domain = this.find(id);
    if (domain.rewind) {
      throw this.refusal('EIO', 'its VM must be taken back first');
    }
    if (generation !== domain.kept.generation) {
      throw this.refusal('ESTALE', `it has generation ${domain.kept.generation}`);
    }
    return domain;
  }

  private keep({ args, kept }: Open): void {
    writeFileSync(args.journal, JSON.stringify(kept));
  }

  /** Once. */
  private dieIf(name: string): void {
    if (existsSync(this.beside(name))) {
      rmSync(this.beside(name));
      process.exit(1);
    }
  }
}
