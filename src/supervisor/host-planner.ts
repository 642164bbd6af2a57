// The planner of the host agent: a pure function from what the I/O hypervisor says (devices) and what the
// engine has (actual) to the steps that can be taken now. A device whose parameters changed is removed and,
// when it is gone, added again, but for what can be changed under a guest (MUTABLE); one whose parameters are the
// same is left alone.
import { type DeviceEntry, isNet } from './documents.js';
import { NO_LIMIT } from './limits.js';
import type { DeviceArgs, DeviceChange } from './protocol.js';

export type HostStep = { key: string } & (
  | { do: 'device.add'; device: DeviceArgs }
  | { do: 'device.set'; device: DeviceArgs; change: DeviceChange }
  | { do: 'device.remove'; device: DeviceArgs }
  | { do: 'device.drop'; id: number }
);

export const deviceKey = (id: number) => `device:${id}`;

export function socketPath(socketDir: string, vm: string, disk: string): string {
  return `${socketDir}/${vm}/${disk}.sock`;
}

/** Of another kind of name than any disk's, because a disk and a NIC of a VM may have the same. */
export function nicSocketPath(socketDir: string, vm: string, nic: string): string {
  return `${socketDir}/${vm}/${nic}.nic`;
}

export function socketOf(entry: DeviceEntry, socketDir: string): string {
  return isNet(entry) ? nicSocketPath(socketDir, entry.vm, entry.nic) : socketPath(socketDir, entry.vm, entry.disk);
}

export function toDeviceArgs(entry: DeviceEntry, socketDir: string): DeviceArgs {
  const socket = socketOf(entry, socketDir);
  if (isNet(entry)) {
    const { vm: _v, nic: _n, qmp: _q, limit = NO_LIMIT, worker = 0, ...rest } = entry;
    return { ...rest, limit, worker, placement: 0, socket };
  }
  const { vm: _v, disk: _d, volume: _, ioTimeoutMs = 0, limit = NO_LIMIT, worker = 0, placement = 0, ...rest } = entry;
  return { ...rest, kind: 'disk', ioTimeoutMs, limit, worker, placement, socket };
}

/**
 * devices undefined: the I/O hypervisor has not said anything yet; nothing is touched. left: ids of devices that
 * an engine before this one had and that are not added yet; their connections live until they are dropped.
 */
export function planHost(
  devices: readonly DeviceEntry[] | undefined,
  socketDir: string,
  actual: ReadonlyMap<number, DeviceArgs>,
  left: ReadonlySet<number> = new Set(),
): HostStep[] {
  if (devices === undefined) {
    return [];
  }
  const wanted = new Map(devices.map((entry) => [entry.id, toDeviceArgs(entry, socketDir)]));
  const removals = [...actual.values()]
    .filter((device) => !isSame(wanted.get(device.id), device))
    .map((device): HostStep => ({ key: deviceKey(device.id), do: 'device.remove', device }));
  const changes = [...actual.values()].flatMap((present): HostStep[] => {
    const device = wanted.get(present.id);
    const change = device !== undefined && isSame(device, present) ? changeOf(present, device) : undefined;
    return device && change ? [{ key: deviceKey(device.id), do: 'device.set', device, change }] : [];
  });
  const socketsInUse = new Set([...actual.values()].map(({ socket }) => socket));
  const additions = [...wanted.values()]
    .filter((device) => !actual.has(device.id) && !socketsInUse.has(device.socket))
    .map((device): HostStep => ({ key: deviceKey(device.id), do: 'device.add', device }));
  const drops = [...left]
    .filter((id) => !wanted.has(id) && !actual.has(id))
    .map((id): HostStep => ({ key: deviceKey(id), do: 'device.drop', id }));
  return [...removals, ...changes, ...additions, ...drops];
}

const MUTABLE = ['ioTimeoutMs', 'limit', 'linkUp', 'worker', 'placement'];

/** But for what can be changed. */
function isSame(wanted: DeviceArgs | undefined, device: DeviceArgs): boolean {
  const present = new Map<string, unknown>(Object.entries(device));
  const fixed = Object.entries(wanted ?? {}).filter(([key]) => !MUTABLE.includes(key));
  return wanted !== undefined && fixed.every(([key, value]) => present.get(key) === value);
}

/** Only what differs; undefined: nothing does. */
function changeOf(present: DeviceArgs, wanted: DeviceArgs): DeviceChange | undefined {
  const before = new Map<string, unknown>(Object.entries(present));
  const changes = Object.entries(wanted).filter(
    ([key, value]) => MUTABLE.includes(key) && JSON.stringify(before.get(key)) !== JSON.stringify(value),
  );
  const { id, worker, placement } = wanted;
  const moves = changes.some(([key]) => key === 'worker' || key === 'placement');
  return changes.length === 0
    ? undefined
    : { id, ...Object.fromEntries(changes), ...(moves ? { worker, placement } : {}) };
}
