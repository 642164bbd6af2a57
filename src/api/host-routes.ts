// The REST interface of a host agent, on its unix socket only: it shows, and replaces the engine.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { HostSupervisor } from '../supervisor/host-supervisor.js';
import type { EventLog } from '../telemetry/events.js';
import { engineRoutes } from './engine-routes.js';
import { eventRoutes } from './event-routes.js';
import type { HostViews } from './host-views.js';
import { hostMetrics, METRICS_TYPE } from './metrics-text.js';
import { Stats, VmParams } from './schemas.js';
import { answers } from './server.js';

export function hostRoutes(views: HostViews, supervisor: HostSupervisor, events: EventLog) {
  return (app: FastifyInstance): void => {
    const vm = Type.Ref('Vm#');
    app.get(
      '/v1/status',
      { schema: { operationId: 'getStatus', response: answers({ 200: Type.Ref('Status#') }) } },
      () => views.status(),
    );
    app.get('/v1/vms', { schema: { operationId: 'listVms', response: answers({ 200: Type.Array(vm) }) } }, () =>
      views.vms(),
    );
    app.get<{ Params: VmParams }>(
      '/v1/vms/:vm',
      { schema: { operationId: 'getVm', params: VmParams, response: answers({ 200: vm }) } },
      (request) => views.vm(request.params.vm),
    );
    app.get('/v1/stats', { schema: { operationId: 'getStats', response: answers({ 200: Stats }) } }, () =>
      supervisor.stats(),
    );
    app.get('/metrics', { schema: { operationId: 'getMetrics', produces: ['text/plain'] } }, async (_request, reply) =>
      reply.type(METRICS_TYPE).send(await hostMetrics(supervisor)),
    );
    engineRoutes(app, supervisor);
    eventRoutes(app, events);
  };
}
