// The two documents that travel between the sides over the session, as JSON text:
// the I/O hypervisor tells a host which devices it has, the host reports what became of them.
// They are authenticated, but still another machine's words: what does not fit the schema is refused.
import { type Static, Type } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { IO_TIMEOUT_MS_MAX, NAME_PATTERN } from '../config/schema.js';

const name = Type.String({ pattern: NAME_PATTERN });
const uint32 = Type.Integer({ minimum: 1, maximum: 0xffff_ffff });
const version = Type.Integer({ minimum: 0 });

export const DeviceEntry = Type.Object({
  id: uint32,
  generation: uint32,
  vm: name,
  disk: name,
  volume: name,
  size: Type.Integer({ minimum: 0 }),
  blockSize: Type.Integer({ minimum: 512 }),
  physicalBlockSize: Type.Integer({ minimum: 512 }),
  queues: Type.Integer({ minimum: 1, maximum: 16 }),
  readOnly: Type.Boolean(),
  discard: Type.Boolean(),
  writeZeroes: Type.Boolean(),
  serial: Type.String({ maxLength: 20 }),
  // Left out by an I/O hypervisor that knows none, and by others for 0.
  ioTimeoutMs: Type.Optional(Type.Integer({ minimum: 0, maximum: IO_TIMEOUT_MS_MAX })),
});
export type DeviceEntry = Static<typeof DeviceEntry>;

export const DeviceDocument = Type.Object({ version, devices: Type.Array(DeviceEntry) });
export type DeviceDocument = Static<typeof DeviceDocument>;

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
