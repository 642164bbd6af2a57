// What happened, for those who were not watching: every line of a supervisor's log is also an event in a
// bounded ring in memory, with a sequence number. The kinds are registered here, with what they mean;
// docs/events.md is generated from this table, and a line of another kind or with another field does not
// compile.
//
// A reader names the last event that it has. Nothing is kept for any reader: one that is too slow finds that
// the ring has gone on without it, and is told so by an event of its own, `events.dropped`. Sequence numbers
// begin at the clock's microseconds, so they grow across restarts of the supervisor too.

export type LogLevel = 'info' | 'warn' | 'error';
export type LogValue = string | number | boolean | null;

export interface EventEntry {
  /** In which state of affairs it is told, and what an operator may conclude. */
  text: string;
  fields: readonly string[];
}

export const EVENTS = {
  'api.failed': { text: 'A request met a defect in outrigger.', fields: ['method', 'url', 'reason'] },
  'api.listening': { text: 'The REST interface is there.', fields: ['socket', 'address', 'port'] },
  'api.request': { text: 'A request that may change something was answered.', fields: ['method', 'url', 'status'] },
  'attachment.added': {
    text: 'A volume, as a disk, or a NIC was attached to a VM; the host hears of it next.',
    fields: ['vm', 'disk', 'nic', 'host', 'volume', 'read_only', 'queues', 'weight'],
  },
  'attachment.changed': {
    text: 'The weight of a disk was set: its share of the I/O hypervisor when several disks want it.',
    fields: ['vm', 'disk', 'weight'],
  },
  'attachment.removed': {
    text: 'A volume or a NIC was detached from a VM; the host is told first, then the engine.',
    fields: ['vm', 'disk', 'nic', 'host', 'volume', 'forced'],
  },
  'cache.changed': {
    text: 'The budget of the block cache was set. It grows at once and shrinks as its blocks come free.',
    fields: ['bytes'],
  },
  'cache.dropped': {
    text: 'The cache forgets what it held of the volume; what was not written out yet stays until it is.',
    fields: ['volume'],
  },
  'cache.abandoned': {
    text: 'The I/O hypervisor stops while the engine cannot open these volumes. Writes to them that a killed engine had acknowledged, covered by no flush, are lost if there are any.',
    fields: ['volumes'],
  },
  'cache.given-up': {
    text: 'An operator gave up what the caches of killed engines had not written out of volumes that were not open: `bytes` of acknowledged writes, and what could not be read.',
    fields: ['bytes'],
  },
  'cache.unreadable': {
    text: 'The engine found memory of the cache of one that was killed, and cannot read it, for the `reason`. Any volume in a file may have acknowledged writes there, so none is opened: see "After an engine was killed" in operations.md.',
    fields: ['reason'],
  },
  'config.partly': { text: 'SIGHUP found changes that only a restart applies.', fields: ['reason'] },
  'config.refused': { text: 'SIGHUP found a wrong file; nothing changed.', fields: ['reason'] },
  'config.reloaded': { text: 'SIGHUP: the list of hosts was read again.', fields: ['hosts'] },
  'config.unchanged': { text: 'SIGHUP has no effect on a host agent.', fields: ['reason'] },
  'device.state': {
    text: 'A disk on a host changed its state: see "Life of a volume and an attachment" in control.md. The I/O hypervisor tells what the host `host` reports.',
    fields: ['host', 'id', 'vm', 'disk', 'state', 'reason'],
  },
  'domain.aborted': {
    text: 'What the VMs of a protection domain wrote and sent after the epoch `committed` is dropped: a VM may resume there.',
    fields: ['domain', 'committed'],
  },
  'domain.changed': {
    text: 'The overflow policy of a protection domain, or how long it waits for a commit (0: for ever), was set.',
    fields: ['domain', 'overflow', 'commit_timeout_ms'],
  },
  'domain.created': {
    text: 'A protection domain was made: the VMs in it are held from the moment on in which the engine follows.',
    fields: ['domain', 'vms', 'bytes', 'overflow', 'commit_timeout_ms'],
  },
  'domain.fenced': {
    text: 'Nothing of an older generation than `generation` has any effect on disks or network any more; the last committed epoch is `committed`.',
    fields: ['domain', 'generation', 'committed'],
  },
  'domain.gone': { text: 'A protection domain is gone, with its journal.', fields: ['domain'] },
  'domain.member-added': {
    text: 'A VM belongs to a protection domain: as one that runs (`active`), or as a copy that may take over (`standby`).',
    fields: ['domain', 'vm', 'role'],
  },
  'domain.member-removed': {
    text: 'A VM is in no protection domain any more; of one that ran everything held is committed.',
    fields: ['domain', 'vm', 'role'],
  },
  'domain.not-created': {
    text: 'A new protection domain could not be opened, so its creation is undone: its VMs go on without.',
    fields: ['domain', 'reason'],
  },
  'domain.opened': {
    text: 'The engine has a protection domain; `state` as in docs/operations.md, "Protecting a VM".',
    fields: ['domain', 'state', 'generation', 'committed'],
  },
  'domain.overflow': {
    text: 'A protection domain holds all that it may: commit, or give it more. As its policy says, writes wait and packets are dropped, or it goes on without protection. Once, until half of it is free again.',
    fields: ['domain'],
  },
  'domain.removed': {
    text: 'A protection domain is given up: what it holds is committed, and then it goes.',
    fields: ['domain', 'forced'],
  },
  'domain.reset': {
    text: 'An operator says that the VMs of a domain in the state `rewind` may run: they were taken back to the last committed epoch, or it is known that they were not.',
    fields: ['domain', 'generation'],
  },
  'domain.rewind-needed': {
    text: 'A protection domain was opened without what it held, as after a power failure. It refuses all I/O until its VM was taken back to the last committed epoch: see "Protecting a VM" in operations.md.',
    fields: ['domain'],
  },
  'domain.takeover': {
    text: 'The VMs `active` run from now on, and those in `fenced` are refused everything. `domain.fenced` says when that is so.',
    fields: ['domain', 'generation', 'active', 'fenced', 'uncommitted'],
  },
  'domain.timeout': {
    text: 'A protection domain was not committed for longer than its commit timeout. Once, until there is a commit.',
    fields: ['domain'],
  },
  'domain.trouble': {
    text: 'A protection domain cannot do its work. `what` is `journal` (an epoch could not be written; the commit failed and may be tried again), `condemned` (a sync failed: nothing can be committed before the engine was restarted) or `apply` (a volume cannot be written; tried again, and reads are right).',
    fields: ['domain', 'what'],
  },
  'domain.unprotected': {
    text: 'A protection domain goes on without protection, as its overflow policy says: what its VMs do comes out at once. The next cut ends it.',
    fields: ['domain'],
  },
  'epoch.committed': {
    text: '`count` epochs of a protection domain were committed since the last such event; `epoch` is the latest. At most one per domain and second.',
    fields: ['domain', 'epoch', 'count'],
  },
  'epoch.cut': {
    text: '`count` epochs of a protection domain were begun since the last such event; `epoch` is the open one. At most one per domain and second.',
    fields: ['domain', 'epoch', 'count'],
  },
  document: {
    text: 'The I/O hypervisor told the host agent which disks and NICs it has.',
    fields: ['version', 'devices'],
  },
  'document.refused': { text: 'What the I/O hypervisor told makes no sense; nothing changed.', fields: ['reason'] },
  'engine.active': {
    text: 'An engine was activated, `after_ms` after the end of the last one.',
    fields: ['pid', 'build', 'after_ms'],
  },
  'engine.crash-loop': { text: 'Engines keep dying; the next one waits.', fields: ['deaths', 'wait_ms'] },
  'engine.died': { text: 'The engine is gone; another one is started.', fields: ['pid', 'reason', 'deaths'] },
  'engine.hung': { text: 'The engine answers no pings and is killed.', fields: ['pid'] },
  'engine.learnt': {
    text: 'The supervisor knows what the engine has; what differs from the desired state is changed from now on.',
    fields: ['hosts', 'volumes', 'exports', 'nics', 'devices', 'left', 'session'],
  },
  'engine.leftover': {
    text: 'An engine that a supervisor before this one did not get to end is ended.',
    fields: ['pid', 'state'],
  },
  'engine.replaced': { text: 'A running engine is stopped for a new one.', fields: ['reason'] },
  'engine.serving': {
    text: 'The engine does what the last one did, `blackout_ms` after the end of that one.',
    fields: ['pid', 'blackout_ms'],
  },
  'engine.standby': { text: 'Another engine is ready for the end of the active one.', fields: ['pid', 'build'] },
  'engine.standby-failed': {
    text: 'The standby could not be started, or ended; there will be another one.',
    fields: ['pid', 'reason'],
  },
  'engine.start-failed': { text: 'No engine could be started or reached.', fields: ['reason'] },
  'engine.started': { text: 'A new engine process.', fields: ['pid', 'log'] },
  'engine.stop-slow': {
    text: 'The engine of an I/O hypervisor that stops has not written out yet what its caches hold. It is waited for.',
    fields: ['pid'],
  },
  'engine.stop-timeout': { text: 'The engine did not end when told to and is killed.', fields: ['pid'] },
  'engine.superseded': {
    text: 'Another supervisor has claimed the engine; this one ends and leaves the engines to it.',
    fields: ['pid'],
  },
  'engine.undrained': {
    text: 'The engine to be replaced could not be drained; requests under way are repeated by the next one.',
    fields: ['pid', 'reason'],
  },
  'engine.unlearnable': { text: 'The engine could not say what it has; it is asked again.', fields: ['reason'] },
  'engine.up': { text: 'Connected to an engine, a new one or one that was running.', fields: ['pid', 'mac', 'mtu'] },
  'engine.upgraded': {
    text: 'The engine was replaced by one of the present build; `blackout_ms` as in engine.serving.',
    fields: ['from', 'to', 'pid', 'blackout_ms'],
  },
  'events.dropped': {
    text: 'Told to one reader, not logged: what lies between the event that it named and the next one is not held (any more). `reason` is `overrun` (the reader was too slow; `count` events are lost) or `restart` (it named an event of another life of the supervisor).',
    fields: ['reason', 'count'],
  },
  'host.down': { text: 'The session with a host ended.', fields: ['host', 'reason'] },
  'host.up': { text: 'A host has a session.', fields: ['host'] },
  'keep.failed': {
    text: 'The engine does not leave its devices, or its cache, with the supervisor: should it die, QEMU has to connect again, or acknowledged writes that the cache holds are lost. An I/O hypervisor opens no volume that is not open yet until it can.',
    fields: ['reason'],
  },
  'layers.merged': {
    text: 'Two layers of volumes have become one, because nothing needed the lower one but the upper one: `path` has what both had, and `removed` goes.',
    fields: ['path', 'removed'],
  },
  'layers.unmerged': {
    text: 'What a removed snapshot or clone leaves cannot be merged now with what was written to the volume since; the next snapshot of it, or the next removal of one, does that.',
    fields: ['volume', 'reason'],
  },
  'link.down': {
    text: 'One of two links of a session is given up while the other works; nothing is lost. `host` is told by the I/O hypervisor only, `interface` is the one on the machine that tells.',
    fields: ['host', 'link', 'interface'],
  },
  'link.up': {
    text: 'A link of a session works, beside the one that it began on or again.',
    fields: ['host', 'link', 'interface'],
  },
  'nic.changed': {
    text: 'The rate, the link, the addresses or the check of a NIC were set; `changed` says from what to what.',
    fields: ['nic', 'changed'],
  },
  'nic.created': {
    text: 'A NIC was made; its interface, if it has one, is set up next.',
    fields: ['nic', 'kind', 'mac', 'interface', 'hub'],
  },
  'nic.qmp-failed': {
    text: "The host agent cannot ask QEMU's monitor what the guest wants to receive, so the default filter holds; it tries again every second, and tells another reason only.",
    fields: ['qmp', 'reason'],
  },
  'nic.removed': { text: 'A NIC is given up; its interface goes, if it was made for it.', fields: ['nic'] },
  'nic.state': {
    text: 'A NIC of a VM on a host changed its state: see "Life of a NIC" in control.md. The I/O hypervisor tells what the host `host` reports.',
    fields: ['host', 'id', 'vm', 'nic', 'state', 'reason'],
  },
  'port.down': {
    text: 'A network interface is gone, switched off or without carrier; the engine waits for it.',
    fields: ['interface'],
  },
  'port.up': { text: 'A network interface is back.', fields: ['interface'] },
  'report.failed': { text: 'The host agent could not report; it tries again.', fields: ['reason'] },
  'report.refused': { text: "A host's report makes no sense; nothing changed.", fields: ['host', 'reason'] },
  'segment.intrusion': {
    text: 'More than 100 frames in a second (`count`) that no peer with a key would send, told at most once in 10 s. `reason` is that of most of them (see wire.md; `filtered`: kept out by the kernel), `source` the address that the last one bore. Somebody on the segment attacks, or a cable or switch damages or doubles frames: see operations.md.',
    fields: ['count', 'reason', 'source'],
  },
  'session.down': { text: 'The session with the I/O hypervisor ended.', fields: ['reason'] },
  'session.up': { text: 'The host agent has a session with the I/O hypervisor.', fields: [] },
  'snapshot.created': { text: 'What a volume holds has a name from now on.', fields: ['volume', 'snapshot'] },
  'snapshot.removed': {
    text: 'A snapshot is given up; what only it needed is removed.',
    fields: ['volume', 'snapshot'],
  },
  'snapshot.rolled-back': {
    text: 'A volume holds again what it held when the snapshot was taken; the engine opens it anew.',
    fields: ['volume', 'snapshot'],
  },
  'step.done': {
    text: 'The engine followed the desired state by one step. `restored`: the device goes on with the QEMU that the last engine had.',
    fields: ['step', 'key', 'socket', 'restored'],
  },
  'step.failed': {
    text: 'A step did not succeed; it is tried again.',
    fields: ['step', 'key', 'reason', 'retry_ms'],
  },
  stopping: { text: 'The supervisor ends, with its engine; at SIGQUIT without.', fields: ['signal'] },
  'tokens.unreadable': { text: 'The file of bearer tokens cannot be read: nobody is let in.', fields: ['reason'] },
  'volume.error': {
    text: 'The storage below a volume failed, `count` times since the last such event; `op`, `error` and `offset` are of the latest time. With `flush_failed` acknowledged data may be lost: see "Storage errors" in operations.md. At most one per volume and second.',
    fields: ['volume', 'op', 'error', 'offset', 'count', 'flush_failed'],
  },
  'volume.export_failed': {
    text: 'Reading a volume for an export failed; the client was cut off.',
    fields: ['volume', 'reason'],
  },
  'volume.import_removed': { text: 'What an interrupted import left behind is removed.', fields: ['path'] },
  'volume.import_unremoved': {
    text: 'What an interrupted import left behind cannot be removed: remove it by hand.',
    fields: ['volume', 'dir', 'reason'],
  },
  'volume.changed': {
    text: 'The time after which requests of a volume become errors, its rate (0: none), how it uses the block cache, or the worker that it is pinned to (null: none) was set.',
    fields: ['volume', 'io_timeout_ms', 'iops', 'bytes_per_s', 'cache', 'worker'],
  },
  'volume.cloned': {
    text: 'A volume was made that holds what `base` holds, or held when `snapshot` was taken; the engine opens it next.',
    fields: ['volume', 'size', 'base', 'snapshot'],
  },
  'volume.created': {
    text: 'A volume was made or adopted; the engine opens it next.',
    fields: ['volume', 'kind', 'size', 'adopted'],
  },
  'volume.imported': {
    text: 'A volume was made from a stream, and every digest of it agreed.',
    fields: ['volume', 'bytes', 'stored', 'digest'],
  },
  'volume.lost': {
    text: 'The storage refused `bytes` that the write-back cache had to write out, again and again until the volume was closed: these writes, which no flush had covered, are lost. See "Storage errors" in operations.md.',
    fields: ['volume', 'bytes'],
  },
  'volume.moved': {
    text: 'Another worker serves the volume from now on, `ms` after it was asked to; guests notice nothing. `reason` is the policy, `pinned` or `operator`.',
    fields: ['volume', 'from', 'to', 'reason', 'ms'],
  },
  'volume.removed': {
    text: 'A volume is given up; its file goes, unless it is kept, when the engine has closed it.',
    fields: ['volume', 'kept'],
  },
  'volume.resumed': { text: 'A volume whose making was interrupted is finished.', fields: ['volume'] },
  'volume.unfinished': {
    text: 'It could not be finished; creating it again tries again.',
    fields: ['volume', 'reason'],
  },
} as const satisfies Record<string, EventEntry>;

