// /metrics: what the supervisor knows and, while the engine runs, its counters.
import { isDisk, isNet } from '../supervisor/documents.js';
import type { EngineStatus } from '../supervisor/engine-keeper.js';
import type { HostSupervisor } from '../supervisor/host-supervisor.js';
import type { IohvSupervisor } from '../supervisor/iohv-supervisor.js';
import { counterOf, flatten, type Nested, type Sample, toPrometheus } from '../telemetry/metrics.js';
import { cacheSamples } from './cache-metrics.js';
import { domainSamples } from './domain-views.js';
import type { IohvViews } from './iohv-views.js';

export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

const isUp = (engine: EngineStatus) => engine.state === 'running';

async function engineSamples(engine: EngineStatus, stats: () => Promise<Nested>): Promise<Sample[]> {
  const { lastBlackoutMs } = engine;
  return [
    ...flatten('outrigger', { engineUp: Number(isUp(engine)), engineDeathsTotal: engine.deaths }),
    ...flatten('outrigger_engine', {
      standbyReady: Number(engine.standby === 'ready'),
      ...(lastBlackoutMs === null ? {} : { lastBlackoutSeconds: lastBlackoutMs / 1000 }),
    }),
    ...flatten('outrigger_engine', isUp(engine) ? await stats() : {}),
  ];
}

export async function iohvMetrics(views: IohvViews, supervisor: IohvSupervisor): Promise<string> {
  const hosts = (await views.hosts()).flatMap((host) => {
    const values = {
      up: Number(host.up),
      srttUs: host.srtt_us,
      inFlight: host.in_flight,
      disks: host.disks,
      nics: host.nics,
      superFrameLinks: host.links.filter(({ frames }) => frames === 'super').length,
    };
    return flatten('outrigger_host', { ...values, requests: host.requests }, { host: host.name });
  });
  const all = views.volumes();
  const volumes = all.flatMap(({ name, errors, state }) =>
    flatten('outrigger_volume', { errors, failed: Number(state === 'failed') }, { volume: name }),
  );
  const nics = (await views.nics.nics()).flatMap(({ name, state, counters }) =>
    flatten('outrigger_nic', { open: Number(state === 'open'), ...(counters as Nested | null) }, { nic: name }),
  );
  const counts = { volumes: all.length, attachments: views.attachments().length };
  const workers = (await supervisor.rows.workers()).flatMap((stats, worker) => {
    const of = (...path: string[]) => counterOf(stats, path);
    const values = {
      busySecondsTotal: Math.max(of('loop', 'elapsedMs') - of('loop', 'sleptMs'), 0) / 1000,
      stepsTotal: of('loop', 'steps'),
      requestsTotal: of('server', 'requests'),
      bytesReadTotal: of('server', 'bytesRead'),
      bytesWrittenTotal: of('server', 'bytesWritten'),
      volumes: all.filter((volume) => volume.worker === worker).length,
    };
    return flatten('outrigger_worker', values, { worker: String(worker) });
  });
  const cache = cacheSamples(await views.cache.cache());
  const domains = domainSamples(await views.domains.domains(), await supervisor.rows.domains());
  const engine = await engineSamples(supervisor.engineStatus(), () => supervisor.stats());
  const parts = [volumes, cache, nics, domains, hosts, workers, engine];
  return toPrometheus([...flatten('outrigger', counts), ...parts.flat()]);
}

export async function hostMetrics(supervisor: HostSupervisor): Promise<string> {
  const entries = supervisor.deviceEntries();
  const [disks, nics] = [entries.filter(isDisk).length, entries.filter(isNet).length];
  const counts = { sessionUp: Number(supervisor.sessionStatus().up), disks, nics };
  const engine = await engineSamples(supervisor.engineStatus(), () => supervisor.stats());
  return toPrometheus([...flatten('outrigger', counts), ...engine]);
}
