// What a VMM must be told to use the disks and NICs of a VM: QEMU's arguments or libvirt's XML.
//
// vhost-user needs the guest's memory shared with the engine, so the memory belongs to it. QEMU connects
// to the sockets as a client and connects again when the host's engine was replaced; how the pause between
// two tries is written depends on its version: whole seconds (`reconnect`), or milliseconds since 9.2.

import type { VmNicView } from '../api/nic-schemas.js';
import type { DiskView, VmView } from '../api/schemas.js';
import { refuse } from '../errors.js';
import { qemuNicId } from '../supervisor/names.js';

export interface MachineOptions {
  /** Bytes. */
  memory: number;
  cpus: number;
  /** `10.0`, `7.2.22`; undefined: any version. */
  qemuVersion?: string | undefined;
}

const MEMORY_ID = 'outrigger-mem';
const RECONNECT_MS = 100;

/** A value within QEMU's key=value,... options, where a comma is written twice. */
const option = (text: string) => text.replaceAll(',', ',,');

/** Throws usage for a version that is none. */
function reconnectOption(qemuVersion: string | undefined): string {
  if (qemuVersion === undefined) {
    return 'reconnect=1';
  }
  const match = /^(\d+)\.(\d+)/.exec(qemuVersion);
  if (match === null) {
    throw refuse('usage', `--qemu-version ${qemuVersion} is not a version such as 7.2 or 10.0`, { command: 'vm args' });
  }
  const [major, minor] = [Number(match[1]), Number(match[2])];
  return major > 9 || (major === 9 && minor >= 2) ? `reconnect-ms=${RECONNECT_MS}` : 'reconnect=1';
}

export function qemuArgs(vm: VmView, machine: MachineOptions): string[] {
  const megabytes = `${machine.memory / 1024 / 1024}M`;
  const reconnect = reconnectOption(machine.qemuVersion);
  return [
    ...['-m', megabytes, '-smp', String(machine.cpus)],
    ...['-object', `memory-backend-memfd,id=${MEMORY_ID},size=${megabytes},share=on`],
    ...['-machine', `memory-backend=${MEMORY_ID}`],
    ...vm.disks.flatMap((disk, i) => diskArgs(disk, i + 1, reconnect)),
    ...vm.nics.flatMap((nic) => nicArgs(nic, reconnect)),
  ];
}

/** Descriptors of a receive queue; more absorb longer bursts. */
const RX_QUEUE_SIZE = 1024;

/**
 * ctrl_guest_offloads=off: a guest that changes its offloads while it runs tells QEMU only, and would get packets
 * that it no longer takes.
 */
function nicArgs({ nic, mac, mtu, queues, socket }: VmNicView, reconnect: string): string[] {
  const id = qemuNicId(nic);
  const several = queues > 1 ? `,mq=on,vectors=${2 * queues + 2}` : '';
  const device = `virtio-net-pci,id=${id},netdev=${id}.net,mac=${mac},host_mtu=${mtu}${several}`;
  return [
    ...['-chardev', `socket,id=${id}.socket,path=${option(socket)},${reconnect}`],
    ...['-netdev', `vhost-user,id=${id}.net,chardev=${id}.socket,queues=${queues}`],
    ...['-device', `${device},ctrl_guest_offloads=off,rx_queue_size=${RX_QUEUE_SIZE}`],
  ];
}

function diskArgs(disk: DiskView, bootIndex: number, reconnect: string): string[] {
  const id = `outrigger-${disk.disk}`;
  return [
    ...['-chardev', `socket,id=${id}-socket,path=${option(disk.socket)},${reconnect}`],
    '-device',
    `vhost-user-blk-pci,id=${id},chardev=${id}-socket,num-queues=${disk.queues},bootindex=${bootIndex}`,
  ];
}

function escapeXml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&apos;', '"': '&quot;' };
  return text.replace(/[&<>'"]/g, (character) => entities[character] ?? character);
}

/** The elements that belong below <domain> and below its <devices>. */
export function libvirtXml(vm: VmView, machine: MachineOptions): string {
  const disks = vm.disks.map((disk, i) => {
    const target = `vd${diskLetters(i)}`;
    return `    <disk type='vhostuser' device='disk' snapshot='no'>
      <driver name='qemu' type='raw' queues='${disk.queues}'/>
      <source type='unix' path='${escapeXml(disk.socket)}'>
        <reconnect enabled='yes' timeout='1'/>
      </source>
      <target dev='${target}' bus='virtio'/>
      <boot order='${i + 1}'/>
    </disk>
`;
  });
  const nics = vm.nics.map(
    ({ mac, mtu, queues, socket }) => `    <interface type='vhostuser'>
      <mac address='${mac}'/>
      <source type='unix' path='${escapeXml(socket)}' mode='client'>
        <reconnect enabled='yes' timeout='1'/>
      </source>
      <model type='virtio'/>
      <driver queues='${queues}' rx_queue_size='${RX_QUEUE_SIZE}'/>
      <mtu size='${mtu}'/>
    </interface>
`,
  );
  return `<!-- merge into the domain ${vm.name}: virsh edit ${vm.name}; no <os><boot dev=.../> beside <boot order=.../> -->
  <memory unit='MiB'>${machine.memory / 1024 / 1024}</memory>
  <vcpu>${machine.cpus}</vcpu>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <devices>
${disks.join('')}${nics.join('')}  </devices>
`;
}

/** a .. z, aa .. as the kernel and libvirt name virtio disks. */
function diskLetters(index: number): string {
  const letter = String.fromCharCode('a'.charCodeAt(0) + (index % 26));
  return index < 26 ? letter : diskLetters(Math.floor(index / 26) - 1) + letter;
}
