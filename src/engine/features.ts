// The virtio features of a guest: 64 bits, which the addon gives as a BigInt and the protocol, which is JSON,
// carries as hexadecimal digits.
import type { NativeEvent } from '../native/addon.js';
import type { EngineEvent } from '../supervisor/protocol.js';

/** undefined: of a disk. */
export function featuresOf(features: bigint | undefined): { features?: string } {
  return features === undefined ? {} : { features: `0x${features.toString(16)}` };
}

export function toEngineEvent(event: NativeEvent): EngineEvent {
  if (event.event !== 'device.state') {
    return event;
  }
  const { features, ...data } = event.data;
  return { event: 'device.state', data: { ...data, ...featuresOf(features) } };
}
