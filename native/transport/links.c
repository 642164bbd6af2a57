/* Theory of operation: links.h. */
#include "links.h"

#include <string.h>

#include "noise.h"
#include "plant.h"

#define MS 1000000ull
#define TURN_FRAMES 16u
#define PATIENCE_PTOS 3u          /* a link may be silent for so many probe time-outs, */
#define PATIENCE_MIN_NS (20 * MS) /* at least so long: its peer may have lost its processor */
#define PATIENCE_MAX_NS (100 * MS)
#define SHARE_BYTES (32 * 1024)   /* by which packets or requests may be ahead of each other */
#define SHARE_MEMORY (256 * 1024) /* what one of them did not use while it had nothing to send is forgotten beyond */
#define PACKETS_WAIT_FLUSHES 2u   /* that of the present step, and of the next if packets come after it */
#define PROBE_FIRST_NS (50 * MS)
#define PROBE_MAX_NS (1000 * MS)
#define PROBE_ANSWER_NS (10 * MS) /* a server probes when it hears something, but not more often */

static int open_link(struct or_links *l, const struct or_links_config *c, uint32_t i, uint64_t now)
{
    static const uint8_t nobody[6];
    uint8_t tx_key[32], rx_key[32];
    struct or_path_config path = c->path;
    struct or_link *link = &l->link[i];
    path.link = (uint8_t)i;
    path.port = c->ports[i];
    path.peer_mac = c->peer_macs ? c->peer_macs[i] : i == c->first ? c->first_mac : nobody;
    path.tx_key = tx_key;
    path.rx_key = rx_key;
    link->known = c->peer_macs || i == c->first;
    link->up = i == c->first;
    link->down_since = now;
    link->probe_at = c->prober ? now : UINT64_MAX;
    link->probe_interval = PROBE_FIRST_NS;
    int err = or_noise_link_key(c->tx_key, path.link, tx_key);
    if (!err)
        err = or_noise_link_key(c->rx_key, path.link, rx_key);
    if (!err)
        err = or_path_open(&link->path, &path, now);
    memset(tx_key, 0, sizeof tx_key);
    memset(rx_key, 0, sizeof rx_key);
    return err;
}

int or_links_open(struct or_links *l, const struct or_links_config *c, uint64_t now)
{
    assert(c->count >= 1 && c->count <= OR_LINKS_MAX && c->first < c->count);
    *l = (struct or_links){.prober = c->prober, .current = c->first, .changed = c->changed, .arg = c->arg};
    int err = 0;
    while (l->count < c->count && !err)
        err = open_link(l, c, l->count++, now);
    if (err)
        or_links_close(l);
    return err;
}

void or_links_close(struct or_links *l)
{
    for (uint32_t i = 0; i < l->count; i++)
        or_path_close(&l->link[i].path);
    *l = (struct or_links){0};
}

/* --- up and down -------------------------------------------------------------------------------- */

static void go_up(struct or_links *l, uint32_t i)
{
    l->link[i].up = true;
    l->link[i].path.waiting_since = 0;
    if (l->changed)
        l->changed(l->arg, i, true);
}

static void go_down(struct or_links *l, uint32_t i, uint64_t now)
{
    struct or_link *link = &l->link[i];
    link->up = false;
    link->down_since = now;
    link->probe_interval = PROBE_FIRST_NS;
    link->probe_at = l->prober ? now + PROBE_FIRST_NS : UINT64_MAX;
    or_path_forfeit(&link->path);
    if (l->changed)
        l->changed(l->arg, i, false);
}

static bool other_up(const struct or_links *l, uint32_t i)
{
    for (uint32_t k = 0; k < l->count; k++)
        if (k != i && l->link[k].up)
            return true;
    return false;
}

static void probe(struct or_link *link, uint64_t now)
{
    or_path_forfeit(&link->path); /* the ping before */
    or_path_probe(&link->path);
    link->probed_ns = now;
}

void or_links_heard(struct or_links *l, uint32_t i, uint64_t now)
{
    struct or_link *link = &l->link[i];
    if (link->up)
        return;
    if (link->path.progress_ns >= link->down_since)
        go_up(l, i);
    else if (now >= link->probed_ns + PROBE_ANSWER_NS || !link->probed_ns)
        probe(link, now);
}

void or_links_learn(struct or_links *l, uint32_t i, struct or_port *port, const uint8_t mac[6])
{
    struct or_link *link = &l->link[i];
    link->known = true;
    or_path_move(&link->path, port, mac);
}

void or_links_port_changed(struct or_links *l, const struct or_port *port, uint64_t now)
{
    for (uint32_t i = 0; i < l->count; i++) {
        struct or_link *link = &l->link[i];
        if (link->path.port != port || !link->known)
            continue;
        if (port->down && link->up && other_up(l, i))
            go_down(l, i, now);
        else if (!port->down && link->up)
            or_path_probe(&link->path);
        else if (!port->down)
            probe(link, now);
    }
}

/* --- sending ------------------------------------------------------------------------------------ */

