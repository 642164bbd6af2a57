// The planner of the host agent: a pure function from what the I/O hypervisor says (devices) and what the
// engine has (actual) to the steps that can be taken now. A device whose parameters changed is removed and,
// when it is gone, added again, but for the time-out of its requests, which can be changed under a guest; one
// whose parameters are the same is left alone.
import type { DeviceEntry } from './documents.js';
import type { DeviceArgs } from './protocol.js';

export type HostStep = { key: string } & (
  | { do: 'device.add'; device: DeviceArgs }
  | { do: 'device.set'; device: DeviceArgs }
  | { do: 'device.remove'; device: DeviceArgs }
  | { do: 'device.drop'; id: number }
);

export const deviceKey = (id: number) => `device:${id}`;

export function socketPath(socketDir: string, vm: string, disk: string): string {
  return `${socketDir}/${vm}/${disk}.sock`;
}

export function toDeviceArgs(entry: DeviceEntry, socketDir: string): DeviceArgs {
  const { vm, disk, volume: _, ioTimeoutMs = 0, ...rest } = entry;
  return { ...rest, ioTimeoutMs, socket: socketPath(socketDir, vm, disk) };
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
    return device !== undefined && isSame(device, present) && device.ioTimeoutMs !== present.ioTimeoutMs
      ? [{ key: deviceKey(device.id), do: 'device.set', device }]
      : [];
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

/** But for what can be changed. */
function isSame(wanted: DeviceArgs | undefined, device: DeviceArgs): boolean {
  const fixed = (Object.keys(wanted ?? {}) as (keyof DeviceArgs)[]).filter((key) => key !== 'ioTimeoutMs');
  return wanted !== undefined && fixed.every((key) => wanted[key] === device[key]);
}
