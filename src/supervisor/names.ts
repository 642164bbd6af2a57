// Names that two sides must agree on.

/** The id that `vm args` gives a NIC in QEMU, and the host agent looks for. No disk's id has a dot there. */
export const qemuNicId = (nic: string) => `outrigger.nic.${nic}`;