/* Packets of this link wait and are behind. */
static bool is_held(const struct or_links *l, const struct or_link *link)
{
    return link->packets_wait && l->ahead <= -SHARE_BYTES && link->path.in_flight;
}

/* Room on the link for requests, or 0 when it is not to be used. A link of which an answer is overdue is the last
 * choice. */
static uint32_t room(const struct or_links *l, const struct or_link *link)
{
    if (!link->up || is_held(l, link))
        return 0;
    uint32_t frames = or_path_room(&link->path);
    return frames && !link->path.pto_count ? frames + OR_PATH_RECORDS : frames;
}

/* The link with the most room; among equals another one than before, so that all are in use. NULL: none
 * but `except` has any. */
static struct or_path *choose(struct or_links *l, const struct or_path *except)
{
    uint32_t best = 0, chosen = 0;
    for (uint32_t k = 1; k <= l->count; k++) {
        uint32_t i = (l->current + k) % l->count;
        uint32_t r = &l->link[i].path != except ? room(l, &l->link[i]) : 0;
        if (r > best) {
            best = r;
            chosen = i;
        }
    }
    l->turn = 0;
    if (!best)
        return NULL;
    l->current = chosen;
    return &l->link[chosen].path;
}

static void *place(struct or_links *l, uint32_t bytes, struct or_item item, uint64_t now)
{
    const struct or_link *current = &l->link[l->current];
    struct or_path *path = &l->link[l->current].path;
    bool fits = or_path_fits(path, bytes), held = !fits && is_held(l, current);
    if (l->count == 1)
        return held ? NULL : or_path_message(path, bytes, item, now);
    if (!fits && (!current->up || held || ++l->turn > TURN_FRAMES))
        path = choose(l, NULL);
    void *message = path ? or_path_message(path, bytes, item, now) : NULL;
    if (!message && path)
        path = choose(l, path);
    return message || !path ? message : or_path_message(path, bytes, item, now);
}

void *or_links_message(struct or_links *l, uint32_t bytes, struct or_item item, uint64_t now)
{
    void *message = place(l, bytes, item, now);
    if (message)
        l->ahead = l->ahead - (int32_t)bytes > -SHARE_MEMORY ? l->ahead - (int32_t)bytes : -SHARE_MEMORY;
    return message;
}

int or_links_of_packets(const struct or_links *l, uint32_t device)
{
    if (OR_PLANTED(OR_PLANT_PACKET_ANY_LINK))
        device += l->turn;
    for (uint32_t k = 0; k < l->count; k++) {
        uint32_t i = (device + k) % l->count;
        if (l->link[i].up)
            return (int)i;
    }
    return -1;
}

void *or_links_packet(struct or_links *l, uint32_t i, uint32_t bytes, struct or_item item, uint64_t now)
{
    struct or_link *link = &l->link[i];
    bool takes = or_path_takes_datagram(&link->path, bytes);
    void *message = takes ? or_path_message(&link->path, bytes, item, now) : NULL;
    link->packets_wait = message ? 0 : PACKETS_WAIT_FLUSHES;
    if (message)
        l->ahead = l->ahead + (int32_t)bytes < SHARE_MEMORY ? l->ahead + (int32_t)bytes : SHARE_MEMORY;
    return message;
}

bool or_links_requests_first(const struct or_links *l)
{
    return l->ahead >= SHARE_BYTES;
}

void or_links_flush(struct or_links *l, uint64_t now)
{
    for (uint32_t i = 0; i < l->count; i++) {
        struct or_link *link = &l->link[i];
        if (link->known)
            or_path_flush(&link->path, now);
        if (link->packets_wait)
            link->packets_wait--;
    }
    l->turn = TURN_FRAMES; /* the next flush may begin on another link */
}

/* --- time --------------------------------------------------------------------------------------- */

static uint64_t patience(const struct or_link *link)
{
    uint64_t p = PATIENCE_PTOS * or_path_patience(&link->path);
    return p < PATIENCE_MIN_NS ? PATIENCE_MIN_NS : p > PATIENCE_MAX_NS ? PATIENCE_MAX_NS : p;
}

/* Another link was heard of since this one should have been: it is not the peer that is silent. */
static bool another_lives(const struct or_links *l, uint32_t i, uint64_t since)
{
    for (uint32_t k = 0; k < l->count; k++)
        if (k != i && l->link[k].up && l->link[k].path.rx_last_ns >= since)
            return true;
    return false;
}

/* When something is to be done about a link that is up: ask the others whether the peer lives, or give
 * the link up. UINT64_MAX: nothing. */
static uint64_t doubt_at(const struct or_links *l, uint32_t i)
{
    const struct or_link *link = &l->link[i];
    if (!link->up || !other_up(l, i))
        return UINT64_MAX;
    if (link->path.port->down)
        return 0;
    if (!link->path.waiting_since)
        return UINT64_MAX;
    uint64_t half = link->path.waiting_since + patience(link) / 2;
    if (another_lives(l, i, half))
        return half + patience(link) / 2;
    for (uint32_t k = 0; k < l->count; k++)
        if (k != i && l->link[k].up && !l->link[k].path.waiting_since)
            return half;
    return UINT64_MAX;
}

