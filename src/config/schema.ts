// What may stand in the two configuration files: one schema per role, with defaults and a description of
// every key. The loader validates against it, docs/control.md is generated from it.
//
// `expect` in a schema is our own annotation: how a wrong value of this key is explained to the operator.
import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { POLICIES, type Policy } from '../supervisor/placement.js';
import { CACHE_POLICIES, type CachePolicy } from '../supervisor/protocol.js';
import { INTERFACE_PATTERN, MAC_PATTERN, MTU_MAX, MTU_MIN, NAME_EXPECT, NAME_PATTERN, WORKERS_MAX } from './rules.js';

/** Of sizes in a configuration; what it means says size.ts. */
const SIZE_PATTERN = '^[0-9]+(\\.[0-9]+)? ?([KMGTPkmgtp]([iI]?[bB])?|[bB])?$';

const closed = { additionalProperties: false } as const;

/** A section that may be left out as a whole: its keys then take their defaults. */
const section = <T extends Record<string, TSchema>>(properties: T, description: string) =>
  Type.Object(properties, { ...closed, default: {}, description });

const choice = <T extends string>(values: readonly T[], options: { default?: T; description: string }) =>
  Type.Unsafe<T>({ type: 'string', enum: values, ...options });

const superFrames = choice(['auto', 'on', 'off'], {
  default: 'auto',
  description:
    'several frames at once in one UDP datagram that is cut on its way, where the peer acknowledges that: `auto` (on links of an MTU below 32 KB), `on` (on larger ones too; what the kernel lacks is an error) or `off`',
});

const path = (description: string, defaultValue?: string) =>
  Type.String({
    minLength: 1,
    pattern: '^/',
    expect: 'an absolute path',
    description,
    ...(defaultValue === undefined ? {} : { default: defaultValue }),
  });

const name = (description: string) => Type.String({ pattern: NAME_PATTERN, expect: NAME_EXPECT, description });

const port = section(
  {
    interface: Type.String({
      pattern: INTERFACE_PATTERN,
      expect: 'the name of a network interface, as `ip link` shows it',
      description: 'network interface that carries the protocol',
    }),
    second_interface: Type.Optional(
      Type.String({
        pattern: INTERFACE_PATTERN,
        expect: 'the name of a network interface, as `ip link` shows it',
        description: 'a second one, towards the same peers: both are used, and either may fail; left out: none',
      }),
    ),
    mode: choice<'packet' | 'xdp'>(['packet', 'xdp'], {
      default: 'packet',
      description:
        'how frames reach the interface. packet: AF_PACKET, works everywhere; xdp: AF_XDP, for NICs whose driver has zero-copy (docs/operations.md)',
    }),
    mtu: Type.Integer({
      minimum: 0,
      maximum: MTU_MAX,
      default: 0,
      description: `largest frame after the Ethernet header, bytes; 0: the link's. Otherwise ${MTU_MIN} to ${MTU_MAX}, at most the link's`,
    }),
    ethertype: Type.Integer({
      minimum: 0x0600,
      maximum: 0xffff,
      default: 0x88b5,
      description: 'EtherType of our frames (0x88B5); the same on both sides',
    }),
    super_frames: superFrames,
  },
  'the segment',
);

const cpu = Type.Union([Type.Integer({ minimum: 0, maximum: 1023 }), Type.Null()]);
const thread = {
  nice: Type.Integer({
    minimum: -20,
    maximum: 19,
    default: -20,
    description: 'priority of the polling thread; -20 keeps its speed on a busy machine',
  }),
  spin_us: Type.Integer({
    minimum: 0,
    maximum: 1_000_000,
    default: 75,
    description: 'how long it polls without work before it sleeps, microseconds; less where polling finds nothing',
  }),
};

const worker = section(
  {
    cpu: {
      ...cpu,
      default: null,
      expect: 'the number of a CPU, or null for none in particular',
      description: 'CPU that the polling thread is pinned to; null: not pinned',
    },
    ...thread,
  },
  'the polling thread',
);

