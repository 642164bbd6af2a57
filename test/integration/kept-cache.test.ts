// A guest on a volume in write-back whose engine is killed: the guest lives on, so every write that it was told is
// done has to be there, flushed or not.
import { after, before, describe, test } from 'node:test';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';

const KILLS = 5;

describe('a guest on a volume in write-back whose engine is killed', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '64M' });
    await lab.startBoth();
    const cache = ['--cache', 'write-back', '--dirty-age', '1h', '--dirty-max', '32M'];
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M', ...cache);
    await lab.cli('iohv', 'attach', 'vm1', '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest('vm1');
  });

  after(() => cleanup.run());

  test('has every write that was acknowledged', async () => {
    const at = 'bs=1M seek=200 count=4 oflag=direct conv=notrunc';
    await guest.must('dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null');
    await guest.must(`dd if=/tmp/data of=/dev/vda ${at} 2>/dev/null`);
    for (let kill = 0; kill < KILLS; kill++) {
      await lab.killEngine('iohv');
    }
    await guest.must('dd if=/dev/vda bs=1M skip=200 count=4 iflag=direct 2>/dev/null | cmp - /tmp/data');
  });
});
