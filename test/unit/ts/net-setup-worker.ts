// Runs within a network namespace of its own (net-setup.test.ts makes it), so that whatever it makes ends with it.
// Does what its argument says and prints the outcome as JSON.
import { execFileSync } from 'node:child_process';
import { OutriggerError } from '../../../src/errors.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import type { Nic } from '../../../src/supervisor/model.js';
import { NetSetup } from '../../../src/supervisor/net-setup.js';
import { type NicTarget, nicFrom } from '../../../src/supervisor/nic-spec.js';

const net = new NetSetup();
const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

interface LinkFacts {
  mtu: number;
  address: string;
  master: string | null;
  alias: string | null;
  up: boolean;
  kind: string | null;
}

function link(name: string): LinkFacts | null {
  try {
    const [found] = JSON.parse(ip('-json', '-details', 'link', 'show', 'dev', name)) as Record<string, never>[];
    const {
      mtu,
      address,
      master = null,
      ifalias = null,
      flags,
      linkinfo,
    } = found as unknown as {
      mtu: number;
      address: string;
      master?: string;
      ifalias?: string;
      flags: string[];
      linkinfo?: { info_kind?: string };
    };
    return { mtu, address, master, alias: ifalias, up: flags.includes('UP'), kind: linkinfo?.info_kind ?? null };
  } catch {
    return null;
  }
}

function nic(name: string, target: NicTarget, mtu?: number): Nic {
  const rest = { mac: undefined, addresses: undefined, spoofCheck: undefined, linkUp: undefined };
  return nicFrom(name, { target, mtu, ...rest, rate: { tx: NO_LIMIT, rx: NO_LIMIT } }, new Set());
}

const tap = (name: string, changes: { interface?: string; bridge?: string } = {}, mtu?: number) =>
  nic(name, { kind: 'tap', interface: changes.interface, bridge: changes.bridge }, mtu);
const macvtap = (name: string, parent: string, mtu?: number) =>
  nic(name, { kind: 'macvtap', parent, mode: 'vepa' }, mtu);

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'done';
  } catch (error) {
    return error instanceof OutriggerError ? error.code : String(error);
  }
}

const scenes: Record<string, () => Promise<unknown>> = {
  async bridge() {
    ip('link', 'add', 'br0', 'type', 'bridge');
    const one = tap('nic1', { bridge: 'br0' }, 9000);
    await net.ensure(one);
    const made = link(one.interface ?? '');
    await net.ensure(one);
    ip('link', 'set', 'dev', one.interface ?? '', 'nomaster', 'mtu', '1500', 'down');
    await net.ensure(one);
    const mended = link(one.interface ?? '');
    ip('link', 'delete', 'dev', one.interface ?? '');
    await net.revive(one);
    const revived = link(one.interface ?? '');
    await net.remove(one);
    await net.remove(one);
    return { made, mended, revived, removed: link(one.interface ?? '') };
  },
  async foreign() {
    ip('link', 'add', 'br0', 'type', 'bridge');
    ip('tuntap', 'add', 'dev', 'tap7', 'mode', 'tap', 'vnet_hdr', 'multi_queue');
    const one = tap('nic1', { interface: 'tap7', bridge: 'br0' });
    await net.ensure(one);
    const used = link('tap7');
    await net.remove(one);
    return { used, left: link('tap7') };
  },
  async macvtap() {
    ip('link', 'add', 'eth1', 'type', 'veth', 'peer', 'name', 'eth2');
    const one = macvtap('nic1', 'eth1');
    await net.ensure(one);
    const made = link(one.interface ?? '');
    await net.remove(one);
    return { made, mac: one.mac, removed: link(one.interface ?? '') };
  },
  async errors() {
    ip('link', 'add', 'br0', 'type', 'bridge');
    ip('link', 'add', 'eth1', 'type', 'veth', 'peer', 'name', 'eth2');
    const mine = tap('nic1', { interface: 'tap1' });
    await net.ensure(mine);
    ip('link', 'add', macvtap('nic9', 'eth1').interface ?? '', 'type', 'bridge');
    return {
      noBridge: await codeOf(net.check(tap('a', { bridge: 'br9' }))),
      notBridge: await codeOf(net.check(tap('a', { bridge: 'eth1' }))),
      noParent: await codeOf(net.check(macvtap('a', 'eth9'))),
      loopback: await codeOf(net.check(macvtap('a', 'lo'))),
      bridgeAsParent: await codeOf(net.check(macvtap('a', 'br0'))),
      tooLarge: await codeOf(net.check(macvtap('a', 'eth1', 9000))),
      notTap: await codeOf(net.check(tap('a', { interface: 'eth1' }))),
      ofOther: await codeOf(net.check(tap('a', { interface: 'tap1' }))),
      nameTaken: await codeOf(net.check(macvtap('nic9', 'eth1'))),
      hub: await codeOf(net.check(nic('a', { kind: 'hub', hub: 'lab' }))),
      fine: await codeOf(net.check(tap('nic1', { interface: 'tap1' }))),
    };
  },
  async powerless() {
    return {
      check: await codeOf(net.check(tap('a'))),
      hub: await codeOf(net.check(nic('a', { kind: 'hub', hub: 'x' }))),
    };
  },
  async toolless() {
    process.env.PATH = '/nonexistent';
    return { check: await codeOf(net.check(tap('a'))) };
  },
};

const scene = scenes[process.argv[2] ?? ''];
process.stdout.write(JSON.stringify(await scene?.()));
