/* Hosts, exports and sessions of the server; how a session comes to be is in server_handshake.c, what
 * happens inside it in requests.c.
 *
 * When a host has a new session, the one before it is retired in that moment: its frames are refused,
 * its unstarted requests are dropped (the host sends them again), and what the back-end has of it is
 * waited for before the new session's requests execute.
 *
 * A session id carries the host's index in its low bits, so finding the session of a frame is one
 * array access and one comparison. */
#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "noise.h"
#include "plant.h"
#include "server_internal.h"

#define MS 1000000ull
#define SESSION_EXPIRES_NS (5000 * MS) /* clients speak at least every second */

void or_server_random(struct or_server *s, void *out, size_t n)
{
    s->config.env.random(s->config.env.arg, out, n);
}

void or_server_tell(struct or_server *s, const struct or_host *host, bool up, const char *why)
{
    if (s->config.link)
        s->config.link(s->config.arg, host->name, up, why);
}

/* --- hosts -------------------------------------------------------------------------------------- */

/* FNV-1a. Only names that are known can be hit, so nobody gains by colliding. */
static uint32_t hash_of(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash;
}

struct or_host *or_server_host_named(const struct or_server *s, const char *name)
{
    uint32_t hash = hash_of(name);
    for (uint32_t i = 0; i < s->config.hosts_max; i++)
        if (s->name_hashes[i] == hash && s->hosts[i].used && strcmp(s->hosts[i].name, name) == 0)
            return &s->hosts[i];
    return NULL;
}

int or_server_add_host(struct or_server *s, const char *name, const uint8_t psk[32])
{
    if (or_server_host_named(s, name))
        return -EEXIST;
    for (uint32_t i = 0; i < s->config.hosts_max; i++) {
        struct or_host *h = &s->hosts[i];
        if (h->used || h->retired)
            continue;
        *h = (struct or_host){.used = true, .admitted = true, .tokens = OR_HELLO_TOKENS};
        strncpy(h->name, name, OR_NAME_MAX);
        memcpy(h->psk, psk, sizeof h->psk);
        or_server_random(s, h->cookie, sizeof h->cookie);
        if (or_proof_open(&h->proof, psk)) {
            memset(h, 0, sizeof *h);
            return -ENOMEM;
        }
        s->name_hashes[i] = hash_of(name);
        return 0;
    }
    return -ENOSPC;
}

int or_server_admit_host(struct or_server *s, const char *name, bool admit)
{
    struct or_host *h = or_server_host_named(s, name);
    if (!h)
        return -ENOENT;
    h->admitted = admit;
    return 0;
}

int or_server_remove_host(struct or_server *s, const char *name)
{
    struct or_host *h = or_server_host_named(s, name);
    if (!h)
        return -ENOENT;
    if (h->exports || h->nics)
        return -EBUSY;
    if (h->live)
        or_server_retire(s, h->live);
    for (uint32_t i = 0; i < OR_HALF_OPEN; i++)
        or_server_drop_half_open(s, &h->half[i]);
    if (h->document)
        or_document_release(h->document);
    or_packet_stats_add(&s->stats.packets, &h->packets.stats);
    or_packets_close(&h->packets);
    uint32_t retired = h->retired;
    memset(h, 0, sizeof *h);
    h->retired = retired; /* its place stays taken until their I/O has ended */
    return 0;
}

int or_server_set_document(struct or_server *s, const char *name, const void *bytes, uint32_t length)
{
    struct or_host *h = or_server_host_named(s, name);
    if (!h)
        return -ENOENT;
    if (length == 0 || length > OR_REQ_BYTES_MAX)
        return -EMSGSIZE;
    struct or_document *d = malloc(sizeof *d + length);
    if (!d)
        return -ENOMEM;
    if (++h->document_version == 0)
        h->document_version = 1;
    *d = (struct or_document){.refs = 1, .version = h->document_version, .length = length};
    memcpy(d->bytes, bytes, length);
    if (h->document)
        or_document_release(h->document);
    h->document = d;
    or_requests_document(h);
    return 0;
}

/* --- ports -------------------------------------------------------------------------------------- */

uint32_t or_server_ports(const struct or_server *s)
{
    uint32_t n = 1;
    while (n < OR_LINKS_MAX && s->config.ports[n])
        n++;
    return n;
}

