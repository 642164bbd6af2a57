// Stands in for the workers of one engine process, which are threads of the C core, in tests of what their owner
// does with them: each knows its own hosts, volumes and exports, and refuses what the core would refuse. What only
// goes wrong when memory is short can be made to go wrong here.
import type { NativeCommands, NativeEngine } from '../../../src/native/addon.js';

export interface ExportState {
  volume: string;
  here: boolean;
  pending: boolean;
  placement: number;
}

/** What several workers share: a volume that one gave and no other has taken. */
export class Shelf {
  readonly given = new Set<string>();
}

type AddArgs = NativeCommands['export.add']['args'];
type Refuse = (command: keyof NativeCommands, args: unknown) => boolean;

export class WorkerDouble implements NativeEngine {
  readonly volumes = new Set<string>();
  readonly exports = new Map<number, ExportState>();
  readonly hosts = new Map<string, { admitted: boolean }>();
  readonly nics = new Map<number, string>();
  readonly log: string[] = [];
  /** Whether a command fails as if memory were short. */
  refuse: Refuse = () => false;
  /** An export that is here stays so until this resolves: what it executes takes so long. */
  executing: Promise<void> = Promise.resolve();
  private readonly shelf: Shelf;

  constructor(shelf: Shelf) {
    this.shelf = shelf;
  }

  async submit<C extends keyof NativeCommands>(
    command: C,
    args: NativeCommands[C]['args'],
  ): Promise<NativeCommands[C]['result']> {
    this.log.push(command);
    if (this.refuse(command, args)) {
      throw refusal('ENOMEM');
    }
    return (await this.run(command, args as Record<string, unknown>)) as NativeCommands[C]['result'];
  }

  port = () => ({ mac: '02:00:00:00:00:01', mtu: 9000 });
  begin(): void {}
  halt(): void {}
  stop(): void {}

  private async run(command: keyof NativeCommands, args: Record<string, unknown>): Promise<unknown> {
    const [name, id] = [String(args.name), Number(args.id)];
    switch (command) {
      case 'host.add':
        assertThat(!this.hosts.has(name), 'EEXIST');
        this.hosts.set(name, { admitted: false });
        return undefined;
      case 'host.admit':
        this.hosts.set(name, { admitted: true });
        return undefined;
      case 'host.remove':
        assertThat(this.hosts.delete(name), 'ENOENT');
        return undefined;
      case 'hosts':
        return [...this.hosts].map(([host, { admitted }]) => ({
          ...{ name: host, up: admitted, mac: null, srttUs: 1, requests: 3, inFlight: 1, mtu: 9000, links: [] },
        }));
      case 'volume.open':
        assertThat(!this.volumes.has(name), 'EEXIST');
        assertThat(args.passed !== true || this.shelf.given.delete(name), 'ENOENT');
        this.volumes.add(name);
        return { size: 4096, blockSize: 512, physicalBlockSize: 512, direct: false, discard: true, writeZeroes: true };
      case 'volume.give':
        assertThat(this.volumes.has(name), 'ENOENT');
        assertThat(![...this.exports.values()].some((one) => one.volume === name && one.here), 'EBUSY');
        this.volumes.delete(name);
        this.shelf.given.add(name);
        return undefined;
      case 'volume.close':
        assertThat(this.volumes.delete(name), 'ENOENT');
        return undefined;
      case 'export.add':
        return this.addExport(id, args as unknown as AddArgs);
      case 'export.remove':
        assertThat(this.exports.delete(id), 'ENOENT');
        return undefined;
      case 'nic.open':
        this.nics.set(id, name);
        return undefined;
      case 'nic.set':
        assertThat(this.nics.has(id), 'ENOENT');
        return undefined;
      case 'nic.close':
        assertThat(this.nics.delete(id), 'ENOENT');
        return undefined;
      case 'nic.list':
        return [...this.nics.keys()].map((nic) => ({ id: nic, gone: false, stats: {} }));
      case 'loads':
        return { exports: [...this.exports.keys()].map((one) => ({ id: one, requests: 1, bytes: 2, inFlight: 0 })) };
      default:
        return undefined;
    }
  }

  private async addExport(id: number, args: AddArgs): Promise<void> {
    const { volume, pending, placement = 0, elsewhere = false } = args;
    if (elsewhere) {
      const present = this.exports.get(id);
      if (present?.here === true && !present.pending) {
        await this.executing;
      }
    } else {
      assertThat(pending || this.volumes.has(volume), 'ENOENT');
    }
    this.exports.set(id, { volume, pending, placement, here: !elsewhere });
  }
}

function assertThat(condition: boolean, code: string): void {
  if (!condition) {
    throw refusal(code);
  }
}

const refusal = (code: string) => Object.assign(new Error(code), { code });
