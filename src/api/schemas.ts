// Every request and answer of the REST interface. The server validates and serialises with these, the
// OpenAPI document is generated from them, the command line takes its types from them.
import { type Static, Type } from '@sinclair/typebox';
import { EVENTS_WAIT_S_MAX, IO_TIMEOUT_MS_MAX, NAME_PATTERN, WORKERS_MAX } from '../config/rules.js';
import { type PortMode, WEIGHT_DEFAULT, WEIGHT_MAX } from '../supervisor/protocol.js';
import type { LogValue } from '../telemetry/events.js';
import { CACHE_SCHEMAS, VolumeCacheChange, VolumeCacheView } from './cache-schemas.js';
import { DOMAIN_SCHEMAS, type DomainView } from './domain-schemas.js';
import { NIC_SCHEMAS, NicAttachRequest, type NicView, VmNicView } from './nic-schemas.js';
import { bytes, closed, Name, name, nullable, oneOf } from './schema-parts.js';
import { SNAPSHOT_SCHEMAS } from './snapshot-schemas.js';

const NAME = NAME_PATTERN.slice(1, -1);
const flag = (description: string) =>
  Type.Unsafe<'true' | 'false'>({ type: 'string', enum: ['true', 'false'], default: 'false', description });

export const Problem = Type.Object(
  {
    type: Type.String({ description: 'address that explains this kind of problem' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String({ description: 'what is wrong, in this case' }),
    code: Type.String({ description: 'name of the error, see docs/errors.md' }),
    hint: Type.String({ description: 'how to mend it' }),
  },
  { $id: 'Problem', description: 'RFC 9457 problem' },
);
export type Problem = Static<typeof Problem>;

export const ErrorInfo = Type.Object(
  { code: Type.String(), title: Type.String(), status: Type.Integer(), exit: Type.Integer(), hint: Type.String() },
  { $id: 'ErrorInfo', description: 'an entry of the error registry' },
);

// --- Volumes ---

export const VolumeUse = Type.Object({
  vm: Type.String(),
  disk: Type.String(),
  host: Type.String(),
  read_only: Type.Boolean(),
});

const amount = (description: string) => Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, description });
const rate = {
  bytes_per_s: amount('read and written; 0: no limit'),
  burst_bytes: amount("what may pass at once after a pause; 0: a tenth of a second's worth"),
  iops: amount('requests per second; 0: no limit'),
  burst_ops: amount("likewise; 0: a tenth of a second's worth"),
};
export const VolumeRate = Type.Object(rate, {
  $id: 'VolumeRate',
  description: 'how much may pass through each disk that the volume is attached as',
});
export type VolumeRate = Static<typeof VolumeRate>;
const RateChange = Type.Partial(Type.Object(rate), { ...closed, description: 'what is left out stays as it is' });

export const VolumeView = Type.Object(
  {
    name: Type.String(),
    kind: oneOf(['file', 'ram', 'null'], 'ram: memory, lost when the engine ends; null: keeps nothing'),
    path: nullable(Type.String(), 'the file that it is written to'),
    layers: Type.Array(Type.String(), {
      description: 'its files, the one that is written to first; what is not in one is in the next. Most have one',
    }),
    merging: nullable(
      Type.Integer({
        ...{ minimum: 0, maximum: 100 },
        description: 'two of its layers are becoming one, of which so many percent have been looked at; null: none are',
      }),
    ),
    base: nullable(Type.String({ description: 'of a clone, what it began with: BASE or BASE@SNAPSHOT' })),
    clones: Type.Array(Type.String(), { description: 'volumes that began with it or a snapshot of it' }),
    snapshots: Type.Array(Type.String()),
    size: bytes('size'),
    block_size: bytes('logical block'),
    read_only: Type.Boolean(),
    io_timeout_ms: Type.Integer({
      description: 'after which a request that is not answered becomes an error for the guest, milliseconds; 0: never',
    }),
    rate: Type.Ref('VolumeRate#'),
    cache: nullable(VolumeCacheView, 'null: a ram or null volume needs none'),
    worker: Type.Integer({ description: 'the worker that serves it, or will when it is open' }),
    pinned: Type.Boolean({ description: 'it stays with that worker' }),
    adopted: Type.Boolean({ description: 'its file was there before and stays when the volume is removed' }),
    state: oneOf(
      ['creating', 'opening', 'open', 'failed', 'deleting', 'waiting'],
      'waiting: for the engine; opening may take as long as a predecessor has writes under way',
    ),
    reason: Type.String({ description: 'why it failed; else empty' }),
    errors: Type.Integer({ minimum: 0, description: 'of its storage, since the engine opened it' }),
    last_error: nullable(Type.String(), 'the latest of them'),
    attachments: Type.Array(VolumeUse),
  },
  { $id: 'Volume' },
);
export type VolumeView = Omit<Static<typeof VolumeView>, 'rate'> & { rate: VolumeRate };

