// Splits a stream of text into its lines.

export class LineSplitter {
  private readonly lineMax: number;
  private partial = '';

  constructor(lineMax: number) {
    this.lineMax = lineMax;
  }

  /** The lines that `chunk` completes; undefined when what is incomplete has grown beyond lineMax characters. */
  feed(chunk: string): string[] | undefined {
    const lines = (this.partial + chunk).split('\n');
    this.partial = lines.pop() ?? '';
    return this.partial.length > this.lineMax ? undefined : lines;
  }
}
