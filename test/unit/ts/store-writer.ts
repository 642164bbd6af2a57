// Writes to a store in a loop until it is killed, and says on stdout what was acknowledged: a child of
// store.test.ts and store-torn.test.ts. Arguments: the state directory, how many rounds, and after how many the
// store is closed, which moves the log into the database, and opened again.
import { writeSync } from 'node:fs';
import { CACHE_DEFAULT } from '../../../src/supervisor/cache.js';
import { NO_LIMIT } from '../../../src/supervisor/limits.js';
import { Store } from '../../../src/supervisor/store.js';

const stateDir = process.argv[2] ?? '';
const limit = Number(process.argv[3] ?? Number.POSITIVE_INFINITY);
const reopenEvery = Number(process.argv[4] ?? Number.POSITIVE_INFINITY);
let store = new Store(stateDir);
const fixed = { kind: 'ram', path: null, size: 4096, blockSize: 512, readOnly: false, adopted: false } as const;

for (let n = 1; n <= limit; n++) {
  store.addVolume({
    name: `v${n}`,
    phase: 'ready',
    geometry: null,
    fault: null,
    ioTimeoutMs: 0,
    limit: NO_LIMIT,
    cache: CACHE_DEFAULT,
    worker: null,
    layers: [],
    base: null,
    ...fixed,
  });
  store.attach([
    { vm: `vm${n}`, disk: 'a', host: 'h1', volume: `v${n}`, readOnly: true, queues: 1, weight: 100 },
    { vm: `vm${n}`, disk: 'b', host: 'h1', volume: `v${n}`, readOnly: true, queues: 1, weight: 7 },
  ]);
  if (n % 2 === 0) {
    const last = store.desired().attachments.at(-1);
    store.detach([last?.id ?? 0]);
  }
  writeSync(1, `${n}\n`);
  if (n % reopenEvery === 0) {
    store.close();
    store = new Store(stateDir);
  }
}
if (Number.isFinite(reopenEvery)) {
  process.exit();
}
setInterval(() => {}, 1000); // holds the database open, so that nothing is tidied up
