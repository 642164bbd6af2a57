// What is wrong with a configuration file, and how it is told.

export type KeyPath = readonly (string | number)[];

export interface Problem {
  line: number;
  column: number;
  /** `port.mtu`, `hosts[0].key_file`; '' for the file as a whole. */
  path: string;
  message: string;
  hint: string;
}

/** All problems of one file; the message holds them in full. */
export class ConfigError extends Error {
  readonly file: string;
  readonly problems: readonly Problem[];

  constructor(file: string, problems: readonly Problem[]) {
    super(problems.map((problem) => formatProblem(file, problem)).join('\n'));
    this.name = 'ConfigError';
    this.file = file;
    this.problems = problems;
  }
}

export function formatProblem(file: string, problem: Problem): string {
  const where = problem.path === '' ? '' : `${problem.path}: `;
  return `error: ${file}:${problem.line}:${problem.column}: ${where}${problem.message}\n  hint: ${problem.hint}`;
}

export function formatPath(path: KeyPath): string {
  return path.map((key, i) => (typeof key === 'number' ? `[${key}]` : i === 0 ? key : `.${key}`)).join('');
}
