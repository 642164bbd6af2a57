/* NICs at the server: whose packets these are. How they travel is in packets.c; what becomes of them is the matter
 * of whoever added the NIC. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "plant.h"
#include "server_internal.h"

struct or_server_nic *or_nics_find(const struct or_server *s, uint32_t id)
{
    const struct or_list *head = &s->nics[id % OR_EXPORT_BUCKETS];
    for (struct or_list *l = head->next; l != head; l = l->next) {
        struct or_server_nic *n = OR_CONTAINER(l, struct or_server_nic, link);
        if (n->info.id == id)
            return n;
    }
    return NULL;
}

/* --- adding and removing ------------------------------------------------------------------------ */

/* Memory for a host's packets, from its first NIC on. */
static int open_packets(struct or_host *host)
{
    if (host->packets.memory)
        return 0;
    int err = or_packets_open(&host->packets);
    if (!err && host->live)
        or_nics_begin(host->live);
    return err;
}

static void belong(struct or_server_nic *n, const struct or_nic_export *info, struct or_host *host)
{
    if (n->host)
        n->host->nics--;
    host->nics++;
    n->host = host;
    n->info = *info;
}

int or_server_add_nic(struct or_server *s, const struct or_nic_export *info)
{
    struct or_host *host = or_server_host_named(s, info->host);
    struct or_server_nic *n = or_nics_find(s, info->id);
    if (!host)
        return -ENOENT;
    if (or_requests_export(s, info->id) || (n && info->generation <= n->info.generation))
        return -EEXIST;
    if (!n && s->nic_count >= s->config.exports_max)
        return -ENOSPC;
    int err = open_packets(host);
    if (err)
        return err;
    if (!n) {
        n = calloc(1, sizeof *n);
        if (!n)
            return -ENOMEM;
        or_list_append(&s->nics[info->id % OR_EXPORT_BUCKETS], &n->link);
        s->nic_count++;
    }
    belong(n, info, host);
    return 0;
}

static void free_nic(struct or_server *s, struct or_server_nic *n)
{
    n->host->nics--;
    s->nic_count--;
    or_list_remove(&n->link);
    free(n);
}

int or_server_remove_nic(struct or_server *s, uint32_t id)
{
    struct or_server_nic *n = or_nics_find(s, id);
    if (!n)
        return -ENOENT;
    free_nic(s, n);
    return 0;
}

void or_nics_free(struct or_server *s)
{
    for (uint32_t i = 0; i < OR_EXPORT_BUCKETS; i++)
        while (!or_list_empty(&s->nics[i]))
            free_nic(s, OR_CONTAINER(s->nics[i].next, struct or_server_nic, link));
}

uint64_t or_server_nic_fenced(const struct or_server *s, uint32_t id)
{
    const struct or_server_nic *n = or_nics_find(s, id);
    return n ? n->fenced : 0;
}

/* --- sessions ----------------------------------------------------------------------------------- */

void or_nics_begin(struct or_session *session)
{
    or_packets_begin(&session->host->packets, &session->links, session->fragment_bytes, or_requests_send, session);
}

void or_nics_end(struct or_host *host)
{
    or_packets_end(&host->packets);
}

/* --- packets ------------------------------------------------------------------------------------ */

enum or_packet_verdict or_server_packet(struct or_server *s, uint32_t id, const struct or_packet *packet, uint64_t now)
{
    struct or_server_nic *n = or_nics_find(s, id);
    return n ? or_packets_send(&n->host->packets, id, n->info.generation, packet, now) : OR_PACKET_DOWN;
}

/* The NIC that the message is of, or NULL: it is dropped, and counted. */
static struct or_server_nic *addressee(struct or_session *session, const struct or_message_packet *m)
{
    struct or_server *s = session->server;
    struct or_server_nic *n = or_nics_find(s, m->device);
    if (!n || (n->host != session->host && !OR_PLANTED(OR_PLANT_PACKET_HOST))) {
        s->stats.packets_unknown++;
        return NULL;
    }
    if (n->info.generation != m->generation && !OR_PLANTED(OR_PLANT_PACKET_GENERATION)) {
        n->fenced++;
        s->stats.packets_fenced++;
        return NULL;
    }
    return n;
}

enum or_refuse or_nics_receive(struct or_session *session, const struct or_frame_header *h, uint64_t now)
{
    enum or_refuse refuse, bad = OR_REFUSE_NONE;
    uint32_t at = sizeof *h, length;
    const struct or_message *m;
    while ((m = or_wire_next(h, &at, &refuse))) {
        const struct or_message_packet *message = (const void *)m;
        struct or_server_nic *n = m->type == OR_MSG_PACKET ? addressee(session, message) : NULL;
        if (!n)
            continue;
        const uint8_t *packet = or_packets_receive(&session->host->packets, message, &length, &refuse, now);
        if (packet)
            n->info.packet(n->info.arg, packet, length);
        if (refuse)
            bad = refuse;
    }
    return bad;
}
