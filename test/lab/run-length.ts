// bin/test --long: the same tests with the numbers of an acceptance run (minutes of silence, thousands of
// cycles), which take hours rather than minutes.
export const isLongRun = process.env.OUTRIGGER_LONG === '1';