export type EventKind = keyof typeof EVENTS;
/** A field that is undefined is left out. */
export type EventFields<K extends EventKind> = { [F in (typeof EVENTS)[K]['fields'][number]]?: LogValue | undefined };

export interface LoggedEvent {
  seq: number;
  /** ISO 8601. */
  time: string;
  level: LogLevel;
  kind: EventKind;
  fields: Record<string, LogValue>;
}

export const EVENTS_CAPACITY = 1024;
/** Longer texts are cut: what another machine says shall not fill our memory. */
export const EVENT_TEXT_MAX = 1024;

export class EventLog {
  private readonly capacity: number;
  private readonly firstSeq: number;
  private readonly held: LoggedEvent[] = [];
  private readonly waiters = new Set<() => void>();
  private nextSeq: number;

  constructor(capacity = EVENTS_CAPACITY, firstSeq = Date.now() * 1000) {
    this.capacity = capacity;
    this.firstSeq = firstSeq;
    this.nextSeq = firstSeq;
  }

  add<K extends EventKind>(level: LogLevel, kind: K, fields: EventFields<K>): void {
    this.held.push(toEvent(this.nextSeq++, level, kind, fields));
    if (this.held.length > this.capacity) {
      this.held.shift();
    }
    for (const wake of this.waiters) {
      wake();
    }
  }