int or_server_allow(struct or_server *s, uint32_t id)
{
    for (uint32_t i = 0; i < or_server_ports(s); i++) {
        int err = or_port_allow(s->config.ports[i], id);
        if (err) {
            or_server_disallow(s, id);
            return err;
        }
    }
    return 0;
}

void or_server_disallow(struct or_server *s, uint32_t id)
{
    for (uint32_t i = 0; i < or_server_ports(s); i++)
        or_port_disallow(s->config.ports[i], id);
}

uint32_t or_server_mtu(const struct or_server *s)
{
    uint32_t mtu = OR_MTU_MAX;
    for (uint32_t i = 0; i < or_server_ports(s); i++)
        if (s->config.ports[i]->mtu < mtu)
            mtu = s->config.ports[i]->mtu;
    return mtu;
}

/* Tells the client, as well as one frame a link can, and ends the session. */
static void say_bye(struct or_server *s, struct or_session *session, enum or_bye code, uint64_t now)
{
    struct or_links *links = &session->links;
    for (uint32_t i = 0; i < links->count; i++) {
        struct or_path *path = &links->link[i].path;
        if (!links->link[i].known)
            continue;
        path->probe = true;
        struct or_message *m = or_path_message(path, sizeof *m, (struct or_item){.slot = OR_ITEM_PING}, now);
        if (m)
            *m = (struct or_message){.type = OR_MSG_BYE, .code = (uint8_t)code, .length = sizeof *m};
        or_path_flush(path, now);
    }
    or_server_retire(s, session);
}

void or_server_bye(struct or_server *s, uint64_t now)
{
    for (uint32_t i = 0; i < s->config.hosts_max; i++) {
        struct or_host *host = &s->hosts[i];
        host->admitted = false;
        for (uint32_t k = 0; k < OR_HALF_OPEN; k++)
            or_server_drop_half_open(s, &host->half[k]);
        if (host->live)
            say_bye(s, host->live, OR_BYE_STOP, now);
    }
}

/* A session whose MTU could be another now is made anew. */
static void follow_mtu(struct or_server *s, struct or_host *host, uint64_t now)
{
    uint32_t mtu = or_server_mtu(s);
    for (uint32_t k = 0; k < OR_HALF_OPEN; k++)
        if (host->half[k].used && host->half[k].mtu > mtu)
            or_server_drop_half_open(s, &host->half[k]);
    struct or_session *session = host->live;
    if (session && session->mtu != (session->client_mtu < mtu ? session->client_mtu : mtu)) {
        say_bye(s, session, OR_BYE_MTU, now);
        or_server_tell(s, host, false, "the MTU of a link has changed");
    }
}

void or_server_port_changed(struct or_server *s, const struct or_port *port, uint64_t now)
{
    for (uint32_t i = 0; i < s->config.hosts_max; i++) {
        struct or_host *host = &s->hosts[i];
        follow_mtu(s, host, now);
        if (host->live)
            or_links_port_changed(&host->live->links, port, now);
    }
}

/* --- exports ------------------------------------------------------------------------------------ */

/* No reply out of the volume's memory outlives the right to read it. */
static void forget_memory(struct or_server *s, const struct or_server_export *x, uint8_t status)
{
    for (struct or_list *l = s->sessions.next; l != &s->sessions; l = l->next)
        or_requests_forget_memory(OR_CONTAINER(l, struct or_session, link), x, status);
}

/* `info` from now on. */
static void change_export(struct or_server_export *x, const struct or_export *info)
{
    uint32_t weight = x->info.weight;
    x->info = *info;
    x->info.weight = weight;
    or_schedule_weigh(x, info->weight ? info->weight : OR_WEIGHT_DEFAULT);
    or_requests_recheck(x);
}

/* One that is not known yet. */
static int new_export(struct or_server *s, struct or_host *host, const struct or_export *info,
                      struct or_server_export **out)
{
    if (s->export_count >= s->config.exports_max)
        return -ENOSPC;
    struct or_server_export *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    or_list_init(&x->waiting);
    or_list_init(&x->out);
    or_list_init(&x->flow.link);
    change_export(x, info);
    or_list_append(&s->exports[info->id % OR_EXPORT_BUCKETS], &x->link);
    s->export_count++;
    host->exports++;
    *out = x;
    return 0;
}

