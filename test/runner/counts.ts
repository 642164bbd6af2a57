// How many tests did what, and reading that from the protocols that test programs speak.

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export const NOTHING: Counts = { passed: 0, failed: 0, skipped: 0 };
export const ONE_PASSED: Counts = { passed: 1, failed: 0, skipped: 0 };
export const ONE_FAILED: Counts = { passed: 0, failed: 1, skipped: 0 };

export function add(a: Counts, b: Counts): Counts {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed, skipped: a.skipped + b.skipped };
}

export function formatCounts({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

/** The flat TAP of cmocka: "ok 1 - name", "not ok 2 - name"; a skip is "not ok 3 # SKIP name" there. */
export function countFlatTap(text: string): Counts {
  let counts = NOTHING;
  for (const line of text.split('\n')) {
    const verdict = /^(not )?ok \d+(.*)$/.exec(line);
    if (verdict) {
      const skipped = /# SKIP/i.test(verdict[2] ?? '');
      counts = add(counts, skipped ? { ...NOTHING, skipped: 1 } : verdict[1] ? ONE_FAILED : ONE_PASSED);
    }
  }
  return counts;
}

/** The summary at the end of the TAP of `node --test`: "# pass 3", ... */
export function countNodeTap(text: string): Counts {
  const number = (name: string) => Number(new RegExp(`^# ${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  return {
    passed: number('pass'),
    failed: number('fail') + number('cancelled'),
    skipped: number('skipped') + number('todo'),
  };
}

/** A program's exit status counts too: one that dies has failed, and so has one that ran no test at all. */
export function withStatus(counts: Counts, status: number): Counts {
  const isSilent = counts.passed + counts.failed + counts.skipped === 0;
  return (status !== 0 && counts.failed === 0) || isSilent ? add(counts, ONE_FAILED) : counts;
}
