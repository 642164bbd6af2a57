// What a supervisor that starts finds of its predecessors: engines on the sockets RUN_DIR/ROLE-engine.N.sock.
//
// At most one of them is active, because a supervisor activates an engine only after it has seen the end of
// the one before, and a claimed engine hears of nobody else any more (engine/listener.ts). Whatever a
// supervisor was doing when it died, its engines are then one of these:
//
//   active                    adopted: it goes on, and its I/O with it
//   standby                   kept when it runs the present build, ended otherwise
//   drained, stopped          of an upgrade that was not finished: ended, before another one is activated
//   does not answer           killed
//   its socket is refused     it is dead: the socket is removed
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { Logger } from '../telemetry/log.js';
import { EngineProcess } from './engine-process.js';

export interface Found {
  active: EngineProcess | undefined;
  standbys: EngineProcess[];
}

export class EngineSockets {
  private readonly prefix: string;
  private last = 0;

  /** prefix: RUN_DIR/ROLE-engine */
  constructor(prefix: string) {
    this.prefix = prefix;
  }

  /** A path that no engine uses or used. */
  next(): string {
    return `${this.prefix}.${++this.last}.sock`;
  }

  /** Resolves when every engine that it does not return has ended. */
  async scan(log: Logger): Promise<Found> {
    const engines = (await Promise.all(this.sockets().map((socket) => claim(socket)))).filter((e) => e !== undefined);
    // By the rules above there is one; should that ever fail, the newest has the latest state.
    const actives = engines.filter(({ info }) => info.state === 'active').sort(byActivation);
    const active = actives[0];
    const isStandby = ({ info }: EngineProcess) => info.state === 'standby';
    await Promise.all(engines.filter((e) => e !== active && !isStandby(e)).map((engine) => endLeftover(engine, log)));
    return { active, standbys: engines.filter(isStandby) };
  }

  private sockets(): string[] {
    const folder = dirname(this.prefix);
    mkdirSync(folder, { recursive: true });
    const start = `${basename(this.prefix)}.`;
    const names = readdirSync(folder).filter(
      (name) => name.startsWith(start) && /^\d+\.sock$/.test(name.slice(start.length)),
    );
    this.last = Math.max(this.last, ...names.map((name) => Number.parseInt(name.slice(start.length), 10)));
    return names.map((name) => `${folder}/${name}`);
  }
}

async function claim(socket: string): Promise<EngineProcess | undefined> {
  const engine = await EngineProcess.claim(socket);
  if (engine === undefined) {
    rmSync(socket, { force: true });
  }
  return engine;
}

async function endLeftover(engine: EngineProcess, log: Logger): Promise<void> {
  log.warn('engine.leftover', { pid: engine.pid, state: engine.info.state });
  if (engine.info.state === 'active') {
    engine.kill();
    await engine.client.closed;
  } else {
    await engine.end(() => {
      log.error('engine.stop-timeout', { pid: engine.pid });
      engine.kill();
    });
  }
  engine.client.close();
}

function byActivation(a: EngineProcess, b: EngineProcess): number {
  return (b.info.activeSince ?? 0) - (a.info.activeSince ?? 0);
}
