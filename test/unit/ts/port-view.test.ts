// What a status says about the way that frames take.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type StatusContext, xdpProblems, xdpView } from '../../../src/api/common-views.js';
import type { HostStatus, XdpView } from '../../../src/api/schemas.js';
import { renderStatus } from '../../../src/cli/render.js';

const context = (mode: StatusContext['mode']): StatusContext => ({
  ...{ version: '1', interfaces: ['eth1'], mode, startedAt: 0 },
});
const counters = (xdpForm: number, xdpQueues: number, xdpZeroCopyQueues: number) => async () => ({
  port: { xdpForm, xdpQueues, xdpZeroCopyQueues },
});

function portLine(xdp: XdpView | null): string | undefined {
  const status: HostStatus = {
    ...{ role: 'host', name: 'h1', version: '1', uptime_s: 1, problems: [], vms: [] },
    engine: {
      ...{ state: 'running', pid: 1, started_at: null, deaths: 0, last_error: '', log: '' },
      ...{ standby: 'none', last_blackout_ms: null, processes: [] },
    },
    port: { interface: 'eth1', second_interface: null, mac: null, mtu: 9000, mode: xdp ? 'xdp' : 'packet', xdp },
    session: { up: true, reason: '', links: [], workers: [] },
  };
  return /^port +(.*)$/m.exec(renderStatus(status))?.[1];
}

test('a status tells zero-copy, copying and AF_PACKET apart, and why', async () => {
  const shown = async (...numbers: Parameters<typeof counters>) =>
    portLine(await xdpView(context('xdp'), counters(...numbers)));
  const port = 'eth1, mac -, mtu 9000';
  assert.equal(await shown(1, 2, 2), `${port}, AF_XDP with zero-copy: the driver has zero-copy`);
  assert.equal(await shown(2, 1, 0), `${port}, AF_XDP, copied: the driver has no zero-copy`);
  assert.equal(
    await shown(3, 2, 1),
    `${port}, AF_XDP, copied: the driver has no zero-copy, or none for an MTU above 3776`,
  );
  assert.equal(await shown(4, 1, 0), `${port}, AF_XDP, copied: the driver has no XDP`);
  assert.match((await shown(5, 0, 0)) ?? '', /, AF_PACKET: another process has the XDP program or a queue/);
  assert.match((await shown(6, 0, 0)) ?? '', /, AF_PACKET: the kernel refuses AF_XDP for now/);
  assert.equal(portLine(await xdpView(context('packet'), counters(0, 0, 0))), port);
});

test('an engine that cannot be asked hides nothing else of a status', async () => {
  assert.equal(await xdpView(context('xdp'), () => Promise.reject(new Error('no engine'))), null);
});

test('an XDP program of another process is a problem', async () => {
  assert.deepEqual(xdpProblems(await xdpView(context('xdp'), counters(2, 1, 0))), []);
  assert.match(xdpProblems(await xdpView(context('xdp'), counters(5, 0, 0))).join(), /another process/);
});
