// Drives a system towards its plan: asks the planner what can be done now, starts every step that is not
// under way, and asks again whenever one ends. A step that failed is tried again after a growing pause, or
// at once when the planner changes it. Steps of different keys run side by side, so a volume that waits for
// its predecessor's last write holds up nobody else. Those of one lane run one at a time, in the order of the plan;
// one that waits to be tried again lets the next one go first.
import { messageOf } from '../errors.js';
import { EngineGoneError } from './engine-client.js';

/** `key`: what it is about. Without a lane it has one to itself. */
interface AnyStep {
  key: string;
  lane?: string;
}

export interface ReconcilerOptions<Step extends AnyStep> {
  /** The steps that can be taken now; undefined while the actual state is not known. */
  plan(failed: ReadonlySet<string>): Step[] | undefined;
  execute(step: Step): Promise<void>;
  /** Whether nobody waits for the step to end. */
  isInBackground?(step: Step): boolean;
  onFailure(step: Step, reason: string, retryMs: number): void;
}

interface Failure {
  signature: string;
  reason: string;
  attempts: number;
  retryAt: number;
}

const laneOf = ({ key, lane = key }: AnyStep) => lane;

const RETRY_FIRST_MS = 1000;
const RETRY_MAX_MS = 30_000;

export class Reconciler<Step extends AnyStep> {
  private readonly options: ReconcilerOptions<Step>;
  /** By lane. */
  private readonly running = new Map<string, Step>();
  private readonly failures = new Map<string, Failure>();
  private readonly timers = new Set<NodeJS.Timeout>();
  private waiters: (() => void)[] = [];
  private scheduled = false;
  private epoch = 0;
  private stopped = false;

  constructor(options: ReconcilerOptions<Step>) {
    this.options = options;
  }

  /** Something changed: plan again soon. */
  trigger(): void {
    if (this.scheduled || this.stopped) {
      return;
    }
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.pass();
    });
  }

  /** What was under way and what failed belonged to another life of the system. */
  reset(): void {
    this.epoch++;
    this.running.clear();
    this.failures.clear();
    this.trigger();
  }

  /** What failed may succeed now. */
  retry(): void {
    for (const failure of this.failures.values()) {
      failure.retryAt = 0;
    }
    this.trigger();
  }

  /** Why the step of this key does not succeed; undefined when it did or never ran. */
  failureOf(key: string): string | undefined {
    return this.failures.get(key)?.reason;
  }

  /** Resolves when nothing is left to do but what failed, or after timeoutMs. */
  settled(timeoutMs: number): Promise<void> {
    this.trigger();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.waiters.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  stop(): void {
    this.stopped = true;
    for (const timer of this.timers) {
      clearTimeout(timer);
    }
    this.release();
  }

  private pass(): void {
    if (this.stopped) {
      return;
    }
    const steps = this.options.plan(new Set(this.failures.keys()));
    if (steps === undefined) {
      return;
    }
    const known = new Set([...steps, ...this.running.values()].map(({ key }) => key));
    for (const key of this.failures.keys()) {
      if (!known.has(key)) {
        this.failures.delete(key);
      }
    }
    for (const step of steps) {
      if (!this.running.has(laneOf(step)) && !this.isHeld(step)) {
        void this.run(step);
      }
    }
    if ([...this.running.values()].every((step) => this.options.isInBackground?.(step))) {
      this.release();
    }
  }

  private isHeld(step: Step): boolean {
    const failure = this.failures.get(step.key);
    return failure !== undefined && failure.signature === JSON.stringify(step) && performance.now() < failure.retryAt;
  }

  private async run(step: Step): Promise<void> {
    const { epoch } = this;
    this.running.set(laneOf(step), step);
    let error: unknown;
    try {
      await this.options.execute(step);
    } catch (caught) {
      error = caught;
    }
    if (epoch !== this.epoch || this.stopped) {
      return;
    }
    this.running.delete(laneOf(step));
    if (error === undefined) {
      this.failures.delete(step.key);
    } else if (!(error instanceof EngineGoneError)) {
      this.fail(step, messageOf(error));
    }
    this.trigger();
  }

  private fail(step: Step, reason: string): void {
    const attempts = (this.failures.get(step.key)?.attempts ?? 0) + 1;
    const retryMs = Math.min(RETRY_FIRST_MS * 2 ** (attempts - 1), RETRY_MAX_MS);
    const retryAt = performance.now() + retryMs;
    this.failures.set(step.key, { signature: JSON.stringify(step), reason, attempts, retryAt });
    this.options.onFailure(step, reason, retryMs);
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.trigger();
    }, retryMs + 1);
    this.timers.add(timer);
  }

  private release(): void {
    const { waiters } = this;
    this.waiters = [];
    for (const waiter of waiters) {
      waiter();
    }
  }
}
