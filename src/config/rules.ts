// What names, addresses and numbers must be like, wherever they come in: in a configuration, over the REST interface,
// on the command line, in a document of a host. Without the schemas, which the command line can do without.

/** A day: the longest time after which a request of a volume becomes an error, if it is to at all. */
export const IO_TIMEOUT_MS_MAX = 86_400_000;

export const NAME_PATTERN = '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$';
export const NAME_EXPECT = 'a name of 1 to 63 letters, digits, `.`, `_` or `-`, starting with a letter or digit';
export const MTU_MIN = 1500;
export const MTU_MAX = 65535;
/** Of a VM's NIC: what virtio-net can announce. IPv6 needs 1280. */
export const NIC_MTU_MIN = 68;
export const NIC_MTU_MAX = 65535;
export const MAC_PATTERN = '^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$';
/** Of interfaces that we may make. */
export const NIC_INTERFACE_PATTERN = '^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$';
export const INTERFACE_PATTERN = '^[^\\s/]{1,15}$';

/** Of an I/O hypervisor; the channel of a frame names one of them. */
export const WORKERS_MAX = 16;

/** Longest wait for an event; below the time-outs of clients and proxies. */
export const EVENTS_WAIT_S_MAX = 25;