const workers = section(
  {
    count: Type.Integer({
      minimum: 1,
      maximum: WORKERS_MAX,
      default: 1,
      description: `polling threads, each with its own volumes; 1 to ${WORKERS_MAX}`,
    }),
    cpu: Type.Union([cpu, Type.Array(cpu)], {
      default: null,
      expect: 'the number of a CPU, null for none in particular, or a list of these, one for each worker',
      description: 'CPU that the polling thread is pinned to; null: not pinned; of several threads a list: `[2, 3]`',
    }),
    ...thread,
    placement: choice<Policy>(POLICIES, {
      default: 'least-loaded',
      description:
        'which worker serves a volume that is not pinned: `static` (by its name), `round-robin` (in turn), `least-loaded` or `isolate` (heavy ones apart from light ones); the latter two move volumes while guests use them',
    }),
    rebalance_ms: Type.Integer({
      minimum: 0,
      maximum: 3_600_000,
      default: 1000,
      description:
        'how often the loads of several workers are compared, milliseconds; 0: never; less than 1000 counts as 1000',
    }),
  },
  'the polling threads',
);

const cache = section(
  {
    size: Type.Union([Type.Integer({ minimum: 0 }), Type.String({ pattern: SIZE_PATTERN })], {
      default: '256M',
      expect: 'a size such as 256M, 4G or 1.5G (binary units), or 0',
      description:
        'memory of the block cache, of all workers together: 256M, 4G; 0: none. `outrigger cache set` changes it later (docs/operations.md)',
    }),
    policy: choice<CachePolicy>(CACHE_POLICIES, {
      default: 's3fifo',
      description: 'which blocks give way: `s3fifo`, `arc` or `lru` (docs/cache.md)',
    }),
  },
  'the block cache',
);

const protect = section(
  {
    journal_dir: Type.Optional(path('where the journals of protection domains are; left out: `volume_dir`')),
    total: Type.Union([Type.Integer({ minimum: 0 }), Type.String({ pattern: SIZE_PATTERN })], {
      default: '1G',
      expect: 'a size such as 256M, 4G or 1.5G (binary units), or 0',
      description: 'what all protection domains together may hold, in memory: 256M, 4G; 0: there can be none',
    }),
  },
  'protection domains: VMs that are checkpointed',
);

const engine = section(
  {
    standby: Type.Boolean({
      default: true,
      description: 'keep a second process ready (some 50 MB), so that the end of an engine costs no start of one',
    }),
    launcher: choice<'auto' | 'systemd' | 'spawn'>(['auto', 'systemd', 'spawn'], {
      default: 'auto',
      description:
        'how engines are started: `systemd` (units of their own, outrigger-engine@.service; needs the default run_dir), `spawn` (detached processes); `auto`: systemd where it started the supervisor',
    }),
  },
  'the processes that carry the I/O',
);

const integrity = (key: string) =>
  choice(['encrypt', 'mac', 'crc'], {
    default: 'mac',
    description: `${key}: \`encrypt\` (neither read nor forged), \`mac\` (not forged) or \`crc\` (trusted segment)`,
  });

const runDir = path('sockets and logs; one supervisor of a role uses it', '/run/outrigger');

const socketGroup = Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
  default: null,
  expect: 'the name of a group, or null',
  description: 'group that may use the socket; null: that of the supervisor',
});

const keyFile = path('pre-shared key of the host; `outrigger key generate FILE` makes one, mode 0600');

const listen = Type.Object(
  {
    address: Type.String({ minLength: 1, default: '0.0.0.0', description: 'address to listen on' }),
    port: Type.Integer({ minimum: 0, maximum: 65535, default: 8443, description: 'TCP port; 0: any free one' }),
    cert: path('TLS certificate, PEM'),
    key: path('its private key, PEM, mode 0600'),
    tokens_file: path('who may call: one `NAME SHA256` per line, mode 0600; `outrigger token add` writes it'),
  },
  { ...closed, description: 'HTTPS for remote clients; left out: the unix socket only' },
);

