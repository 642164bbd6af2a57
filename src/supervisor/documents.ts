// The two documents that travel between the sides over the session, as JSON text:
// the I/O hypervisor tells a host which devices it has, the host reports what became of them.
// They are authenticated, but still another machine's words: what does not fit the schema is refused.
import { type Static, Type } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import {
  IO_TIMEOUT_MS_MAX,
  MAC_PATTERN,
  NAME_PATTERN,
  NIC_MTU_MAX,
  NIC_MTU_MIN,
  WORKERS_MAX,
} from '../config/rules.js';

const name = Type.String({ pattern: NAME_PATTERN });
const uint32 = Type.Integer({ minimum: 1, maximum: 0xffff_ffff });
const version = Type.Integer({ minimum: 0 });
const queues = Type.Integer({ minimum: 1, maximum: 16 });
const amount = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
// Of the I/O hypervisor; left out by one that has a single one, and for 0.
const worker = Type.Optional(Type.Integer({ minimum: 0, maximum: WORKERS_MAX - 1 }));
// Changes with every move to another worker; requests bear it. Left out: 0.
const placement = Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff }));
// Left out by an I/O hypervisor that knows none, and by others for no limit.
const limit = Type.Optional(Type.Object({ bytesPerS: amount, bytesBurst: amount, opsPerS: amount, opsBurst: amount }));

export const DiskEntry = Type.Object({
  kind: Type.Optional(Type.Literal('disk')),
  id: uint32,
  generation: uint32,
  vm: name,
  disk: name,
  volume: name,
  size: Type.Integer({ minimum: 0 }),
  blockSize: Type.Integer({ minimum: 512 }),
  physicalBlockSize: Type.Integer({ minimum: 512 }),
  queues,
  readOnly: Type.Boolean(),
  discard: Type.Boolean(),
  writeZeroes: Type.Boolean(),
  serial: Type.String({ maxLength: 20 }),
  // Left out by an I/O hypervisor that knows none, and by others for 0.
  ioTimeoutMs: Type.Optional(Type.Integer({ minimum: 0, maximum: IO_TIMEOUT_MS_MAX })),
  limit,
  worker,
  placement,
});
export type DiskEntry = Static<typeof DiskEntry>;

export const NetEntry = Type.Object({
  kind: Type.Literal('net'),
  id: uint32,
  generation: uint32,
  vm: name,
  nic: name,
  mac: Type.String({ pattern: MAC_PATTERN }),
  mtu: Type.Integer({ minimum: NIC_MTU_MIN, maximum: NIC_MTU_MAX }),
  queues,
  linkUp: Type.Boolean(),
  limit,
  worker,
  // QEMU's monitor on the host, for what the guest wants to receive.
  qmp: Type.Optional(Type.String({ pattern: '^/', maxLength: 107 })),
});
export type NetEntry = Static<typeof NetEntry>;

export const DeviceEntry = Type.Union([DiskEntry, NetEntry]);
export type DeviceEntry = DiskEntry | NetEntry;

export const isNet = (entry: DeviceEntry): entry is NetEntry => entry.kind === 'net';
export const isDisk = (entry: DeviceEntry): entry is DiskEntry => entry.kind !== 'net';

export const DeviceDocument = Type.Object({ version, devices: Type.Array(DeviceEntry) });
export type DeviceDocument = Static<typeof DeviceDocument>;

/** A guest that asks for more addresses one by one gets all. OR_FILTER_MACS_MAX of native/net/guard.h. */
export const FILTER_MACS_MAX = 128;

export const ReportEntry = Type.Object({
  id: uint32,
  state: Type.Union([
    Type.Literal('listening'),
    Type.Literal('connected'),
    Type.Literal('running'),
    Type.Literal('broken'),
  ]),
  reason: Type.String(),
  socket: Type.String(),
  // Of NICs: what the guest negotiated and what it wants to receive.
  features: Type.Optional(Type.String({ pattern: '^0x[0-9a-f]{1,16}$' })),
  filter: Type.Optional(
    Type.Object({
      promiscuous: Type.Boolean(),
      allMulticast: Type.Boolean(),
      macs: Type.Array(Type.String({ pattern: MAC_PATTERN }), { maxItems: FILTER_MACS_MAX }),
    }),
  ),
});
export type ReportEntry = Static<typeof ReportEntry>;

export const ReportDocument = Type.Object({
  version,
  host: name,
  agentVersion: Type.String(),
  devices: Type.Array(ReportEntry),
});
export type ReportDocument = Static<typeof ReportDocument>;

export type Parsed<T> = { ok: true; value: T } | { ok: false; reason: string };

function parse<T>(schema: typeof DeviceDocument | typeof ReportDocument, text: string): Parsed<T> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { ok: false, reason: 'not JSON' };
  }
  if (!Value.Check(schema, value)) {
    const first = Value.Errors(schema, value).First();
    return { ok: false, reason: `${first?.path ?? ''}: ${first?.message ?? 'does not fit'}` };
  }
  return { ok: true, value: value as T };
}

export const parseDeviceDocument = (text: string): Parsed<DeviceDocument> => parse(DeviceDocument, text);
export const parseReportDocument = (text: string): Parsed<ReportDocument> => parse(ReportDocument, text);
