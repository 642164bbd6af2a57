// Was every write executed as often as it may be, and no longer than it may be? Both journals are gone
// through in the order of time.
//
// A write may be executed any number of times until it is acknowledged: that is how it survives a crash. It
// is a duplicate when it is executed after it was acknowledged, or after a later write to one of its blocks
// was: then it can undo what someone was told is there. Ids rise in the order of submission, so both are the
// same question: is the block's newest acknowledged id as high as the id that is executed?
import type { ClientRecord, WriteRecord } from './journals.js';

export interface Verdict {
  /** Writes that were acknowledged with success. */
  acknowledged: number;
  /** Writes that the storage executed. */
  executed: number;
  /** Of these, those executed again before they were acknowledged, as they may be after a crash. */
  repeated: number;
  duplicates: number;
  /** Acknowledged, but not executed before. */
  unexecuted: number;
  /** Executed at the wrong place, or not the client's at all. */
  strays: number;
  /** The first few that are wrong, in words. */
  examples: string[];
}

const EXAMPLES_MAX = 10;

export function judge(client: Iterable<ClientRecord>, writes: Iterable<WriteRecord>): Verdict {
  const judgement = new Judgement();
  const executions = writes[Symbol.iterator]();
  let execution = executions.next();
  for (const record of client) {
    // What ended before the client had its acknowledgement was executed before it. Of an execution that ended
    // later the acknowledgement cannot have told.
    for (; !execution.done && execution.value.endNs <= record.timeNs; execution = executions.next()) {
      judgement.execute(execution.value);
    }
    if (record.kind === 'ack' && record.status === 0) {
      judgement.acknowledge(record);
    }
  }
  for (; !execution.done; execution = executions.next()) {
    judgement.execute(execution.value);
  }
  return judgement.verdict;
}

class Judgement {
  readonly verdict: Verdict = {
    ...{ acknowledged: 0, executed: 0, repeated: 0, duplicates: 0, unexecuted: 0, strays: 0 },
    examples: [],
  };
  /** By block: the newest id. */
  readonly #acknowledged = new Map<number, number>();
  readonly #executed = new Map<number, number>();

  acknowledge({ id, first, count }: ClientRecord): void {
    this.verdict.acknowledged++;
    const blocks = Array.from({ length: count }, (_, i) => first + i);
    const missing = blocks.find((block) => (this.#executed.get(block) ?? 0) < id);
    if (missing !== undefined) {
      this.verdict.unexecuted++;
      this.#show(`write ${id} was acknowledged, but block ${missing} was not written`);
    }
    for (const block of blocks) {
      this.#acknowledged.set(block, Math.max(id, this.#acknowledged.get(block) ?? 0));
    }
  }

  execute({ first, stamps }: WriteRecord): void {
    this.verdict.executed++;
    const stray = stamps.findIndex(({ block, id }, i) => block !== first + i || id === 0);
    if (stray >= 0 || stamps.length === 0) {
      this.verdict.strays++;
      this.#show(`block ${first + Math.max(stray, 0)} was overwritten with what is not its own`);
    }
    const late = stamps.find(({ block, id }) => (this.#acknowledged.get(block) ?? 0) >= id);
    if (late !== undefined) {
      this.verdict.duplicates++;
      const newest = this.#acknowledged.get(late.block);
      this.#show(`write ${late.id} was executed on block ${late.block} after write ${newest} was acknowledged`);
    } else if (stamps.some(({ block, id }) => this.#executed.get(block) === id)) {
      this.verdict.repeated++;
    }
    for (const { block, id } of stamps) {
      this.#executed.set(block, Math.max(id, this.#executed.get(block) ?? 0));
    }
  }

  #show(example: string): void {
    if (this.verdict.examples.length < EXAMPLES_MAX) {
      this.verdict.examples.push(example);
    }
  }
}
