// What the guests want to receive, as QEMU knows it: it keeps virtio-net's control queue, and tells on its monitor
// (query-rx-filter, NIC_RX_FILTER_CHANGED). For every monitor that an attachment names there is one connection, for
// all NICs behind it; where there is none, or it does not know the NIC, the filter is null: the default one.
import { setTimeout as sleep } from 'node:timers/promises';
import { type Static, Type } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { messageOf } from '../errors.js';
import { FILTER_MACS_MAX, type NetEntry } from './documents.js';
import { qemuNicId } from './names.js';
import type { RxFilter } from './protocol.js';
import { QmpClient } from './qmp.js';

const Mode = Type.Union([Type.Literal('normal'), Type.Literal('none'), Type.Literal('all')]);
const Table = Type.Array(Type.String({ pattern: '^[0-9A-Fa-f:]{17}$' }), { maxItems: 4096 });
const Entry = Type.Object({
  name: Type.String(),
  promiscuous: Type.Boolean(),
  unicast: Mode,
  multicast: Mode,
  'unicast-overflow': Type.Boolean(),
  'multicast-overflow': Type.Boolean(),
  'main-mac': Type.String({ pattern: '^[0-9A-Fa-f:]{17}$' }),
  'unicast-table': Table,
  'multicast-table': Table,
});
const Answer = Type.Array(Entry, { maxItems: 256 });
type Entry = Static<typeof Entry>;

/** A guest can change its filter as often as it likes; we look this often. */
const LOOK_INTERVAL_MS = 100;
const RETRY_MS = 1000;

/** The entry of a NIC: by the id that we give it, else by its address, as under libvirt. */
function entryOf({ nic, mac }: NetEntry, entries: readonly Entry[]): Entry | undefined {
  const byAddress = entries.filter((entry) => entry['main-mac'].toLowerCase() === mac);
  return entries.find(({ name }) => name === qemuNicId(nic)) ?? (byAddress.length === 1 ? byAddress[0] : undefined);
}

export function toFilter(entry: Entry): RxFilter {
  const unicast = entry.unicast === 'none' ? [] : [entry['main-mac'], ...entry['unicast-table']];
  const multicast = entry.multicast === 'none' ? [] : entry['multicast-table'];
  const macs = [...new Set([...unicast, ...multicast].map((mac) => mac.toLowerCase()))].sort();
  const isTooMany = macs.length > FILTER_MACS_MAX;
  return {
    promiscuous: entry.promiscuous || entry.unicast === 'all' || entry['unicast-overflow'] || isTooMany,
    allMulticast: entry.multicast === 'all' || entry['multicast-overflow'] || isTooMany,
    macs: isTooMany ? [] : macs,
  };
}

export interface RxFiltersOptions {
  /** A filter became another. */
  onChange(): void;
  onFailure(qmp: string, reason: string): void;
}

/** One monitor, connected to again and again until nobody wants it any more. */
class Monitor {
  entries: readonly Entry[] = [];
  private readonly stopping = new AbortController();
  private client: QmpClient | undefined;
  private dirty = false;
  private wake: () => void = () => {};

  constructor(path: string, options: RxFiltersOptions) {
    void this.run(path, options);
  }

  stop(): void {
    this.stopping.abort();
    this.client?.close();
    this.wake();
  }

  private async run(path: string, options: RxFiltersOptions): Promise<void> {
    const { signal } = this.stopping;
    let told = '';
    while (!signal.aborted) {
      let reason: string;
      try {
        this.client = await QmpClient.connect(path);
        told = '';
        reason = await this.follow(this.client, options);
      } catch (error) {
        reason = messageOf(error);
      }
      this.client?.close();
      this.client = undefined;
      if (signal.aborted) {
        return;
      }
      if (reason !== told) {
        options.onFailure(path, reason);
        told = reason;
      }
      this.take([], options);
      await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
    }
  }

  /** Resolves with the reason when the connection has ended. */
  private async follow(client: QmpClient, options: RxFiltersOptions): Promise<string> {
    const { signal } = this.stopping;
    client.onEvent = (name) => {
      if (name === 'NIC_RX_FILTER_CHANGED') {
        this.dirty = true;
        this.wake();
      }
    };
    let over: string | undefined;
    void client.closed.then((reason) => {
      over = reason;
      this.wake();
    });
    this.dirty = true;
    while (over === undefined && !signal.aborted) {
      if (this.dirty) {
        this.dirty = false; // QEMU tells the next change only after this question
        const answer = await client.execute('query-rx-filter');
        if (!Value.Check(Answer, answer)) {
          throw new Error('QEMU answers query-rx-filter in a way that this version does not know');
        }
        this.take(answer, options);
        await sleep(LOOK_INTERVAL_MS, undefined, { signal }).catch(() => {});
      } else {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      }
    }
    return over ?? 'no longer wanted';
  }

  private take(entries: readonly Entry[], options: RxFiltersOptions): void {
    const isNew = JSON.stringify(entries) !== JSON.stringify(this.entries);
    this.entries = entries;
    if (isNew) {
      options.onChange();
    }
  }
}

export class RxFilters {
  private readonly options: RxFiltersOptions;
  private readonly monitors = new Map<string, Monitor>();

  constructor(options: RxFiltersOptions) {
    this.options = options;
  }

  /** From now on the monitors of these NICs are followed, and no others. */
  follow(nics: readonly NetEntry[]): void {
    const wanted = new Set(nics.flatMap(({ qmp }) => qmp ?? []));
    for (const [path, monitor] of this.monitors) {
      if (!wanted.has(path)) {
        monitor.stop();
        this.monitors.delete(path);
      }
    }
    for (const path of wanted) {
      if (!this.monitors.has(path)) {
        this.monitors.set(path, new Monitor(path, this.options));
      }
    }
  }

  /** undefined: the default one. */
  filterOf(nic: NetEntry): RxFilter | undefined {
    const entry = entryOf(nic, this.monitors.get(nic.qmp ?? '')?.entries ?? []);
    return entry && toFilter(entry);
  }

  stop(): void {
    this.follow([]);
  }
}