const IoTimeout = Type.Integer({
  minimum: 0,
  maximum: IO_TIMEOUT_MS_MAX,
  description:
    'milliseconds after which a request that is not answered becomes an I/O error for the guest; 0, the default: it waits, as on a local disk',
});

const WorkerNumber = Type.Integer({ minimum: 0, maximum: WORKERS_MAX - 1 });

export const VolumeChange = Type.Object(
  {
    io_timeout_ms: Type.Optional(IoTimeout),
    rate: Type.Optional(RateChange),
    cache: Type.Optional(VolumeCacheChange),
    worker: Type.Optional(nullable(WorkerNumber, 'pins it to this worker; null: to none')),
  },
  {
    ...closed,
    minProperties: 1,
    $id: 'VolumeChange',
    description: 'what can be changed of a volume, also while it is in use',
  },
);
export type VolumeChange = Static<typeof VolumeChange>;

export const MoveRequest = Type.Object(
  { worker: { ...WorkerNumber, description: 'the worker that is to serve it' } },
  { ...closed, $id: 'MoveRequest' },
);
export type MoveRequest = Static<typeof MoveRequest>;

export const VolumeRequest = Type.Object(
  {
    size: Type.Optional(
      Type.Integer({ minimum: 512, maximum: Number.MAX_SAFE_INTEGER, description: 'size of a new volume, bytes' }),
    ),
    kind: Type.Optional(oneOf(['file', 'ram', 'null'], 'of a new volume; default: file, a sparse one')),
    block_size: Type.Optional(
      Type.Unsafe<512 | 4096>({
        type: 'integer',
        enum: [512, 4096],
        description: 'logical block of a new ram or null volume, bytes; default 512',
      }),
    ),
    adopt: Type.Optional(
      Type.String({ pattern: '^/', description: 'absolute path of a raw file or block device on the I/O hypervisor' }),
    ),
    read_only: Type.Optional(Type.Boolean({ description: 'never write to what is adopted; default false' })),
    from: Type.Optional(
      Type.String({
        pattern: `^${NAME}(@${NAME})?$`,
        description: 'BASE or BASE@SNAPSHOT, of which the new volume is a clone; `size` may make it larger',
      }),
    ),
    io_timeout_ms: Type.Optional(IoTimeout),
    rate: Type.Optional(RateChange),
    cache: Type.Optional(VolumeCacheChange),
  },
  {
    ...closed,
    $id: 'VolumeRequest',
    description: 'a new volume (`size`), one that exists already (`adopt`), or a clone (`from`)',
  },
);
export type VolumeRequest = Static<typeof VolumeRequest>;

const transferred = {
  bytes: bytes('size of the volume'),
  digest: Type.String({ description: 'XXH3-128 of the content, hexadecimal: what `xxhsum -H2` prints for its file' }),
};
export const DigestView = Type.Object(transferred, { $id: 'Digest' });
export const ImportView = Type.Object(
  { ...transferred, stored: bytes('size of the stream') },
  { $id: 'Import', description: 'a volume that came as a stream' },
);
export type DigestView = Static<typeof DigestView>;
export type ImportView = Static<typeof ImportView>;

// --- VMs ---

