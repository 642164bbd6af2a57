// `outrigger vm ls|show|set|args`.
import type { Argv } from 'yargs';
import type { NicAttachRequest } from '../../api/nic-schemas.js';
import type { AttachRequest, VmView } from '../../api/schemas.js';
import { suggest } from '../../config/suggest.js';
import { listNames, refuse } from '../../errors.js';
import { WEIGHT_DEFAULT, WEIGHT_MAX } from '../../supervisor/protocol.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { parseSize } from '../format.js';
import { renderDevices, renderVms } from '../render.js';
import { libvirtXml, qemuArgs } from '../vm-args.js';

type DiskRequest = NonNullable<AttachRequest['disks']>[number];

/** `VOLUME[,ro][,queues=N][,weight=N][,name=NAME]` */
export function parseDisk(text: string): DiskRequest {
  const [volume = '', ...options] = text.split(',');
  const disk: DiskRequest = { volume };
  const usage = (what: string) => refuse('usage', `--disk ${text}: ${what}`, { command: 'attach' });
  if (volume === '') {
    throw usage('the name of the volume comes first: VOLUME[,ro][,queues=N][,weight=N][,name=NAME]');
  }
  for (const option of options) {
    const [key = '', value] = option.split('=', 2);
    if (key === 'ro' && value === undefined) {
      disk.read_only = true;
    } else if (key === 'queues' && /^\d+$/.test(value ?? '')) {
      disk.queues = Number(value);
    } else if (key === 'weight' && /^\d+$/.test(value ?? '')) {
      disk.weight = Number(value);
    } else if (key === 'name' && value) {
      disk.name = value;
    } else {
      const meant = suggest(key, ['ro', 'queues', 'weight', 'name']);
      throw usage(
        `unknown option \`${option}\`; known: ro, queues=N, weight=N, name=NAME${meant ? ` (${meant}?)` : ''}`,
      );
    }
  }
  return disk;
}

/** `NIC[,queues=N][,qmp=PATH]` */
export function parseNic(text: string): NicAttachRequest {
  const [nic = '', ...options] = text.split(',');
  const request: NicAttachRequest = { nic };
  const usage = (what: string) => refuse('usage', `--nic ${text}: ${what}`, { command: 'attach' });
  if (nic === '') {
    throw usage('the name of the NIC comes first: NIC[,queues=N][,qmp=PATH]');
  }
  for (const option of options) {
    const [key = '', value] = option.split('=', 2);
    if (key === 'queues' && /^\d+$/.test(value ?? '')) {
      request.queues = Number(value);
    } else if (key === 'qmp' && value?.startsWith('/')) {
      request.qmp = value;
    } else {
      const meant = suggest(key, ['queues', 'qmp']);
      throw usage(`unknown option \`${option}\`; known: queues=N, qmp=/PATH${meant ? ` (${meant}?)` : ''}`);
    }
  }
  return request;
}

const vmPositional = { type: 'string', demandOption: true, describe: 'name of the VM' } as const;

