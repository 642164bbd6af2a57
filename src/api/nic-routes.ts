// The REST interface of NICs, on the I/O hypervisor.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { refuse } from '../errors.js';
import { mergeLimit, NO_LIMIT } from '../supervisor/limits.js';
import type { NicOperations } from '../supervisor/nic-operations.js';
import type { NicChanges, NicSpec, NicTarget } from '../supervisor/nic-spec.js';
import type { Limit } from '../supervisor/protocol.js';
import type { NicChange, NicRate, NicRequest } from './nic-schemas.js';
import type { NicViews } from './nic-views.js';
import { NameParams } from './schemas.js';
import { answers } from './server.js';

const none = Type.Null({ description: 'done' });

export function nicRoutes(app: FastifyInstance, operations: NicOperations, views: NicViews): void {
  const tags = ['NICs'];
  const nic = Type.Ref('Nic#');

  app.get(
    '/v1/nics',
    { schema: { operationId: 'listNics', tags, summary: 'All NICs', response: answers({ 200: Type.Array(nic) }) } },
    () => views.nics(),
  );
  app.get<{ Params: NameParams }>(
    '/v1/nics/:name',
    {
      schema: { operationId: 'getNic', tags, summary: 'One NIC', params: NameParams, response: answers({ 200: nic }) },
    },
    (request) => views.nic(request.params.name),
  );
  app.put<{ Params: NameParams; Body: NicRequest }>(
    '/v1/nics/:name',
    {
      schema: {
        operationId: 'createNic',
        tags,
        summary: 'Create a NIC; 200 when the same NIC exists',
        params: NameParams,
        body: Type.Ref('NicRequest#'),
        response: answers({ 200: nic, 201: nic }),
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      const created = await operations.create(name, toSpec(request.body));
      return reply.code(created ? 201 : 200).send(await views.nic(name));
    },
  );
  app.patch<{ Params: NameParams; Body: NicChange }>(
    '/v1/nics/:name',
    {
      schema: {
        operationId: 'changeNic',
        tags,
        summary: 'Change a NIC, also while a guest uses it',
        params: NameParams,
        body: Type.Ref('NicChange#'),
        response: answers({ 200: nic }),
      },
    },
    async (request) => {
      const { name } = request.params;
      await operations.set(name, toChanges(request.body));
      return views.nic(name);
    },
  );
  app.delete<{ Params: NameParams }>(
    '/v1/nics/:name',
    {
      schema: {
        operationId: 'deleteNic',
        tags,
        summary: 'Remove a NIC; its interface goes too if it was made for it',
        params: NameParams,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      await operations.delete(request.params.name);
      return reply.code(204).send();
    },
  );
}

function toTarget({ bridge, tap, macvtap, hub }: NicRequest): NicTarget {
  const isTap = bridge !== undefined || tap !== undefined;
  if ([isTap, macvtap !== undefined, hub !== undefined].filter(Boolean).length !== 1) {
    throw refuse('invalid_request', 'a NIC needs one of: bridge and/or tap, macvtap, hub');
  }
  if (macvtap !== undefined) {
    return { kind: 'macvtap', parent: macvtap.parent, mode: macvtap.mode ?? 'bridge' };
  }
  return hub === undefined ? { kind: 'tap', interface: tap, bridge } : { kind: 'hub', hub };
}

function toSpec(body: NicRequest): NicSpec {
  const { mac, mtu, addresses, spoof_check: spoofCheck, link, rate } = body;
  const limit = (direction: 'tx' | 'rx') => mergeLimit(NO_LIMIT, toLimit(rate?.[direction] ?? {}));
  return {
    ...{ target: toTarget(body), mac, mtu, addresses, spoofCheck },
    linkUp: link === undefined ? undefined : link === 'up',
    rate: { tx: limit('tx'), rx: limit('rx') },
  };
}

function toChanges({ addresses, spoof_check: spoofCheck, link, rate }: NicChange): NicChanges {
  const linkUp = link === undefined ? undefined : link === 'up';
  return { addresses, spoofCheck, linkUp, rate: { tx: toLimit(rate?.tx ?? {}), rx: toLimit(rate?.rx ?? {}) } };
}

function toLimit({ bits_per_s, burst_bytes, packets_per_s, burst_packets }: Partial<NicRate>): Partial<Limit> {
  return {
    ...(bits_per_s === undefined ? {} : { bytesPerS: bits_per_s / 8 }),
    ...(burst_bytes === undefined ? {} : { bytesBurst: burst_bytes }),
    ...(packets_per_s === undefined ? {} : { opsPerS: packets_per_s }),
    ...(burst_packets === undefined ? {} : { opsBurst: burst_packets }),
  };
}