export const DiskView = Type.Object(
  {
    id: Type.Integer({ description: 'attachment id' }),
    generation: Type.Integer({ description: 'requests of an older generation are refused' }),
    vm: Type.String(),
    disk: Type.String(),
    host: Type.String(),
    volume: Type.String(),
    worker: Type.Integer({ description: 'the worker of the I/O hypervisor that serves it' }),
    size: nullable(bytes('size; null until the volume was opened once')),
    read_only: Type.Boolean(),
    queues: Type.Integer(),
    weight: nullable(Type.Integer({ description: 'its share beside other disks; null: the I/O hypervisor knows it' })),
    state: oneOf(
      ['pending', 'listening', 'connected', 'running', 'broken'],
      'pending: the host has not made it yet; listening: no QEMU; connected: QEMU is there; running: the guest drives it',
    ),
    reason: Type.String({ description: 'why it is pending or broken, or what makes the state doubtful; else empty' }),
    socket: Type.String({ description: 'vhost-user socket on the host' }),
    socket_reported: Type.Boolean({ description: 'false: the default place, the host has not said its own yet' }),
  },
  { $id: 'Disk' },
);
export type DiskView = Static<typeof DiskView>;

export const VmView = Type.Object(
  {
    name: Type.String(),
    host: Type.String(),
    disks: Type.Array(Type.Ref('Disk#')),
    nics: Type.Array(Type.Ref('VmNic#')),
  },
  { $id: 'Vm', description: 'a VM exists as long as it has disks or NICs' },
);
export interface VmView {
  name: string;
  host: string;
  disks: DiskView[];
  nics: VmNicView[];
}

const Weight = Type.Integer({
  minimum: 1,
  maximum: WEIGHT_MAX,
  description: `share of the I/O hypervisor when several disks want it, in proportion; default ${WEIGHT_DEFAULT}`,
});

export const DiskChange = Type.Object(
  { weight: Weight },
  { ...closed, $id: 'DiskChange', description: 'what can be changed of a disk, also while it is in use' },
);
export type DiskChange = Static<typeof DiskChange>;

export const AttachRequest = Type.Object(
  {
    vm: Name,
    host: Name,
    disks: Type.Optional(
      Type.Array(
        Type.Object(
          {
            volume: Name,
            name: Type.Optional(name("name of the disk within the VM; default: the volume's")),
            read_only: Type.Optional(Type.Boolean({ description: 'default false' })),
            queues: Type.Optional(Type.Integer({ minimum: 1, maximum: 16, description: 'virtqueues; default 1' })),
            weight: Type.Optional(Weight),
          },
          closed,
        ),
      ),
    ),
    nics: Type.Optional(Type.Array(NicAttachRequest)),
  },
  { ...closed, $id: 'AttachRequest', description: 'at least one disk or NIC; all are attached, or none' },
);
export type AttachRequest = Static<typeof AttachRequest>;

// --- Hosts, status ---

export const LinkView = Type.Object(
  {
    up: Type.Boolean({ description: 'it carries requests' }),
    srtt_us: Type.Number({ description: 'smoothed round trip, microseconds' }),
    frames_lost: Type.Integer(),
    frames: oneOf(['plain', 'super'], 'how frames leave: each by itself, or several at once where several wait'),
    frames_why: Type.String({ description: 'why so' }),
  },
  { $id: 'Link', description: 'one of the links of a session: a pair of network interfaces' },
);
export type LinkView = Static<typeof LinkView>;

export const HostView = Type.Object(
  {
    name: Type.String(),
    up: Type.Boolean({ description: 'its session is established' }),
    mac: nullable(Type.String()),
    since: nullable(Type.String({ format: 'date-time' })),
    srtt_us: Type.Number({ description: 'smoothed round trip, microseconds' }),
    requests: Type.Integer(),
    in_flight: Type.Integer(),
    mtu: Type.Integer({ description: 'of its session, bytes; 0 without one' }),
    links: Type.Array(Type.Ref('Link#'), { description: 'of its session' }),
    workers: Type.Array(Type.Boolean(), {
      description: 'of each of several workers, whether the host has a session with it: it makes one when it needs it',
    }),
    agent_version: nullable(Type.String()),
    disks: Type.Integer({ description: 'disks attached on it' }),
    nics: Type.Integer({ description: 'NICs attached on it' }),
  },
  { $id: 'Host' },
);
export type HostView = Omit<Static<typeof HostView>, 'links'> & { links: LinkView[] };