export function attachCommand(context: CommandContext, yargs: Argv): Argv {
  return yargs.command(
    'attach <vm>',
    'Give volumes, as disks, and NICs to a VM',
    (y) =>
      withTarget(y)
        .positional('vm', vmPositional)
        .options({
          host: { type: 'string', demandOption: true, describe: 'host that the VM runs on' },
          disk: {
            type: 'string',
            array: true,
            nargs: 1,
            describe: 'VOLUME[,ro][,queues=N][,weight=N][,name=NAME]; may be repeated: all are attached, or none',
          },
          nic: {
            type: 'string',
            array: true,
            nargs: 1,
            describe: "NIC[,queues=N][,qmp=PATH]; likewise. PATH: QEMU's monitor on the host, for receive filters",
          },
          weight: {
            type: 'number',
            describe: `share of the I/O hypervisor of each --disk that names none, 1 to ${WEIGHT_MAX}; default ${WEIGHT_DEFAULT}`,
          },
        })
        .example('$0 attach web1 --host vmhost1 --disk disk1', 'one disk, read-write')
        .example('$0 attach web1 --host vmhost1 --disk disk1 --weight 300', 'three times the share of others')
        .example('$0 attach web1 --host vmhost1 --disk disk1,queues=4 --disk iso,ro', 'several')
        .example('$0 attach web1 --host vmhost1 --nic nic1,queues=2', 'a NIC with two pairs of queues')
        .epilogue('Then: `outrigger vm args web1` prints what QEMU must be told.'),
    async (args) => {
      const weight = args.weight === undefined ? {} : { weight: args.weight };
      const disks = (args.disk ?? []).map((text) => ({ ...weight, ...parseDisk(text) }));
      const nics = (args.nic ?? []).map(parseNic);
      if (disks.length + nics.length === 0) {
        throw refuse('usage', 'there is nothing to attach: name a --disk or a --nic', { command: 'attach' });
      }
      const body: AttachRequest = { vm: args.vm, host: args.host, disks, nics };
      const vm = await clientFor(args).call<VmView>('POST', '/v1/attachments', body);
      context.out(args.json ? toJson(vm) : renderDevices(vm));
    },
  );
}

export function detachCommand(context: CommandContext, yargs: Argv): Argv {
  return yargs.command(
    'detach <vm>',
    'Take disks and NICs away from a VM',
    (y) =>
      withTarget(y)
        .positional('vm', vmPositional)
        .options({
          disk: { type: 'string', describe: 'name of a disk or of its volume; default: all disks and NICs' },
          nic: { type: 'string', describe: 'name of a NIC' },
          force: {
            type: 'boolean',
            default: false,
            describe: 'even while a guest uses it: the guest sees I/O errors, or the link of the NIC go down',
          },
        })
        .conflicts('disk', 'nic')
        .example('$0 detach web1', 'all disks and NICs; the VM must be shut down')
        .example('$0 detach web1 --disk disk1', 'one of them')
        .example('$0 detach web1 --nic nic1 --force', 'from a running guest'),
    async (args) => {
      const client = clientFor(args);
      const query = `?force=${args.force}`;
      const vm = await client.get<VmView>(`/v1/vms/${segment(args.vm)}`);
      let what = [...vm.disks.map(({ disk }) => disk), ...vm.nics.map(({ nic }) => nic)];
      if (args.disk !== undefined) {
        const disk = findDisk(vm, args.disk);
        await client.call('DELETE', `/v1/attachments/${segment(args.vm)}/${segment(disk)}${query}`);
        what = [args.disk];
      } else if (args.nic !== undefined) {
        await client.call('DELETE', `/v1/attachments/${segment(args.vm)}/nics/${segment(args.nic)}${query}`);
        what = [args.nic];
      } else {
        await client.call('DELETE', `/v1/vms/${segment(args.vm)}${query}`);
      }
      context.out(
        args.json ? toJson({ vm: args.vm, detached: what }) : `detached ${what.join(', ')} from ${args.vm}\n`,
      );
    },
  );
}

/** A disk by its name, or by its volume's. Throws disk_not_found. */
function findDisk(vm: VmView, wanted: string): string {
  const found = vm.disks.find(({ disk }) => disk === wanted) ?? vm.disks.find(({ volume }) => volume === wanted);
  if (found === undefined) {
    const known = listNames(vm.disks.map(({ disk }) => disk));
    throw refuse('disk_not_found', `the VM ${vm.name} has no disk ${wanted}`, { vm: vm.name, known });
  }
  return found.disk;
}

