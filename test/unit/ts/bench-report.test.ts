import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, test } from 'node:test';
import { readCpuTimes } from '../../../bench/lib/cpu-times.js';
import { formatPage, mergeRows } from '../../../bench/lib/report/page.js';
import { percentiles, plotsOf } from '../../../bench/lib/report/plots.js';
import { linearScale, logScale, short, stepScale } from '../../../bench/lib/report/scale.js';
import { drawMarker, styleOf } from '../../../bench/lib/report/style.js';
import { escapeXml } from '../../../bench/lib/report/svg.js';
import { writeReport } from '../../../bench/lib/report/write.js';
import { type BlockResult, makeResult, readResult, writeResult } from '../../../bench/lib/result.js';
import type { Row } from '../../../bench/lib/row.js';
import { SYSTEMS } from '../../../bench/lib/systems.js';
import { selectWorkloads } from '../../../bench/lib/workloads.js';
import { benchRow } from './bench-rows.js';

describe('a linear axis', () => {
  test('begins at 0 and ends at a round value that is at least the largest', () => {
    const { ticks } = linearScale(87, 0, 100);
    assert.equal(ticks[0], 0);
    assert.equal(ticks.at(-1), 100);
    assert.equal(linearScale(100, 0, 100).ticks.at(-1), 100);
  });

  test('places values in proportion', () => {
    const { at } = linearScale(100, 20, 220);
    assert.deepEqual([at(0), at(50), at(100)], [20, 120, 220]);
  });

  test('bears nothing but zeros', () => {
    assert.equal(linearScale(0, 0, 100).at(0), 0);
  });
});

describe('a logarithmic axis', () => {
  test('gives equal room to equal factors', () => {
    const { at } = logScale(1, 100, 0, 200);
    assert.deepEqual([at(1), at(10), at(100)].map(Math.round), [0, 100, 200]);
  });

  test('holds every value between its ends, and has ticks there', () => {
    for (const [min, max] of [
      [7, 9],
      [3.2, 41],
      [1, 1],
      [0.4, 250_000],
    ] as const) {
      const { at, ticks } = logScale(min, max, 0, 100);
      assert.ok(at(min) >= -1e-6 && at(max) <= 100 + 1e-6, `${min} to ${max}`);
      assert.ok(ticks.length >= 1, `${min} to ${max} has ticks`);
    }
  });
});

test('an axis of powers of two has a tick for each', () => {
  const { at, ticks } = stepScale([8, 1, 2, 4, 2], 0, 30);
  assert.deepEqual(ticks, [1, 2, 4, 8]);
  assert.deepEqual(ticks.map(at).map(Math.round), [0, 10, 20, 30]);
});

test('figures on axes are short', () => {
  assert.deepEqual([0, 0.25, 8, 12.34, 1000, 1_500_000, 2e9].map(short), [
    '0',
    '0.25',
    '8',
    '12.3',
    '1k',
    '1.5M',
    '2G',
  ]);
});

test('percentiles come out of the buckets of a histogram', () => {
  const buckets = [
    [1000, 50],
    [2000, 49],
    [9000, 1],
  ] as const;
  assert.deepEqual(percentiles(buckets, [0.5, 0.51, 0.99, 0.999]), [1, 2, 2, 9]);
  assert.deepEqual(percentiles([], [0.5]), [0]);
});

test('no two systems look alike', () => {
  const looks = SYSTEMS.filter(({ name }) => !name.startsWith('nbdkit-file')).map(({ name }) =>
    drawMarker(styleOf({ system: name, integrity: 'none', workers: 1 }), 0, 0),
  );
  assert.equal(new Set(looks).size, looks.length);
});

test('the sweeps share what they have in common, and --only filters them', () => {
  const all = selectWorkloads(['standard', 'qd', 'bs'], []);
  assert.equal(new Set(all.map((workload) => JSON.stringify(workload))).size, all.length);
  assert.deepEqual(
    selectWorkloads(['bs'], ['op=randread']).map(({ bs }) => bs),
    [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576],
  );
  assert.throws(() => selectWorkloads(['depth'], []), /--sweep depth: there are standard, qd, bs/);
});

test('CPU times are of the CPUs that are asked for; waiting for a disk is idle', () => {
  const stat = 'cpu  10 0 10 100 20 0 5 0 3 0\ncpu0 4 0 4 50 10 0 2 0 3 0\ncpu1 6 0 6 50 10 0 3 0 0 0\nintr 5\n';
  assert.deepEqual(readCpuTimes(undefined, stat), { busyUs: 250_000, idleUs: 1_200_000 });
  assert.deepEqual(readCpuTimes([1], stat), { busyUs: 150_000, idleUs: 600_000 });
});