/* Newer requests wait for what the back-end has of it. */
static void change_hands(struct or_server *s, struct or_server_export *x, struct or_host *host,
                         const struct or_export *info)
{
    or_server_host_named(s, x->info.host)->exports--;
    host->exports++;
    x->owner = NULL;
    change_export(x, info);
}

int or_server_elsewhere(struct or_server *s, const struct or_export *info, void (*drained)(void *arg), void *arg)
{
    struct or_host *host = or_server_host_named(s, info->host);
    struct or_server_export *x = or_requests_export(s, info->id);
    if (!host)
        return -ENOENT;
    if (or_nics_find(s, info->id) || (x && x->removed))
        return -EEXIST;
    if (x && x->left)
        return -EBUSY;
    if (!x) {
        int err = new_export(s, host, info, &x);
        if (err)
            return err;
        x->info.volume = NULL;
    } else if (x->elsewhere) {
        change_hands(s, x, host, info);
        x->info.volume = NULL;
    } else {
        forget_memory(s, x, OR_EMOVED);
    }
    x->left = drained;
    x->left_arg = arg;
    or_requests_leave(x);
    return 0;
}

int or_server_add_export(struct or_server *s, const struct or_export *info)
{
    struct or_host *host = or_server_host_named(s, info->host);
    struct or_server_export *x = or_requests_export(s, info->id);
    if (!host)
        return -ENOENT;
    if (or_nics_find(s, info->id))
        return -EEXIST;
    if (x && x->elsewhere && !x->removed) {
        if (x->left)
            return -EBUSY;
        change_hands(s, x, host, info);
        x->elsewhere = false;
        return 0;
    }
    if (x) {
        if (!x->removed && !x->info.volume && info->volume && info->generation == x->info.generation &&
            strcmp(info->host, x->info.host) == 0) {
            change_export(x, info);
            return 0;
        }
        if (x->removed || x->info.volume != info->volume || info->generation <= x->info.generation)
            return -EEXIST;
        forget_memory(s, x, OR_EFENCED);
        change_hands(s, x, host, info);
        return 0;
    }
    return new_export(s, host, info, &x);
}

int or_server_replace_volume(struct or_server *s, uint32_t id, struct or_volume *volume)
{
    struct or_server_export *x = or_requests_export(s, id);
    if (!x || !x->info.volume)
        return -ENOENT;
    x->info.volume = volume;
    return 0;
}

int or_server_set_weight(struct or_server *s, uint32_t id, uint32_t weight)
{
    struct or_server_export *x = or_requests_export(s, id);
    if (!x || x->removed)
        return -ENOENT;
    or_schedule_weigh(x, weight);
    return 0;
}

int or_server_remove_export(struct or_server *s, uint32_t id, void (*drained)(void *arg), void *arg)
{
    struct or_server_export *x = or_requests_export(s, id);
    if (!x || x->removed)
        return -ENOENT;
    forget_memory(s, x, OR_ENODEV);
    or_server_host_named(s, x->info.host)->exports--;
    s->export_count--;
    x->drained = drained;
    x->drained_arg = arg;
    or_requests_remove(x);
    return 0;
}

bool or_server_load(const struct or_server *s, uint32_t id, struct or_export_load *out)
{
    const struct or_server_export *x = or_requests_export((struct or_server *)s, id);
    if (!x)
        return false;
    *out = (struct or_export_load){x->requests, x->bytes, x->in_flight};
    return true;
}

/* --- sessions ----------------------------------------------------------------------------------- */

/* Shares what the server can take in fairly among the sessions there are. */
void or_server_share_credits(struct or_server *s)
{
    if (!s->session_count)
        return;
    uint64_t bytes = s->buffers.units * OR_BUDDY_MIN / s->session_count;
    uint32_t ring = UINT32_MAX, ports = or_server_ports(s);
    for (uint32_t i = 0; i < ports; i++)
        if (s->config.ports[i]->rx_frames < ring)
            ring = s->config.ports[i]->rx_frames;
    for (struct or_list *l = s->sessions.next; l != &s->sessions; l = l->next) {
        struct or_session *session = OR_CONTAINER(l, struct or_session, link);
        /* Links of one session share a ring when there are fewer ports than links. */
        uint32_t sharing = (session->links.count + ports - 1) / ports;
        uint32_t frames = ring * 3 / 4 / s->session_count / sharing;
        session->credit_bytes = bytes > OR_REQ_BYTES_MAX ? bytes : OR_REQ_BYTES_MAX;
        session->credit_frames = frames > 4 ? frames : 4;
        session->credit_epoch++;
        session->credit_todo = true;
    }
}

