// The interfaces of NICs, in network namespaces that end with the processes in them.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { interfaceOf, macOf } from '../../../src/supervisor/nic-spec.js';

const WORKER = fileURLToPath(new URL('net-setup-worker.js', import.meta.url));
const skip = process.getuid?.() === 0 ? false : 'network namespaces need root';

/** `prefix` stands before the worker's command, within the namespace; /sys shows the namespace's own interfaces. */
function play<T>(scene: string, ...prefix: string[]): Promise<T> {
  const command = 'mount -t sysfs sysfs /sys && exec "$@"';
  const args = ['--net', '--mount', 'sh', '-c', command, 'sh', ...prefix, process.execPath, WORKER, scene];
  return new Promise((resolve, reject) => {
    execFile('unshare', args, { encoding: 'utf8' }, (error, stdout, stderr) => {
      if (error === null) {
        resolve(JSON.parse(stdout) as T);
      } else {
        reject(new Error(`${error.message}\n${stderr}`));
      }
    });
  });
}

interface Facts {
  mtu: number;
  address: string;
  master: string | null;
  alias: string | null;
  up: boolean;
  kind: string | null;
}

test('a tap of our own is made on its bridge, mended, made again and removed with its NIC', { skip }, async () => {
  const { made, mended, revived, removed } = await play<Record<string, Facts | null>>('bridge');
  const { address, ...facts } = made ?? assert.fail();
  assert.deepEqual(facts, { mtu: 9000, master: 'br0', alias: 'outrigger:nic1', up: true, kind: 'tun' });
  assert.deepEqual(mended, made);
  assert.deepEqual({ ...revived, address }, made);
  assert.equal(removed, null);
});

test('a tap that was there is used as it is, also with several queues, and stays', { skip }, async () => {
  const { used, left } = await play<Record<string, Facts>>('foreign');
  assert.deepEqual([used?.master, used?.up, used?.alias], ['br0', true, null]);
  assert.deepEqual(left, used);
});

test('a macvtap has the address of its NIC and goes with it', { skip }, async () => {
  const { made, mac, removed } = await play<{ made: Facts; mac: string; removed: null }>('macvtap');
  assert.deepEqual([made.kind, made.address, made.up, made.alias], ['macvtap', mac, true, 'outrigger:nic1']);
  assert.equal(mac, macOf('nic1'));
  assert.equal(removed, null);
});

test('what cannot be set up is told by name', { skip }, async () => {
  assert.deepEqual(await play('errors'), {
    noBridge: 'bridge_not_found',
    notBridge: 'interface_unsuitable',
    noParent: 'parent_not_found',
    loopback: 'interface_unsuitable',
    bridgeAsParent: 'interface_unsuitable',
    tooLarge: 'nic_mtu_too_large',
    notTap: 'interface_unsuitable',
    ofOther: 'interface_unsuitable',
    nameTaken: 'interface_unsuitable',
    hub: 'done',
    fine: 'done',
  });
});

test('without the right to set up interfaces, or without iproute2, a hub is what is left', { skip }, async () => {
  assert.deepEqual(await play('powerless', 'setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin'), {
    check: 'net_not_permitted',
    hub: 'done',
  });
  assert.deepEqual(await play('toolless'), { check: 'net_tools_missing' });
});

test('names of interfaces fit, and differ', () => {
  const names = ['a', 'b'].flatMap((nic) => [interfaceOf('tap', nic), interfaceOf('macvtap', nic)]);
  assert.equal(new Set(names).size, 4);
  assert.ok(names.every((name) => /^[a-z0-9]{1,15}$/.test(name)));
});
