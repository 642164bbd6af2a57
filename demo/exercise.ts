// What the demo guest reports on its console (guest/demo/exercise writes it): lines that begin with OUTRIGGER,
// then a word, then key=value pairs; the value of `text` goes on to the end of the line.

export interface ExerciseResult {
  verifiedBytes: number;
  mismatches: number;
  ioErrors: number;
  /** Of its NIC, by DHCP. */
  address: string;
  /** SHA-256 of what it fetched through the NIC. */
  page: string;
}

export type Report =
  | { kind: 'booted'; kernel: string }
  | { kind: 'step'; text: string }
  | { kind: 'result'; result: ExerciseResult }
  | { kind: 'other'; text: string };

/** undefined: not a line of the exercise's. */
export function parseReport(line: string): Report | undefined {
  const [, kind, rest = ''] = /OUTRIGGER (\w+) (.*)$/.exec(line.trimEnd()) ?? [];
  if (kind === undefined) {
    return undefined;
  }
  const value = (key: string) => new RegExp(`\\b${key}=(\\S+)`).exec(rest)?.[1] ?? '';
  switch (kind) {
    case 'booted':
      return { kind, kernel: value('kernel') };
    case 'step':
      return { kind, text: rest.replace(/^text=/, '') };
    case 'result':
      return {
        kind,
        result: {
          verifiedBytes: Number(value('verifiedBytes')),
          mismatches: Number(value('mismatches')),
          ioErrors: Number(value('ioErrors')),
          address: value('address'),
          page: value('page'),
        },
      };
    default:
      return { kind: 'other', text: `${kind} ${rest}` };
  }
}

/** A console line as plain text: without colours and carriage returns. */
export function plainText(line: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: terminal sequences are what is removed
  return line.replace(/\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f]/g, '').trim();
}
