// The requests and answers of the REST interface that are about NICs; see schemas.ts.
import { type Static, Type } from '@sinclair/typebox';
import { MAC_PATTERN, NAME_PATTERN, NIC_INTERFACE_PATTERN, NIC_MTU_MAX, NIC_MTU_MIN } from '../config/rules.js';
import { MACVTAP_MODES } from '../supervisor/model.js';
import { closed, name, nullable, oneOf } from './schema-parts.js';

const device = (description: string) => Type.String({ pattern: NIC_INTERFACE_PATTERN, description });
const orNull = (description: string) => nullable(Type.String(), description);
const amount = (description: string, multipleOf = 1) =>
  Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, multipleOf, description });

const NIC_STATES = ['pending', 'listening', 'connected', 'running', 'broken'] as const;

/** A direction of a NIC. */
const rate = {
  bits_per_s: amount('of Ethernet frames, bits per second; 0: no limit', 8),
  burst_bytes: amount("what may pass at once after a pause; 0: a tenth of a second's worth"),
  packets_per_s: amount('a packet before segmentation counts once; 0: no limit'),
  burst_packets: amount("likewise; 0: a tenth of a second's worth"),
};
export const NicRate = Type.Object(rate, { $id: 'NicRate', description: 'how much may pass in one direction' });
export type NicRate = Static<typeof NicRate>;

const partialRate = Type.Partial(Type.Object(rate), closed);
const RateChange = Type.Object(
  { tx: Type.Optional(partialRate), rx: Type.Optional(partialRate) },
  { ...closed, description: 'as the guest sees it: tx is what it sends; what is left out stays as it is' },
);
export type RateChange = Static<typeof RateChange>;

const addresses = Type.Array(Type.String({ maxLength: 64 }), {
  maxItems: 64,
  description: 'IPv4 and IPv6 addresses or networks that the guest may send from; none: any',
});
const spoofCheck = Type.Boolean({
  description:
    'drop what the guest sends from another MAC address, or from an IP address that is not among its own, if it has any; default true',
});
const link = oneOf(['up', 'down'], 'down: the guest sees no carrier, and nothing passes');

export const NicUse = Type.Object({
  vm: Type.String(),
  host: Type.String(),
  queues: Type.Integer(),
  state: oneOf(NIC_STATES, 'as of a disk'),
});

export const NicView = Type.Object(
  {
    name: Type.String(),
    kind: oneOf(['tap', 'macvtap', 'hub'], 'how its frames leave the I/O hypervisor'),
    interface: orNull('the tap or macvtap on the I/O hypervisor; null for a hub'),
    bridge: orNull('Linux bridge that the tap is a port of'),
    parent: orNull('interface below the macvtap'),
    mode: nullable(oneOf(MACVTAP_MODES, 'of the macvtap')),
    hub: orNull('switch within the engine; NICs of the same hub reach each other'),
    mac: Type.String(),
    mtu: Type.Integer(),
    addresses,
    spoof_check: spoofCheck,
    link,
    rate: Type.Object({ tx: Type.Ref('NicRate#'), rx: Type.Ref('NicRate#') }),
    state: oneOf(
      ['setup', 'ready', 'open', 'failed', 'deleting', 'waiting'],
      'setup: its interface is being made; ready: it is not attached; open: frames pass; waiting: for the engine or the host',
    ),
    reason: Type.String({ description: 'why it failed or waits; else empty' }),
    attachment: nullable(NicUse),
    counters: nullable(
      Type.Unsafe<Record<string, unknown>>({
        type: 'object',
        additionalProperties: true,
        description: 'of the engine since it opened the NIC: packets, bytes, errors and drops, as the guest sees it',
      }),
      'null: the NIC is not open',
    ),
  },
  { $id: 'Nic' },
);
export type NicView = Omit<Static<typeof NicView>, 'rate'> & { rate: { tx: NicRate; rx: NicRate } };

export const NicRequest = Type.Object(
  {
    bridge: Type.Optional(device('a tap of our own becomes a port of this Linux bridge')),
    tap: Type.Optional(device('name of the tap: made when it is not there, else used as it is')),
    macvtap: Type.Optional(
      Type.Object(
        {
          parent: device('interface below'),
          mode: Type.Optional(oneOf(MACVTAP_MODES, 'default bridge')),
        },
        closed,
      ),
    ),
    hub: Type.Optional(name('switch within the engine, which is there as long as it has NICs')),
    mac: Type.Optional(
      Type.String({ pattern: MAC_PATTERN, description: 'default: 52:54:00 and a digest of the name' }),
    ),
    mtu: Type.Optional(
      Type.Integer({ minimum: NIC_MTU_MIN, maximum: NIC_MTU_MAX, description: 'default 1500; the guest is told' }),
    ),
    addresses: Type.Optional(addresses),
    spoof_check: Type.Optional(spoofCheck),
    link: Type.Optional(link),
    rate: Type.Optional(RateChange),
  },
  { ...closed, $id: 'NicRequest', description: 'a new NIC: `bridge` and/or `tap`, or `macvtap`, or `hub`' },
);
export type NicRequest = Static<typeof NicRequest>;

export const NicChange = Type.Object(
  {
    addresses: Type.Optional(addresses),
    spoof_check: Type.Optional(spoofCheck),
    link: Type.Optional(link),
    rate: Type.Optional(RateChange),
  },
  { ...closed, minProperties: 1, $id: 'NicChange', description: 'what can be changed of a NIC, also under a guest' },
);
export type NicChange = Static<typeof NicChange>;

export const VmNicView = Type.Object(
  {
    id: Type.Integer({ description: 'attachment id' }),
    generation: Type.Integer({ description: 'packets of another generation are dropped' }),
    vm: Type.String(),
    nic: Type.String(),
    host: Type.String(),
    mac: Type.String(),
    mtu: Type.Integer(),
    queues: Type.Integer({ description: 'pairs of virtqueues' }),
    link,
    qmp: orNull("QEMU's monitor on the host"),
    state: oneOf(
      NIC_STATES,
      'pending: the host has not made it yet; listening: no QEMU; connected: QEMU is there; running: the guest drives it',
    ),
    reason: Type.String({ description: 'why it is pending or broken, or what makes the state doubtful; else empty' }),
    features: orNull('virtio features that the guest negotiated, hexadecimal; null while no guest drives it'),
    socket: Type.String({ description: 'vhost-user socket on the host' }),
    socket_reported: Type.Boolean({ description: 'false: the default place, the host has not said its own yet' }),
  },
  { $id: 'VmNic' },
);
export type VmNicView = Static<typeof VmNicView>;

export const NicAttachRequest = Type.Object(
  {
    nic: name('name of the NIC'),
    queues: Type.Optional(Type.Integer({ minimum: 1, maximum: 16, description: 'pairs of virtqueues; default 1' })),
    qmp: Type.Optional(
      Type.String({
        pattern: '^/',
        maxLength: 107,
        description: "unix socket of QEMU's monitor on the host: the guest's receive filter is followed there",
      }),
    ),
  },
  closed,
);
export type NicAttachRequest = Static<typeof NicAttachRequest>;

export const NicParams = Type.Object({
  vm: Type.String({ pattern: NAME_PATTERN }),
  nic: Type.String({ pattern: NAME_PATTERN }),
});
export type NicParams = Static<typeof NicParams>;

export const NIC_SCHEMAS = [NicRate, NicView, NicRequest, NicChange];
