// What happened since: the same route for both roles. A long poll, so that it works over every transport that
// carries a request: a unix socket, HTTPS, a proxy.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { EVENTS_WAIT_S_MAX } from '../config/rules.js';
import type { EventLog } from '../telemetry/events.js';
import { EventsQuery } from './schemas.js';
import { answers } from './server.js';

export function eventRoutes(app: FastifyInstance, events: EventLog): void {
  app.get<{ Querystring: EventsQuery }>(
    '/v1/events',
    {
      schema: {
        operationId: 'listEvents',
        tags: ['events'],
        summary: 'Events, oldest first; with wait_s, waits for one that is newer than `after`',
        description:
          'Without `after`, all that are held. When events after it are lost, the first one of the answer is `events.dropped`.',
        querystring: EventsQuery,
        response: answers({ 200: Type.Array(Type.Ref('Event#')) }),
      },
    },
    (request, reply) => {
      const { after, wait_s: waitS = '0' } = request.query;
      if (after === undefined) {
        return events.since();
      }
      const gone = new AbortController();
      reply.raw.once('close', () => gone.abort());
      const waitMs = Math.min(Number(waitS), EVENTS_WAIT_S_MAX) * 1000;
      return events.next(Number(after), waitMs, gone.signal);
    },
  );
}