export function vmCommand(context: CommandContext) {
  return (yargs: Argv) =>
    yargs
      .command(
        'ls',
        'List VMs with their disks and NICs',
        (y) => withTarget(y),
        async (args) => {
          const vms = await clientFor(args).get<VmView[]>('/v1/vms');
          context.out(args.json ? toJson(vms) : renderVms(vms));
        },
      )
      .command(
        'show <vm>',
        'Show the disks and NICs of a VM',
        (y) => withTarget(y).positional('vm', vmPositional),
        async (args) => {
          const vm = await clientFor(args).get<VmView>(`/v1/vms/${segment(args.vm)}`);
          context.out(args.json ? toJson(vm) : renderDevices(vm));
        },
      )
      .command(
        'set <vm>',
        'Change disks of a VM, also while a guest uses them',
        (y) =>
          withTarget(y)
            .positional('vm', vmPositional)
            .options({
              disk: { type: 'string', describe: 'name of a disk or of its volume; default: all disks' },
              weight: {
                type: 'number',
                demandOption: true,
                describe: `share of the I/O hypervisor when several disks want it, 1 to ${WEIGHT_MAX}`,
              },
            })
            .example(
              '$0 vm set web1 --weight 300',
              `three times the share of a disk with ${WEIGHT_DEFAULT}, the default`,
            ),
        async (args) => {
          const client = clientFor(args);
          let vm = await client.get<VmView>(`/v1/vms/${segment(args.vm)}`);
          const disks = args.disk === undefined ? vm.disks.map(({ disk }) => disk) : [findDisk(vm, args.disk)];
          for (const disk of disks) {
            const path = `/v1/attachments/${segment(args.vm)}/${segment(disk)}`;
            vm = await client.call<VmView>('PATCH', path, { weight: args.weight });
          }
          context.out(args.json ? toJson(vm) : renderDevices(vm));
        },
      )
      .command(
        'args <vm>',
        'Print what QEMU or libvirt must be told to use the disks and NICs',
        (y) =>
          withTarget(y)
            .positional('vm', vmPositional)
            .options({
              format: { choices: ['qemu', 'libvirt', 'json'] as const, default: 'qemu' as const, describe: 'output' },
              memory: { type: 'string', default: '1G', describe: 'memory of the guest; it must be shared' },
              cpus: { type: 'number', default: 1, describe: 'processors of the guest' },
              'qemu-version': { type: 'string', describe: 'such as 10.0: lets QEMU 9.2 and later reconnect faster' },
            })
            .example('qemu-system-x86_64 -accel kvm $($0 vm args web1 --memory 2G)', 'start the VM (on its host)')
            .example('$0 vm args web1 --format libvirt', 'elements for `virsh edit`')
            .epilogue(
              'Works against the I/O hypervisor and on the host of the VM (--socket /run/outrigger/host.sock).',
            ),
        async (args) => {
          const vm = await clientFor(args).get<VmView>(`/v1/vms/${segment(args.vm)}`);
          const machine = { memory: wholeMebibytes(args.memory), cpus: args.cpus, qemuVersion: args.qemuVersion };
          warnOfGuesses(vm, context);
          if (args.format === 'libvirt') {
            context.out(libvirtXml(vm, machine));
          } else {
            const qemu = qemuArgs(vm, machine);
            const asJson = args.json || args.format === 'json';
            context.out(asJson ? toJson(qemu) : inLines(qemu));
          }
        },
      )
      .demandCommand(1, 'which of: ls, show, args?');
}

function wholeMebibytes(text: string): number {
  const bytes = parseSize(text, '--memory');
  if (bytes % (1024 * 1024) !== 0) {
    throw refuse('usage', `--memory ${text} is not a whole number of MiB`, { command: 'vm args' });
  }
  return bytes;
}

function warnOfGuesses(vm: VmView, context: CommandContext): void {
  if ([...vm.disks, ...vm.nics].some((device) => !device.socket_reported)) {
    context.err(
      `note: the host ${vm.host} has not reported its sockets yet; the paths are those of a default configuration\n`,
    );
  }
}

/** One option and its value per line, so that a human can read what a shell splits. */
function inLines(args: readonly string[]): string {
  return `${args.join(' ').replaceAll(' -', '\n-')}\n`;
}