static void free_session(struct or_session *session)
{
    or_list_remove(&session->link);
    free(session);
}

void or_server_session_drained(struct or_session *session)
{
    session->host->retired--;
    free_session(session);
}

/* Ends a live session. It stays in memory until the back-end has given back what it has of it. */
void or_server_retire(struct or_server *s, struct or_session *session)
{
    session->host->live = NULL;
    s->session_count--;
    or_server_disallow(s, session->id);
#ifdef OR_PLANTS
    if (OR_PLANTED(OR_PLANT_STALE_SESSION) && !session->host->stale) {
        session->host->stale = session;
        or_list_remove(&session->link); /* no timers: only its frames are still taken */
        or_list_append(&s->retired, &session->link);
        return;
    }
#endif
    s->stats.frames_lost += or_links_frames_lost(&session->links);
    s->stats.rekeys += or_links_rekeys(&session->links);
    or_requests_abandon(session);
    or_nics_end(session->host);
    or_links_close(&session->links);
    session->retired = true;
    session->host->retired++;
    or_list_remove(&session->link);
    or_list_append(&s->retired, &session->link);
    if (!session->executing)
        or_server_session_drained(session);
    or_server_share_credits(s);
}

struct or_session *or_server_find_session(const struct or_server *s, uint32_t id)
{
    uint32_t index = id & ((1u << OR_HOST_BITS) - 1);
    struct or_session *live = index < s->config.hosts_max ? s->hosts[index].live : NULL;
#ifdef OR_PLANTS
    if (index < s->config.hosts_max && s->hosts[index].stale && s->hosts[index].stale->id == id)
        return s->hosts[index].stale;
#endif
    return live && live->id == id ? live : NULL;
}

/* --- frames ------------------------------------------------------------------------------------- */

/* The session that a data frame is of, or NULL with the reason. */
static struct or_session *session_of(struct or_server *s, uint32_t port, const uint8_t *frame,
                                     const struct or_frame_header *h, enum or_refuse *refuse, uint64_t now)
{
    *refuse = OR_REFUSE_CHANNEL;
    struct or_session *session = or_server_find_session(s, h->session);
    if (!session) {
        struct or_half_open *half = or_server_find_half_open(s, h->session);
        if (half) {
            session = or_server_confirm(s, half, port, frame, h, refuse, now);
        } else {
            or_server_send_unknown(s, port, frame + 6, h->session, now);
            *refuse = OR_REFUSE_SESSION;
        }
    }
    return session && h->link < session->links.count ? session : NULL;
}

static enum or_refuse on_data(struct or_server *s, uint32_t port, const uint8_t *frame, const struct or_frame_header *h,
                              uint64_t now)
{
    enum or_refuse refuse;
    struct or_session *session = session_of(s, port, frame, h, &refuse, now);
    if (!session)
        return refuse;
    uint32_t link = h->link;
    struct or_path *path = &session->links.link[link].path;
    refuse = or_path_verify(path, &h, now);
    if (refuse)
        return refuse;
#ifdef OR_PLANTS
    session->rx_link = (uint8_t)link;
#endif
    if (h->counter > path->rx_largest) /* the newest frame says where the host is now */
        or_links_learn(&session->links, link, s->config.ports[port], frame + 6);
    uint32_t at = sizeof *h;
    const struct or_message *m;
    bool eliciting = false, complete = true, packets = false;
    enum or_refuse bad = OR_REFUSE_NONE;
    if (h->length - at > 2 * sizeof(struct or_message_request))
        or_requests_expect(session, h, at);
    while ((m = or_wire_next(h, &at, &refuse))) {
        eliciting |= m->type != OR_MSG_ACK;
        if (m->type == OR_MSG_ACK)
            or_path_on_ack(path, (const void *)m, now);
        else if (m->type == OR_MSG_REQUEST)
            refuse = or_requests_receive(session, (const void *)m);
        else if (m->type == OR_MSG_PACKET)
            packets = true;
        else if (m->type != OR_MSG_PING)
            refuse = OR_REFUSE_MESSAGE;
        if (refuse)
            bad = refuse;
        complete &= refuse != OR_REFUSE_CREDIT;
    }
    /* Without a buffer for every message the frame counts as lost, and comes again; the peer is alive
     * nevertheless, and hears that we are. */
    if (complete)
        or_path_accept(path, h, eliciting, now);
    else
        or_path_defer(path, now);
    or_links_heard(&session->links, link, now);
    enum or_refuse of_packets = packets && complete ? or_nics_receive(session, h, now) : OR_REFUSE_NONE;
    return of_packets ? of_packets : refuse ? refuse : bad;
}