const machine = { cpu: 'A <fast> one', cpus: 2, memory_gib: 24, kernel: '6.1', system: 'Debian', versions: {} };
const latency_ns: [number, number][] = [
  [1000, 90],
  [5000, 10],
];

function resultOf(rows: Row[], command = 'npm run bench -- block'): BlockResult {
  return makeResult({ started: '2026-01-01T00:00:00.000Z', command, seconds: 2, machine, cpus: {}, rows });
}

const sweep = [1, 2, 4].flatMap((qd) =>
  ['outrigger-ram', 'qsd-vm'].map((system) =>
    benchRow({ system, qd, mtu: system === 'qsd-vm' ? 0 : 9000, latency_ns }),
  ),
);

describe('the plots of a result', () => {
  const plots = plotsOf(sweep);

  test('are one for each workload, and for each sweep and figure with memory and disk apart', () => {
    const files = plots.map(({ file }) => file);
    assert.ok(files.includes('randread-4096-qd1-mtu9000'), files.join());
    assert.ok(files.includes('qd-randread-4096-memory-p50-mtu9000'));
    assert.ok(files.includes('qd-randread-4096-disk-iops-mtu9000'));
    assert.equal(new Set(files).size, files.length);
  });

  test('have no number that is none', () => {
    const odd = [benchRow({ system: 'tcp-echo', mtu: 9000, p50_us: 0, iops: 0 }), benchRow({ system: 'x', mtu: 9000 })];
    for (const { file, svg } of [...plots, ...plotsOf(odd)]) {
      assert.doesNotMatch(svg, /NaN|Infinity|undefined/, file);
    }
  });

  test('of several VMs are over their number', () => {
    const rows = [1, 2, 4].map((vms) => benchRow({ system: 'outrigger-vm', mtu: 9000, vms }));
    assert.ok(plotsOf(rows).some(({ section }) => section === 'Several VMs'));
  });
});

describe('the page', () => {
  test('has the machine, the command and every plot, and needs nothing else', () => {
    const plots = plotsOf(sweep);
    const page = formatPage([resultOf(sweep)], sweep, plots, []);
    assert.match(page, /npm run bench -- block/);
    assert.match(page, /A &lt;fast&gt; one/);
    for (const { file } of plots) {
      assert.ok(page.includes(`id="${file}"`), file);
    }
    assert.doesNotMatch(page, /<(?:script|link|img)\b|url\(/);
  });

  test('shows text as text', () => {
    assert.equal(escapeXml(`<a href="x">'&`), '&lt;a href=&quot;x&quot;&gt;&#39;&amp;');
    const page = formatPage([resultOf([], '<script>')], [], [], []);
    assert.match(page, /&lt;script&gt;/);
  });

  test('of several results has the last of a row that is in more than one', () => {
    const [old, now] = [benchRow({ iops: 1 }), benchRow({ iops: 2 })];
    assert.deepEqual(
      mergeRows([resultOf([old, benchRow({ qd: 2 })]), resultOf([now])]).map(({ iops, qd }) => [qd, iops]),
      [
        [1, 2],
        [2, 1],
      ],
    );
  });
});

describe('a result', () => {
  const inDirectory = (use: (dir: string) => void) => {
    const dir = mkdtempSync(`${tmpdir()}/bench-result-`);
    try {
      use(dir);
    } finally {
      rmSync(dir, { recursive: true });
    }
  };

  test('is read as it was written', () =>
    inDirectory((dir) => {
      const result = resultOf(sweep);
      writeResult(`${dir}/r.json`, result);
      assert.deepEqual(readResult(`${dir}/r.json`), JSON.parse(JSON.stringify(result)));
    }));

  test('of something else is refused', () =>
    inDirectory((dir) => {
      writeFileSync(`${dir}/r.json`, '[]');
      assert.throws(() => readResult(`${dir}/r.json`), /not a result/);
      assert.throws(() => readResult(`${dir}/none.json`), /no such file/);
    }));

  test('becomes a page and a file for each plot', () =>
    inDirectory((dir) => {
      const page = writeReport(`${dir}/report`, [resultOf(sweep)]);
      assert.match(readFileSync(page, 'utf8'), /^<!doctype html>/);
      const pictures = readdirSync(`${dir}/report`).filter((name) => name.endsWith('.svg'));
      assert.equal(pictures.length, plotsOf(sweep).length);
    }));
});