static void doubt(struct or_links *l, uint32_t i, uint64_t now)
{
    const struct or_link *link = &l->link[i];
    uint64_t half = link->path.waiting_since + patience(link) / 2;
    if (link->path.port->down || another_lives(l, i, half)) {
        go_down(l, i, now);
        return;
    }
    for (uint32_t k = 0; k < l->count; k++)
        if (k != i && l->link[k].up && !l->link[k].path.waiting_since)
            or_path_probe(&l->link[k].path);
}

void or_links_tick(struct or_links *l, uint64_t now)
{
    for (uint32_t i = 0; i < l->count; i++) {
        struct or_link *link = &l->link[i];
        if (link->up) {
            or_path_tick(&link->path, now);
        } else if (now >= link->probe_at) {
            if (!link->path.port->down)
                probe(link, now);
            link->probe_at = now + link->probe_interval;
            link->probe_interval = link->probe_interval * 2 < PROBE_MAX_NS ? link->probe_interval * 2 : PROBE_MAX_NS;
        }
    }
    for (uint32_t i = 0; l->count > 1 && i < l->count; i++)
        if (now >= doubt_at(l, i))
            doubt(l, i, now);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t or_links_deadline(const struct or_links *l)
{
    uint64_t d = UINT64_MAX;
    for (uint32_t i = 0; i < l->count; i++) {
        const struct or_link *link = &l->link[i];
        if (link->up)
            d = least(d, or_path_deadline(&link->path));
        else
            d = least(d, least(link->probe_at, or_path_ack_deadline(&link->path)));
        if (l->count > 1)
            d = least(d, doubt_at(l, i));
    }
    return d;
}

uint64_t or_links_heard_ns(const struct or_links *l)
{
    uint64_t heard = 0;
    for (uint32_t i = 0; i < l->count; i++)
        if (l->link[i].path.rx_last_ns > heard)
            heard = l->link[i].path.rx_last_ns;
    return heard;
}

uint64_t or_links_silent_since(const struct or_links *l)
{
    uint64_t since = UINT64_MAX, heard = or_links_heard_ns(l);
    for (uint32_t i = 0; i < l->count; i++)
        if (l->link[i].up && l->link[i].path.waiting_since)
            since = least(since, l->link[i].path.waiting_since);
    if (since == UINT64_MAX)
        return 0;
    return since > heard ? since : heard;
}

uint64_t or_links_heartbeat_at(const struct or_links *l, uint64_t idle_ns)
{
    uint64_t at = UINT64_MAX;
    for (uint32_t i = 0; i < l->count; i++)
        if (l->link[i].up && !l->link[i].path.in_flight)
            at = least(at, l->link[i].path.last_sent_ns + idle_ns);
    return at;
}

void or_links_heartbeat(struct or_links *l, uint64_t idle_ns, uint64_t now)
{
    for (uint32_t i = 0; i < l->count; i++) {
        struct or_path *path = &l->link[i].path;
        if (l->link[i].up && !path->in_flight && now >= path->last_sent_ns + idle_ns)
            path->want_ping = true;
    }
}

/* --- for people --------------------------------------------------------------------------------- */

uint64_t or_links_frames_lost(const struct or_links *l)
{
    uint64_t lost = 0;
    for (uint32_t i = 0; i < l->count; i++)
        lost += l->link[i].path.frames_lost;
    return lost;
}

uint64_t or_links_rekeys(const struct or_links *l)
{
    uint64_t rekeys = 0;
    for (uint32_t i = 0; i < l->count; i++)
        rekeys += l->link[i].path.tx_keys.phase;
    return rekeys;
}

static enum or_link_form form(const struct or_path *path)
{
    static const enum or_link_form of_port[] = {
        [OR_ENVELOPES_NONE] = OR_LINK_PLAIN_PORT,       [OR_ENVELOPES_OFF] = OR_LINK_PLAIN_OFF,
        [OR_ENVELOPES_LARGE] = OR_LINK_PLAIN_LARGE,     [OR_ENVELOPES_SMALL] = OR_LINK_PLAIN_SMALL,
        [OR_ENVELOPES_REFUSED] = OR_LINK_PLAIN_REFUSED,
    };
    static const enum or_link_form of_path[] = {
        [OR_SUPER_UNTRIED] = OR_LINK_PLAIN_UNTRIED,
        [OR_SUPER_USED] = OR_LINK_SUPER,
        [OR_SUPER_UNANSWERED] = OR_LINK_PLAIN_UNANSWERED,
    };
    enum or_port_envelopes envelopes = path->port->envelopes;
    return envelopes == OR_ENVELOPES_READY ? of_path[path->super.state] : of_port[envelopes];
}

struct or_link_info or_links_info(const struct or_links *l, uint32_t i)
{
    const struct or_path *path = &l->link[i].path;
    return (struct or_link_info){
        .up = l->link[i].up,
        .srtt_ns = path->srtt_ns,
        .cwnd_frames = path->cwnd_x16 / 16,
        .in_flight_frames = path->in_flight,
        .frames_lost = path->frames_lost,
        .form = form(path),
    };
}