export const WorkerView = Type.Object(
  {
    worker: Type.Integer(),
    cpu: nullable(Type.Integer({ description: 'that it is pinned to' })),
    utilisation: Type.Number({ description: 'the part of the time in which it did not sleep, 0 to 1' }),
    requests_per_s: Type.Integer(),
    sessions: Type.Integer({ description: 'with hosts' }),
    volumes: Type.Integer({ description: 'that it has open' }),
    nics: Type.Integer({ description: 'that it has open' }),
  },
  { $id: 'Worker', description: 'a polling thread of the engine; rates are of the moment in which it was looked at' },
);
export type WorkerView = Static<typeof WorkerView>;

const SessionWorker = Type.Object(
  { worker: Type.Integer(), up: Type.Boolean(), in_flight: Type.Integer() },
  { description: 'a session with one of the workers of the I/O hypervisor' },
);

export const EngineProcessView = Type.Object(
  {
    pid: Type.Integer(),
    state: oneOf(['active', 'standby'], 'standby: loaded, holds nothing, waits for the end of the active one'),
    version: Type.String(),
    build: Type.String({ description: 'tells the code that it runs from any other' }),
    present: Type.Boolean({ description: 'an engine that is started now would run the same build' }),
    since: Type.String({ format: 'date-time', description: 'active, or started when it stands by' }),
  },
  { $id: 'EngineProcess' },
);
export type EngineProcessView = Static<typeof EngineProcessView>;

const blackoutMs = (description: string) => nullable(Type.Number(), `${description}, ms`);

export const EngineUpgrade = Type.Object(
  {
    from: Type.Ref('EngineProcess#'),
    to: Type.Ref('EngineProcess#'),
    blackout_ms: blackoutMs('from the drain of the old one to the service of the new one; null: not over yet'),
  },
  { $id: 'EngineUpgrade' },
);
export interface EngineUpgrade {
  from: EngineProcessView;
  to: EngineProcessView;
  blackout_ms: number | null;
}

export const EngineView = Type.Object(
  {
    state: oneOf(['starting', 'running', 'waiting', 'stopped'], 'waiting: it keeps dying, the next start is delayed'),
    pid: nullable(Type.Integer()),
    started_at: nullable(Type.String({ format: 'date-time' })),
    deaths: Type.Integer({ description: 'engines that this supervisor has lost' }),
    last_error: Type.String({ description: 'why the last one ended; else empty' }),
    standby: oneOf(['off', 'none', 'starting', 'ready'], 'off: the configuration wants none'),
    last_blackout_ms: blackoutMs('from the end of the last engine to the service of this one; null: there was none'),
    processes: Type.Array(Type.Ref('EngineProcess#')),
    log: Type.String({ description: 'file, or the command that shows it' }),
  },
  { $id: 'Engine' },
);
export interface EngineView extends Omit<Static<typeof EngineView>, 'processes'> {
  processes: EngineProcessView[];
}

const statusBase = {
  version: Type.String(),
  uptime_s: Type.Integer(),
  engine: Type.Ref('Engine#'),
  port: Type.Object({
    interface: Type.String(),
    second_interface: nullable(Type.String()),
    mac: nullable(Type.String()),
    mtu: nullable(Type.Integer()),
    mode: oneOf(['packet', 'xdp'], '`port.mode` of the configuration'),
    xdp: nullable(
      Type.Object({
        frames: oneOf(
          ['zero-copy', 'copied', 'packet'],
          'zero-copy: the NIC works in the memory of the engine; copied: by the kernel; packet: they go through AF_PACKET for now. Of several interfaces the worst',
        ),
        why: Type.String({ description: 'why so' }),
        queues: Type.Integer({ description: 'AF_XDP sockets in use, of all interfaces together' }),
        zero_copy_queues: Type.Integer({ description: 'how many of these are zero-copy' }),
      }),
    ),
  }),
  problems: Type.Array(Type.String(), { description: 'what an operator should look at; empty when all is well' }),
  vms: Type.Array(Type.Ref('Vm#')),
};

export const IohvStatus = Type.Object(
  {
    role: Type.Literal('iohv'),
    ...statusBase,
    hosts: Type.Array(Type.Ref('Host#')),
    volumes: Type.Array(Type.Ref('Volume#')),
    nics: Type.Array(Type.Ref('Nic#')),
    domains: Type.Array(Type.Ref('Domain#')),
  },
  { $id: 'Status' },
);
export const HostStatus = Type.Object(
  {
    role: Type.Literal('host'),
    name: Type.String(),
    ...statusBase,
    session: Type.Object({
      up: Type.Boolean(),
      reason: Type.String(),
      links: Type.Array(Type.Ref('Link#')),
      workers: Type.Array(SessionWorker),
    }),
  },
  { $id: 'Status' },
);

