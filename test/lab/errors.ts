// What goes wrong in the lab: the machine lacks something, or a process did not do what it was started for.
export class LabError extends Error {
  override readonly name = 'LabError';
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
