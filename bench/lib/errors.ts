// What a person can mend: a wrong argument, or a machine that lacks something. Printed without a stack.
export class BenchError extends Error {
  override readonly name = 'BenchError';
}
