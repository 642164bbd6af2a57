// The addon's engine as an object of JavaScript: it may be stopped at any moment, and forgotten.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Cleanup } from '../lab/cleanup.js';
import { run } from '../lab/command.js';
import { SEGMENT_INTERFACE, Segment } from '../lab/netns.js';
import { repoRoot } from '../lab/paths.js';

const ROUNDS = 20;
const cleanup = new Cleanup();
let segment: Segment;

before(() => {
  cleanup.onSignals();
  segment = Segment.open(9000, cleanup);
});
after(() => cleanup.run());

test('every command of a stopped engine ends, and the engine is collected', async () => {
  const program = `${repoRoot}/dist/test/integration/addon-life.js`;
  const argv = [process.execPath, '--expose-gc', program, SEGMENT_INTERFACE, `${ROUNDS}`] as const;
  const { status, stdout, stderr } = await run(segment.wrap('host', [...argv]));
  assert.equal(status, 0, stderr);
  const { resolved, ECANCELED, collected, ...late } = JSON.parse(stdout) as Record<string, number>;
  assert.equal((resolved ?? 0) + (ECANCELED ?? 0), ROUNDS * 50, stdout);
  assert.ok((collected ?? 0) >= ROUNDS - 1, stdout);
  assert.deepEqual(late, { 'late ESHUTDOWN': ROUNDS });
});
