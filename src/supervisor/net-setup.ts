// The network interfaces of NICs on the I/O hypervisor, made, set up and removed by `ip` (iproute2), which every
// operator can read and repeat. An interface that we made bears the alias `outrigger:NIC`, so it is known as ours
// by every later supervisor and goes with its NIC; one that was there before is only made a port of the bridge,
// given the MTU and switched on, and stays.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { errnoOf, messageOf, refuse } from '../errors.js';
import type { Nic } from './model.js';

const CAP_NET_ADMIN = 12;
const IP_TIMEOUT_MS = 10_000;
/** `ip` processes at a time. */
const CONCURRENCY = 4;

/** What `ip -json -details link show` says of an interface, as far as we ask. */
interface Link {
  ifname: string;
  mtu: number;
  flags: string[];
  address?: string;
  master?: string;
  link?: string;
  ifalias?: string;
  linkinfo?: { info_kind?: string; info_data?: { type?: string; mode?: string } };
}

export class NetSetup {
  private running = 0;
  private readonly queue: (() => void)[] = [];

  /**
   * Whether the NIC could be set up now. Throws net_not_permitted, net_tools_missing, bridge_not_found,
   * parent_not_found, interface_unsuitable, nic_mtu_too_large.
   */
  async check(nic: Nic): Promise<void> {
    if (nic.interface === null) {
      return;
    }
    assertPermitted();
    if (nic.bridge !== null) {
      await this.findBridge(nic.bridge);
    }
    if (nic.parent !== null) {
      await this.findParent(nic, nic.parent);
    }
    assertUsable(nic, await this.show(nic.interface));
  }

  /** Makes the NIC's interface or sets it right; what is right already is left alone. Throws as check, and net_setup_failed. */
  async ensure(nic: Nic): Promise<void> {
    const { interface: name } = nic;
    if (name === null) {
      return;
    }
    await this.check(nic);
    let link = await this.show(name);
    if (link === undefined) {
      await this.make(nic, name);
      link = await this.show(name);
    }
    if (link === undefined) {
      throw refuse('net_setup_failed', `the interface ${name} went as soon as it was made`);
    }
    for (const change of changesOf(nic, link)) {
      await this.ip('link', 'set', 'dev', name, ...change);
    }
  }

  /** ensure, when the interface is gone: one look at /sys, so that it can stand before every opening. */
  async revive(nic: Nic): Promise<void> {
    if (nic.interface !== null && !existsSync(`/sys/class/net/${nic.interface}`)) {
      await this.ensure(nic);
    }
  }

  /** Removes the NIC's interface if we made it. Throws net_setup_failed. */
  async remove(nic: Nic): Promise<void> {
    if (nic.interface === null) {
      return;
    }
    const link = await this.show(nic.interface);
    if (link?.ifalias === aliasOf(nic)) {
      await this.ip('link', 'delete', 'dev', nic.interface);
    }
  }

  private async make(nic: Nic, name: string): Promise<void> {
    const alias = ['link', 'set', 'dev', name, 'alias', aliasOf(nic)];
    if (nic.kind === 'macvtap') {
      const [parent, mode] = [nic.parent ?? '', nic.mode ?? 'bridge'];
      await this.ip('link', 'add', 'link', parent, 'name', name, 'address', nic.mac, 'type', 'macvtap', 'mode', mode);
    } else {
      await this.ip('tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr');
    }
    try {
      await this.ip(...alias);
      if (nic.bridge !== null || nic.kind === 'macvtap') {
        // Else the I/O hypervisor would speak IPv6 on the guest's line.
        await this.ip('link', 'set', 'dev', name, 'addrgenmode', 'none');
      }
    } catch (error) {
      await this.ip('link', 'delete', 'dev', name).catch(() => {}); // without its alias nobody would remove it
      throw error;
    }
  }

  private async findBridge(name: string): Promise<void> {
    const link = await this.show(name);
    if (link === undefined) {
      throw refuse('bridge_not_found', `there is no bridge ${name} on the I/O hypervisor`, { bridge: name });
    }
    if (kindOf(link) !== 'bridge') {
      throw unsuitable(name, `${name} is not a Linux bridge`);
    }
  }