export interface XdpView {
  frames: 'zero-copy' | 'copied' | 'packet';
  why: string;
  queues: number;
  zero_copy_queues: number;
}

interface StatusBase {
  version: string;
  uptime_s: number;
  engine: EngineView;
  port: {
    interface: string;
    second_interface: string | null;
    mac: string | null;
    mtu: number | null;
    mode: PortMode;
    xdp: XdpView | null;
  };
  problems: string[];
  vms: VmView[];
}
export type IohvStatus = StatusBase & {
  role: 'iohv';
  hosts: HostView[];
  volumes: VolumeView[];
  nics: NicView[];
  domains: DomainView[];
};
export type HostStatus = StatusBase & {
  role: 'host';
  name: string;
  session: { up: boolean; reason: string; links: LinkView[]; workers: Static<typeof SessionWorker>[] };
};

export const Stats = Type.Unsafe<Record<string, unknown>>({
  type: 'object',
  additionalProperties: true,
  description: 'counters of the engine, nested by part',
});

// --- Events ---

export const EventView = Type.Object(
  {
    seq: Type.Integer({ description: 'sequence number; grows, also across restarts of the supervisor' }),
    time: Type.String({ format: 'date-time' }),
    level: oneOf(['info', 'warn', 'error'], 'as in the log'),
    kind: Type.String({ description: 'such as host.up, see docs/events.md' }),
    fields: Type.Unsafe<Record<string, LogValue>>({
      type: 'object',
      additionalProperties: true,
      description: 'what it is about, by kind',
    }),
  },
  { $id: 'Event' },
);
export type EventView = Static<typeof EventView>;

// --- Parameters ---

export const NameParams = Type.Object({ name: Name });
export const DiskParams = Type.Object({ vm: Name, disk: Name });
export const VmParams = Type.Object({ vm: Name });
export const DeleteVolumeQuery = Type.Object({ keep: flag('keep the file of a volume that was created here') }, closed);
export const DetachQuery = Type.Object(
  { force: flag('even while a guest uses it: the guest sees I/O errors, or the link of a NIC go down') },
  closed,
);

export const EventsQuery = Type.Object(
  {
    after: Type.Optional(
      Type.String({ pattern: '^[0-9]{1,16}$', description: 'the sequence number of the last event that you have' }),
    ),
    wait_s: Type.Optional(
      Type.String({
        pattern: '^[0-9]{1,9}$',
        description: `a number of seconds to wait for a newer one; more than ${EVENTS_WAIT_S_MAX} count as ${EVENTS_WAIT_S_MAX}`,
      }),
    ),
  },
  closed,
);

export type NameParams = Static<typeof NameParams>;
export type DiskParams = Static<typeof DiskParams>;
export type VmParams = Static<typeof VmParams>;
export type DeleteVolumeQuery = Static<typeof DeleteVolumeQuery>;
export type DetachQuery = Static<typeof DetachQuery>;
export type EventsQuery = Static<typeof EventsQuery>;

export const SHARED_SCHEMAS = {
  iohv: [
    Problem,
    ErrorInfo,
    VolumeRate,
    VolumeView,
    VolumeRequest,
    VolumeChange,
    MoveRequest,
    DigestView,
    ImportView,
    ...SNAPSHOT_SCHEMAS,
    ...CACHE_SCHEMAS,
    ...NIC_SCHEMAS,
    ...DOMAIN_SCHEMAS,
    DiskView,
    VmNicView,
    VmView,
    AttachRequest,
    DiskChange,
    LinkView,
    HostView,
    WorkerView,
    EngineProcessView,
    EngineUpgrade,
    EngineView,
    IohvStatus,
    EventView,
  ],
  host: [
    Problem,
    ErrorInfo,
    DiskView,
    VmNicView,
    VmView,
    LinkView,
    EngineProcessView,
    EngineUpgrade,
    EngineView,
    HostStatus,
    EventView,
  ],
};
