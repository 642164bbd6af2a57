// NICs between the protocol, which is JSON, and the addon, which takes bytes and 64-bit numbers.
import type { NativeEvent, NativeNic, NativeNicChange } from '../native/addon.js';
import { parseAddress } from '../supervisor/nic-spec.js';
import type { EngineEvent, NicArgs, NicState } from '../supervisor/protocol.js';

export function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

export function nativeNic(args: NicArgs & { host: string }): NativeNic {
  const { interface: device, hub, mac, addresses, ...same } = args;
  return {
    ...same,
    interface: device ?? '',
    hub: hub ?? '',
    mac: macBytes(mac),
    addresses: addresses.map((text) => {
      const { family, bytes, prefix } = parseAddress(text);
      return { family, bytes: Buffer.from(bytes), prefix };
    }),
  };
}

export function nativeNicChange({ features, filter, ...same }: Partial<NicState>): NativeNicChange {
  return {
    ...same,
    ...(features === undefined ? {} : { features: BigInt(features) }),
    ...(filter === undefined
      ? {}
      : {
          filter: filter && {
            ...filter,
            unicast: filter.unicast.map(macBytes),
            multicast: filter.multicast.map(macBytes),
          },
        }),
  };
}

/** Feature bits as text; the bits of USO do not fit a JSON number. */
export function featuresText(features: bigint): string {
  return `0x${features.toString(16)}`;
}

export function toEngineEvent(event: NativeEvent): EngineEvent {
  if (event.event !== 'device.state') {
    return event;
  }
  const { features, ...same } = event.data;
  return { event: 'device.state', data: features === undefined ? same : { ...same, features: featuresText(features) } };
}
