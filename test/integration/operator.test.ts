// What an operator does wrong is told with what, where, and how to mend it: real processes, real files, the
// messages as they appear on a terminal.
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { Cleanup } from '../lab/cleanup.js';
import { run } from '../lab/command.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { outriggerProgram } from '../lab/paths.js';

const EXIT_REFUSED = 1;
const EXIT_USAGE = 2;
const EXIT_NO_SUPERVISOR = 3;
const EXIT_CONFIG = 78;

describe('a mistake of the operator', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'disk1', '--size', '64M');
    await lab.cli('iohv', 'attach', 'web1', '--host', HOST_NAME, '--disk', 'disk1');
  });

  after(() => cleanup.run());

  async function refused(status: number, args: string[], ...patterns: RegExp[]): Promise<void> {
    const outcome = await lab.tryCli('iohv', ...args);
    assert.equal(outcome.status, status, outcome.stderr);
    for (const pattern of patterns) {
      assert.match(outcome.stderr, pattern);
    }
  }

  test('an attach to an unknown host names the hosts there are', () =>
    refused(EXIT_REFUSED, ['attach', 'web2', '--host', 'nohost', '--disk', 'disk1'], /nohost/, new RegExp(HOST_NAME)));

  test('a volume attached twice names the VM that has it', () =>
    refused(EXIT_REFUSED, ['attach', 'web2', '--host', HOST_NAME, '--disk', 'disk1'], /disk1/, /web1/));

  test('removing an attached volume tells how to detach it', () =>
    refused(EXIT_REFUSED, ['volume', 'rm', 'disk1'], /outrigger detach web1/));

  test('a volume that is not there is told, with those that are', () =>
    refused(EXIT_REFUSED, ['attach', 'web2', '--host', HOST_NAME, '--disk', 'disk9'], /disk9/, /disk1/));

  test('an unknown command and an unknown option are told', async () => {
    await refused(EXIT_USAGE, ['volumes', 'ls'], /volume/);
    await refused(EXIT_USAGE, ['attach', 'web2', '--host', HOST_NAME, '--disk', 'disk1', '--quues', '2'], /quues/);
  });

  test('a supervisor that does not run is told, with the socket', async () => {
    const socket = `${lab.dir}/nobody.sock`;
    const { status, stderr } = await run([outriggerProgram, 'status', '--socket', socket]);
    assert.equal(status, EXIT_NO_SUPERVISOR, stderr);
    assert.match(stderr, /nobody\.sock/);
  });

  /** Starts a host agent on a changed configuration file. */
  async function badConfig(name: string, change: (text: string) => string, ...patterns: RegExp[]): Promise<void> {
    const file = `${lab.dir}/${name}.yaml`;
    writeFileSync(file, change(readFileSync(lab.configFile('host'), 'utf8')));
    const { status, stderr } = await run(lab.segment.wrap('host', [outriggerProgram, 'host', '--config', file]));
    assert.equal(status, EXIT_CONFIG, stderr);
    // Where: the file, and in it line and column.
    assert.match(stderr, new RegExp(`${name}\\.yaml:\\d+:\\d+`));
    for (const pattern of patterns) {
      assert.match(stderr, pattern);
    }
  }

  test('an unknown key in the configuration is told, with the one that was meant', () =>
    badConfig('key', (text) => text.replace('  mtu:', '  mtuu:'), /mtuu/, /did you mean `mtu`/));

  test('a bad MAC address is told, with how one looks', () =>
    badConfig('mac', (text) => text.replace(/mac: .*/, 'mac: 02:00:zz'), /02:00:zz/, /52:54:00/));

  test('a key file that is missing is told, with how to make it', () =>
    badConfig('missing', (text) => text.replace(/key_file: .*/, 'key_file: /nowhere/host.key'), /key generate/));

  test('a key file that others may read is told, with the chmod', () => {
    const open = `${lab.dir}/open.key`;
    copyFileSync(`${lab.dir}/${HOST_NAME}.key`, open);
    chmodSync(open, 0o644);
    return badConfig('open', (text) => text.replace(/key_file: .*/, `key_file: ${open}`), /0644/, /chmod 600/);
  });

  test("an MTU above the link's is told, with the link's", () =>
    badConfig('mtu', (text) => text.replace(/mtu: .*/, 'mtu: 16000'), /16000/, /9000/));

  test('an interface that is not there is told, with those that are', () =>
    badConfig('interface', (text) => text.replace(/interface: .*/, 'interface: eth7'), /eth7/, /seg0/));

  test('a configuration file that is not there is told', async () => {
    const { status, stderr } = await run([outriggerProgram, 'host', '--config', '/nowhere/host.yaml']);
    assert.equal(status, EXIT_CONFIG, stderr);
    assert.match(stderr, /\/nowhere\/host\.yaml/);
  });
});