  /** What is held and newer than `after`, oldest first, and whether anything between the two is lost; undefined: all. */
  since(after?: number): LoggedEvent[] {
    if (after === undefined) {
      return [...this.held];
    }
    const oldest = this.held[0]?.seq ?? this.nextSeq;
    const isForeign = after < this.firstSeq - 1 || after >= this.nextSeq;
    if (isForeign || after < oldest - 1) {
      const fields = isForeign ? { reason: 'restart' } : { reason: 'overrun', count: oldest - 1 - after };
      return [toEvent(oldest - 1, 'warn', 'events.dropped', fields), ...this.held];
    }
    return this.held.slice(after + 1 - oldest);
  }

  /** The same, but waits for something to tell: until timeoutMs have passed or the signal says that nobody listens. */
  async next(after: number, timeoutMs: number, signal: AbortSignal): Promise<LoggedEvent[]> {
    if (this.since(after).length === 0 && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.waiters.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, timeoutMs);
        this.waiters.add(wake);
        signal.addEventListener('abort', wake, { once: true });
      });
    }
    return this.since(after);
  }
}

function toEvent<K extends EventKind>(seq: number, level: LogLevel, kind: K, fields: EventFields<K>): LoggedEvent {
  const entries = Object.entries<LogValue | undefined>(fields).flatMap(([key, value]): [string, LogValue][] =>
    value === undefined ? [] : [[key, typeof value === 'string' ? value.slice(0, EVENT_TEXT_MAX) : value]],
  );
  return { seq, time: new Date().toISOString(), level, kind, fields: Object.fromEntries(entries) };
}