export const IohvConfig = Type.Object(
  {
    state_dir: path('desired state (volumes, VMs, attachments)', '/var/lib/outrigger'),
    run_dir: runDir,
    volume_dir: path('where `volume create` puts files', '/var/lib/outrigger/volumes'),
    port,
    integrity: integrity('integrity of frames'),
    engine,
    worker: workers,
    slots: Type.Integer({
      minimum: 3,
      maximum: 256,
      default: 128,
      description: 'requests in flight per host and worker',
    }),
    scheduling: choice(['fair', 'fifo'], {
      default: 'fair',
      description: 'whose request is next: by the weights of disks, or who came first (to measure what that costs)',
    }),
    buffer_mib: Type.Integer({
      minimum: 4,
      maximum: 65536,
      default: 64,
      description: 'request buffers of all hosts together, MiB; several workers share them, with 4 or more for each',
    }),
    cache,
    protect,
    hosts: Type.Array(
      Type.Object(
        { name: name('name of the host, as its host.yaml says'), key_file: keyFile },
        { ...closed, description: 'a host' },
      ),
      { default: [], description: 'the hosts that may connect; read again on SIGHUP' },
    ),
    api: section(
      {
        socket: Type.Optional(path('unix socket of the control interface; left out: `RUN_DIR/iohv.sock`')),
        socket_group: socketGroup,
        listen: Type.Optional(listen),
      },
      'the control interface',
    ),
  },
  { ...closed, description: 'configuration of the I/O hypervisor' },
);

export const HostConfig = Type.Object(
  {
    name: name('name of this host, as the I/O hypervisor knows it'),
    run_dir: runDir,
    socket_dir: Type.Optional(path('where QEMU finds its disks (VM/DISK.sock); left out: `RUN_DIR/vhost`')),
    socket_mode: Type.String({
      pattern: '^0?[0-7]{3}$',
      default: '0660',
      expect: 'an octal mode in quotes, such as "0660"',
      description: 'mode of these sockets',
    }),
    socket_group: {
      ...socketGroup,
      description: 'group that may use these sockets, such as kvm; null: that of the agent',
    },
    port,
    iohv: Type.Object(
      {
        mac: Type.String({
          pattern: MAC_PATTERN,
          expect: 'a MAC address: six pairs of hexadecimal digits such as 52:54:00:12:34:56',
          description: 'MAC address of the I/O hypervisor on the segment; `outrigger status` there shows it',
        }),
        second_mac: Type.Optional(
          Type.String({
            pattern: MAC_PATTERN,
            expect: 'a MAC address: six pairs of hexadecimal digits such as 52:54:00:12:34:56',
            description: 'that of its second interface, if it has one; left out: both links lead to `mac`',
          }),
        ),
        key_file: keyFile,
        integrity_min: integrity('refuse an I/O hypervisor that offers less'),
      },
      { ...closed, description: 'the I/O hypervisor' },
    ),
    engine,
    worker,
    api: section(
      {
        socket: Type.Optional(path('unix socket of the control interface; left out: `RUN_DIR/host.sock`')),
        socket_group: socketGroup,
      },
      'the control interface',
    ),
  },
  { ...closed, description: 'configuration of the host agent' },
);

export type IohvConfig = Static<typeof IohvConfig>;
export type HostConfig = Static<typeof HostConfig>;
export type PortConfig = IohvConfig['port'];
export type Role = 'iohv' | 'host';

export function iohvSocket(config: IohvConfig): string {
  return config.api.socket ?? `${config.run_dir}/iohv.sock`;
}

export function hostSocket(config: HostConfig): string {
  return config.api.socket ?? `${config.run_dir}/host.sock`;
}

export function vhostSocketDir(config: HostConfig): string {
  return config.socket_dir ?? `${config.run_dir}/vhost`;
}
