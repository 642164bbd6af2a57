// The ring of events by itself; over the REST interface it is tested in iohv.test.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EVENT_TEXT_MAX, EventLog } from '../../../src/telemetry/events.js';

const never = new AbortController().signal;

function filled(count: number, capacity = 4): EventLog {
  const log = new EventLog(capacity, 101);
  for (let n = 0; n < count; n++) {
    log.add('info', 'host.up', { host: `h${n}` });
  }
  return log;
}

const seqs = (log: EventLog, after?: number) => log.since(after).map(({ seq }) => seq);

test('a reader gets what is newer than what it has', () => {
  const log = filled(3);
  assert.deepEqual(seqs(log), [101, 102, 103]);
  assert.deepEqual(seqs(log, 100), [101, 102, 103]);
  assert.deepEqual(seqs(log, 102), [103]);
  assert.deepEqual(seqs(log, 103), []);
});

test('the ring is bounded, and whoever missed events is told how many', () => {
  const log = filled(7);
  assert.deepEqual(seqs(log), [104, 105, 106, 107]);
  assert.deepEqual(seqs(log, 103), [104, 105, 106, 107], 'nothing missed');
  const [notice, ...rest] = log.since(101);
  assert.deepEqual([notice?.seq, notice?.kind], [103, 'events.dropped']);
  assert.deepEqual(notice?.fields, { reason: 'overrun', count: 2 });
  assert.deepEqual(
    rest.map(({ seq }) => seq),
    [104, 105, 106, 107],
  );
});

test('a number of another life is recognised, whether it is older or newer', () => {
  for (const after of [0, 99, 500]) {
    for (const log of [filled(2), filled(0)]) {
      const [notice] = log.since(after);
      assert.deepEqual([notice?.kind, notice?.fields], ['events.dropped', { reason: 'restart' }]);
      assert.deepEqual(log.since(notice?.seq), log.since(), 'the notice leads to what is held');
    }
  }
});

test('waiting ends with an event, with time, or when nobody listens', async () => {
  const log = filled(1);
  const waiting = log.next(101, 60_000, never);
  log.add('warn', 'host.down', { host: 'h0', reason: undefined });
  assert.deepEqual(
    (await waiting).map(({ seq, kind, fields }) => [seq, kind, fields]),
    [[102, 'host.down', { host: 'h0' }]],
  );
  assert.deepEqual(await log.next(102, 1, never), []);
  const gone = new AbortController();
  const abandoned = log.next(102, 60_000, gone.signal);
  gone.abort();
  assert.deepEqual(await abandoned, []);
  assert.deepEqual(await log.next(102, 60_000, gone.signal), []);
});

test('a text that another machine sent does not fill the memory', () => {
  const log = new EventLog();
  log.add('warn', 'host.down', { host: 'h1', reason: 'x'.repeat(1 << 20) });
  assert.equal(String(log.since()[0]?.fields.reason).length, EVENT_TEXT_MAX);
});