  private async findParent(nic: Nic, name: string): Promise<void> {
    const parent = await this.show(name);
    if (parent === undefined) {
      throw refuse('parent_not_found', `there is no interface ${name} on the I/O hypervisor`, { interface: name });
    }
    if (parent.flags.includes('LOOPBACK') || ['bridge', 'tun'].includes(kindOf(parent))) {
      throw unsuitable(name, `${name} cannot carry a macvtap`);
    }
    if (parent.mtu < nic.mtu) {
      throw refuse('nic_mtu_too_large', `the MTU of ${name} is ${parent.mtu}, less than the NIC's ${nic.mtu}`, {
        ...{ interface: name, mtu: String(nic.mtu) },
      });
    }
  }

  private async show(name: string): Promise<Link | undefined> {
    try {
      const links = JSON.parse(await this.ip('-json', '-details', 'link', 'show', 'dev', name)) as Link[];
      return links[0];
    } catch (error) {
      if (/does not exist|Cannot find device/.test(messageOf(error))) {
        return undefined;
      }
      throw error;
    }
  }

  private async ip(...args: string[]): Promise<string> {
    if (this.running >= CONCURRENCY) {
      await new Promise<void>((resolve) => this.queue.push(resolve));
    }
    this.running++;
    try {
      return await runIp(args);
    } finally {
      this.running--;
      this.queue.shift()?.();
    }
  }
}

const aliasOf = (nic: Nic) => `outrigger:${nic.name}`;
const kindOf = (link: Link) => link.linkinfo?.info_kind ?? '';
const unsuitable = (name: string, what: string) => refuse('interface_unsuitable', what, { interface: name });

/** Throws interface_unsuitable when something else has the name. */
function assertUsable(nic: Nic, link: Link | undefined): void {
  if (link === undefined) {
    return;
  }
  const name = link.ifname;
  if (nic.kind === 'macvtap') {
    if (kindOf(link) !== 'macvtap' || link.ifalias !== aliasOf(nic)) {
      throw unsuitable(
        name,
        `there is another interface ${name}, which outrigger did not make for the NIC ${nic.name}`,
      );
    }
    return;
  }
  if (kindOf(link) !== 'tun' || (link.linkinfo?.info_data?.type ?? 'tap') !== 'tap') {
    throw unsuitable(name, `the interface ${name} is not a tap`);
  }
  if (link.ifalias?.startsWith('outrigger:') && link.ifalias !== aliasOf(nic)) {
    throw unsuitable(name, `the tap ${name} was made for the NIC ${link.ifalias.slice('outrigger:'.length)}`);
  }
}

/** What `ip link set` must be told, in an order that works. */
function changesOf(nic: Nic, link: Link): string[][] {
  const changes: string[][] = [];
  if (link.mtu !== nic.mtu) {
    changes.push(['mtu', String(nic.mtu)]);
  }
  if (nic.kind === 'macvtap' && link.address !== nic.mac) {
    changes.push(['address', nic.mac]);
  }
  // What the guest listens to is its own filter's business; the kernel knows of no groups of ours, IPv6's included.
  if (nic.kind === 'macvtap' && !link.flags.includes('ALLMULTI')) {
    changes.push(['allmulticast', 'on']);
  }
  if (nic.bridge !== null && link.master !== nic.bridge) {
    changes.push(['master', nic.bridge]);
  }
  if (!link.flags.includes('UP')) {
    changes.push(['up']);
  }
  return changes;
}

function assertPermitted(): void {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  if (((BigInt(`0x${effective}`) >> BigInt(CAP_NET_ADMIN)) & 1n) === 0n) {
    throw refuse('net_not_permitted', 'the supervisor may not set up network interfaces');
  }
}

function runIp(args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile('ip', [...args], { timeout: IP_TIMEOUT_MS }, (error, stdout, stderr) => {
      if (error === null) {
        resolve(stdout);
        return;
      }
      const command = `ip ${args.join(' ')}`;
      if (errnoOf(error) === 'ENOENT') {
        reject(refuse('net_tools_missing', 'there is no command `ip`'));
      } else if (/not permitted/i.test(stderr)) {
        reject(refuse('net_not_permitted', `\`${command}\`: ${stderr.trim()}`));
      } else {
        reject(refuse('net_setup_failed', `\`${command}\`: ${stderr.trim() || messageOf(error)}`));
      }
    });
  });
}