void or_server_rx(struct or_server *s, uint32_t port, const uint8_t *frame, uint32_t length, uint64_t now)
{
    const struct or_frame_header *h;
    enum or_refuse refuse = or_wire_check_frame(frame, length, &h);
    if (!refuse) {
        if (h->channel != s->config.channel)
            refuse = OR_REFUSE_CHANNEL;
        else if (h->type == OR_FRAME_DATA)
            refuse = on_data(s, port, frame, h, now);
        else if (h->type == OR_FRAME_HELLO)
            refuse = or_server_on_hello(s, port, frame, h, now);
        else
            refuse = OR_REFUSE_TYPE;
    }
    s->stats.refused[refuse]++;
    if (refuse && length >= OR_ETH_HEADER)
        memcpy(s->refused_source, frame + 6, sizeof s->refused_source);
}

static void pump(struct or_server *s, uint64_t now)
{
    for (struct or_list *l = s->sessions.next; l != &s->sessions; l = l->next)
        or_packets_pump(&OR_CONTAINER(l, struct or_session, link)->host->packets, now);
}

void or_server_flush(struct or_server *s, uint64_t now)
{
    s->more = false;
    or_schedule(s, now);
    pump(s, now);
    while (or_schedule(s, now)) /* replies in frames make room */
        pump(s, now);
    for (struct or_list *l = s->sessions.next; l != &s->sessions; l = l->next) {
        struct or_session *session = OR_CONTAINER(l, struct or_session, link);
        or_links_flush(&session->links, now);
        session->step_bytes = 0;
    }
    s->step_cost = 0;
    /* The port takes a bounded batch: who comes first changes from call to call. */
    if (s->session_count > 1) {
        struct or_list *first = s->sessions.next;
        or_list_remove(first);
        or_list_append(&s->sessions, first);
    }
}

/* --- time --------------------------------------------------------------------------------------- */

void or_server_tick(struct or_server *s, uint64_t now)
{
    struct or_list *next;
    for (struct or_list *l = s->sessions.next; l != &s->sessions; l = next) {
        struct or_session *session = OR_CONTAINER(l, struct or_session, link);
        next = l->next;
        or_links_tick(&session->links, now);
        if (now >= or_links_heard_ns(&session->links) + SESSION_EXPIRES_NS && session->host->live == session) {
            const struct or_host *host = session->host;
            or_server_retire(s, session);
            or_server_tell(s, host, false, "not heard of for 5 s");
        }
    }
    if (now >= s->expire_at)
        or_server_expire_half_open(s, now);
}

uint64_t or_server_deadline(const struct or_server *s)
{
    uint64_t deadline = s->more ? 0 : or_schedule_deadline(s);
    if (s->expire_at < deadline)
        deadline = s->expire_at;
    for (const struct or_list *l = s->sessions.next; l != &s->sessions; l = l->next) {
        const struct or_session *session = OR_CONTAINER(l, struct or_session, link);
        uint64_t d = or_links_deadline(&session->links);
        if (or_links_heard_ns(&session->links) + SESSION_EXPIRES_NS < d)
            d = or_links_heard_ns(&session->links) + SESSION_EXPIRES_NS;
        if (d < deadline)
            deadline = d;
    }
    return deadline;
}

/* --- life --------------------------------------------------------------------------------------- */

