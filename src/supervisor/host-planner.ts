// The planner of the host agent: a pure function from what the I/O hypervisor says (devices) and what the
// engine has (actual) to the steps that can be taken now. A device whose parameters changed is removed and,
// when it is gone, added again; one whose parameters are the same is left alone.
import type { DeviceEntry } from './documents.js';
import type { DeviceArgs } from './protocol.js';

export type HostStep = { key: string } & (
  | { do: 'device.add'; device: DeviceArgs }
  | { do: 'device.remove'; device: DeviceArgs }
  | { do: 'device.drop'; id: number }
);

export const deviceKey = (id: number) => `device:${id}`;

export function socketPath(socketDir: string, vm: string, disk: string): string {
  return `${socketDir}/${vm}/${disk}.sock`;
}

export function toDeviceArgs(entry: DeviceEntry, socketDir: string): DeviceArgs {
  const { vm, disk, volume: _, ...rest } = entry;
  return { ...rest, socket: socketPath(socketDir, vm, disk) };
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
  const socketsInUse = new Set([...actual.values()].map(({ socket }) => socket));
  const additions = [...wanted.values()]
    .filter((device) => !actual.has(device.id) && !socketsInUse.has(device.socket))
    .map((device): HostStep => ({ key: deviceKey(device.id), do: 'device.add', device }));
  const drops = [...left]
    .filter((id) => !wanted.has(id) && !actual.has(id))
    .map((id): HostStep => ({ key: deviceKey(id), do: 'device.drop', id }));
  return [...removals, ...additions, ...drops];
}

function isSame(wanted: DeviceArgs | undefined, device: DeviceArgs): boolean {
  return wanted !== undefined && (Object.keys(wanted) as (keyof DeviceArgs)[]).every((k) => wanted[k] === device[k]);
}