struct or_server *or_server_create(const struct or_server_config *config, int *err)
{
    assert(config->hosts_max <= 1u << OR_HOST_BITS && config->slots > OR_SLOT_DATA && config->slots <= OR_SLOTS_MAX);
    struct or_server *s = calloc(1, sizeof *s);
    struct or_host *hosts = calloc(config->hosts_max, sizeof *hosts);
    uint32_t *name_hashes = calloc(config->hosts_max, sizeof *name_hashes);
    if (!s || !hosts || !name_hashes || or_buddy_open(&s->buffers, config->buffer_bytes)) {
        free(hosts);
        free(name_hashes);
        free(s);
        *err = -ENOMEM;
        return NULL;
    }
    s->config = *config;
    s->hosts = hosts;
    s->name_hashes = name_hashes;
    s->expire_at = UINT64_MAX;
    if (!s->config.out_requests)
        s->config.out_requests = OR_SCHEDULE_OUT_REQUESTS;
    if (!s->config.out_bytes)
        s->config.out_bytes = OR_SCHEDULE_OUT_BYTES;
    or_schedule_open(s);
    or_list_init(&s->sessions);
    or_list_init(&s->retired);
    for (uint32_t i = 0; i < OR_EXPORT_BUCKETS; i++) {
        or_list_init(&s->exports[i]);
        or_list_init(&s->nics[i]);
    }
    or_server_random(s, &s->instance, sizeof s->instance);
    return s;
}

static void free_sessions(struct or_list *sessions)
{
    while (!or_list_empty(sessions)) {
        struct or_session *session = OR_CONTAINER(sessions->next, struct or_session, link);
        if (!session->retired) {
            or_requests_abandon(session);
            or_links_close(&session->links);
            or_server_disallow(session->server, session->id);
        }
        free_session(session);
    }
}

void or_server_destroy(struct or_server *s)
{
    free_sessions(&s->sessions);
    free_sessions(&s->retired);
    for (uint32_t i = 0; i < OR_EXPORT_BUCKETS; i++)
        while (!or_list_empty(&s->exports[i])) {
            struct or_server_export *x = OR_CONTAINER(s->exports[i].next, struct or_server_export, link);
            or_list_remove(&x->link);
            free(x);
        }
    or_nics_free(s);
    for (uint32_t i = 0; i < s->config.hosts_max; i++) {
        for (uint32_t k = 0; k < OR_HALF_OPEN; k++)
            or_server_drop_half_open(s, &s->hosts[i].half[k]);
        if (s->hosts[i].document)
            or_document_release(s->hosts[i].document);
        or_packets_close(&s->hosts[i].packets);
    }
    or_buddy_close(&s->buffers);
    memset(s->hosts, 0, s->config.hosts_max * sizeof *s->hosts); /* keys */
    free(s->hosts);
    free(s->name_hashes);
    free(s);
}

void or_server_refused(const struct or_server *s, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6])
{
    memcpy(counts, s->stats.refused, sizeof s->stats.refused);
    memcpy(source, s->refused_source, sizeof s->refused_source);
}

const void *or_server_buffers(const struct or_server *s, uint64_t *bytes)
{
    *bytes = s->buffers.units * OR_BUDDY_MIN;
    return s->buffers.arena;
}

void or_server_stats(const struct or_server *s, struct or_server_stats *out)
{
    *out = s->stats;
    for (uint32_t i = 0; i < s->config.hosts_max; i++)
        or_packet_stats_add(&out->packets, &s->hosts[i].packets.stats);
    for (const struct or_list *l = s->sessions.next; l != &s->sessions; l = l->next) {
        const struct or_links *links = &OR_CONTAINER(l, struct or_session, link)->links;
        out->frames_lost += or_links_frames_lost(links);
        out->rekeys += or_links_rekeys(links);
    }
}

bool or_server_host(const struct or_server *s, uint32_t index, struct or_host_info *out)
{
    for (uint32_t i = 0; i < s->config.hosts_max; i++) {
        const struct or_host *h = &s->hosts[i];
        if (!h->used || index-- != 0)
            continue;
        *out = (struct or_host_info){.up = h->live != NULL};
        memcpy(out->name, h->name, sizeof out->name);
        if (h->live) {
            const struct or_links *links = &h->live->links;
            out->mtu = h->live->mtu;
            out->link_count = links->count;
            for (uint32_t k = links->count; k-- > 0;) {
                out->links[k] = or_links_info(links, k);
                if (links->link[k].up) {
                    memcpy(out->mac, links->link[k].path.peer_mac, 6);
                    out->srtt_ns = out->links[k].srtt_ns;
                }
            }
            out->since_ns = h->live->since_ns;
            out->requests = h->live->requests;
            out->in_flight = h->live->executing;
        }
        return true;
    }
    return false;
}
