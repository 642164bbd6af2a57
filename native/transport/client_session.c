/* The client's session: handshake, the frames that arrive, and time. What a session carries is client.c's
 * matter. */
#include "client_internal.h"

#include <string.h>

#include "plant.h"

#define MS 1000000ull
#define HEARTBEAT_NS (1000 * MS) /* a ping after this long without sending */
#define DEAD_NS (1500 * MS)      /* unanswered for this long: the session is lost */
#define DOUBT_NS (1 * MS)        /* silence after somebody's UNKNOWN before the server is asked */
#define DOUBT_REST_NS (100 * MS) /* between two handshakes that somebody's UNKNOWN caused */
#define HELLO_FIRST_NS (5 * MS)
#define HELLO_EAGER_NS (10000 * MS) /* for so long an I/O hypervisor is expected back at any moment: */
#define HELLO_EAGER_MAX_NS (50 * MS)
#define HELLO_MAX_NS (250 * MS)

static void random_bytes(struct or_client *c, void *out, size_t n)
{
    c->config.env.random(c->config.env.arg, out, n);
}

/* --- links -------------------------------------------------------------------------------------- */

static bool any(const uint8_t mac[6])
{
    static const uint8_t none[6];
    return memcmp(mac, none, 6) != 0;
}

/* A link leads from one of our ports to one of the server's; where one side has only one, it has part in
 * every link. */
static struct or_port *port_of(const struct or_client *c, uint32_t link)
{
    return c->config.ports[link] ? c->config.ports[link] : c->config.ports[0];
}

void or_client_count_links(struct or_client *c)
{
    struct or_client_config *config = &c->config;
    c->link_count = 1;
    for (uint32_t i = 1; i < OR_LINKS_MAX; i++) {
        if (!config->ports[i] && !any(config->server_macs[i]))
            break;
        if (!any(config->server_macs[i]))
            memcpy(config->server_macs[i], config->server_macs[0], 6);
        c->link_count++;
    }
}

/* Data frames of the session that begins get in through every port. 0 or -errno. */
static int allow(struct or_client *c)
{
    int err = 0;
    for (uint32_t i = 0; i < OR_LINKS_MAX && c->config.ports[i] && !err; i++)
        err = or_port_allow(c->config.ports[i], c->session);
    if (err)
        or_client_disallow(c);
    return err;
}

void or_client_disallow(struct or_client *c)
{
    for (uint32_t i = 0; i < OR_LINKS_MAX && c->config.ports[i]; i++)
        or_port_disallow(c->config.ports[i], c->session);
}

static uint32_t least_mtu(const struct or_client *c)
{
    uint32_t mtu = OR_MTU_MAX;
    for (uint32_t i = 0; i < c->link_count; i++)
        if (port_of(c, i)->mtu < mtu)
            mtu = port_of(c, i)->mtu;
    return mtu;
}

/* What each link may find room for in its port's receive ring. */
static uint32_t least_rx_frames(const struct or_client *c)
{
    uint32_t frames = UINT32_MAX;
    for (uint32_t i = 0; i < c->link_count; i++) {
        uint32_t sharing = 0;
        for (uint32_t k = 0; k < c->link_count; k++)
            sharing += port_of(c, k) == port_of(c, i);
        if (port_of(c, i)->rx_frames / sharing < frames)
            frames = port_of(c, i)->rx_frames / sharing;
    }
    return frames ? frames : 1;
}

/* --- handshake ---------------------------------------------------------------------------------- */

static void abandon_handshake(struct or_client *c)
{
    or_noise_wipe(&c->noise);
    c->hello.session = 0;
    c->hello_at = UINT64_MAX;
}

/* Those of different channels differ, because the clients of a host share its ports' filters. */
static uint32_t new_index(struct or_client *c)
{
    uint32_t index;
    random_bytes(c, &index, sizeof index);
    return index / OR_CHANNELS_MAX * OR_CHANNELS_MAX | c->config.channel;
}

static void prepare_hello(struct or_client *c)
{
    const struct or_client_config *config = &c->config;
    uint8_t ephemeral[32];
    random_bytes(c, ephemeral, sizeof ephemeral);
    c->hello = (struct or_hello){.name_length = (uint8_t)strlen(config->name)};
    do
        c->hello.session = new_index(c);
    while (!c->hello.session || (c->state == OR_CLIENT_UP && c->hello.session == c->session));
    memcpy(c->hello.name, config->name, c->hello.name_length);
    c->hello_mtu = least_mtu(c);
    memcpy(c->hello.cookie, c->cookie, sizeof c->cookie);
    struct or_hello_payload payload = {
        .instance = c->instance,
        .mtu = c->hello_mtu,
        .rx_frames = least_rx_frames(c),
        .channels = 1,
        .links = (uint8_t)c->link_count,
        .integrity_min = config->integrity_min,
        .known = c->state == OR_CLIENT_UP ? c->links.link[0].path.peer_session : 0,
    };
    int n = or_noise_init(&c->noise, true, &c->hello, offsetof(struct or_hello, message), config->psk, ephemeral);
    if (n == 0)
        n = or_noise_write(&c->noise, &payload, sizeof payload, c->hello.message, sizeof c->hello.message);
    assert(n < 0 || n == sizeof c->hello.message);
    if (n < 0)
        c->hello.session = 0; /* memory is short: tried again at the next time-out */
}

/* The links take turns, so that one that works is found. */
static uint32_t next_hello_link(struct or_client *c)
{
    for (uint32_t i = 0; i < c->link_count; i++) {
        uint32_t link = (c->hello_link + i) % c->link_count;
        if (!port_of(c, link)->down) {
            c->hello_link = (link + 1) % c->link_count;
            return link;
        }
    }
    return 0;
}

static void send_hello(struct or_client *c, uint64_t now)
{
    if (!c->hello.session)
        prepare_hello(c);
    uint32_t link = next_hello_link(c);
    struct or_port *port = port_of(c, link);
    uint8_t *frame = c->hello.session ? or_port_tx_begin(port, c->config.server_macs[link]) : NULL;
    if (frame) {
        struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
        *h = (struct or_frame_header){
            .version = OR_WIRE_VERSION,
            .type = OR_FRAME_HELLO,
            .channel = c->config.channel,
            .link = (uint8_t)link,
            .length = sizeof *h + sizeof c->hello,
        };
        memcpy(h + 1, &c->hello, sizeof c->hello);
        or_proof_sign(&c->proof, h, NULL);
        memcpy(c->hello_digest, h->digest, sizeof c->hello_digest);
        or_port_tx_commit(port, OR_ETH_HEADER + h->length);
    }
    uint8_t jitter;
    random_bytes(c, &jitter, 1);
    uint64_t most = now - c->hello_since < HELLO_EAGER_NS ? HELLO_EAGER_MAX_NS : HELLO_MAX_NS;
    c->hello_at = now + c->hello_interval + c->hello_interval * jitter / 1024;
    c->hello_interval = c->hello_interval * 2 < most ? c->hello_interval * 2 : most;
}

void or_client_connect(struct or_client *c, uint64_t now)
{
    c->hello_at = c->hello_since = now;
    c->hello_interval = HELLO_FIRST_NS;
}

static void session_lost(struct or_client *c, const char *why, uint64_t now)
{
    c->stats.frames_lost += or_links_frames_lost(&c->links);
    c->stats.rekeys += or_links_rekeys(&c->links);
    or_client_take_back(c);
    or_packets_end(&c->packets);
    or_links_close(&c->links);
    or_client_disallow(c);
    c->state = OR_CLIENT_DOWN;
    c->session = 0;
    or_client_connect(c, now);
    c->config.link(c->config.arg, false, why);
}

static bool welcome_ok(const struct or_client *c, const struct or_welcome_payload *w)
{
    return w->session != 0 && w->mtu >= OR_MTU_MIN && w->mtu <= c->hello_mtu && w->rx_frames >= 1 &&
           w->slots > OR_SLOT_DATA && w->slots <= OR_SLOTS_MAX && w->channels == 1 && w->links >= 1 &&
           w->integrity >= OR_INTEGRITY_CRC && w->integrity <= OR_INTEGRITY_ENCRYPT &&
           w->integrity >= c->config.integrity_min;
}

static void link_changed(void *arg, uint32_t link, bool up)
{
    const struct or_client *c = arg;
    if (c->config.link_changed)
        c->config.link_changed(c->config.arg, link, up);
}

/* `first`: the link on which the welcome came. */
static int open_session(struct or_client *c, const struct or_welcome_payload *w, uint32_t first, uint64_t now)
{
    uint8_t tx_key[32], rx_key[32];
    uint32_t seed;
    random_bytes(c, &seed, sizeof seed);
    struct or_links_config links = {
        .path =
            {
                .owner = {.acked = or_client_acked, .lost = or_client_lost, .arg = c},
                .channel = c->config.channel,
                .integrity = w->integrity,
                .peer_session = w->session,
                .mtu = w->mtu,
                .peer_frames = w->rx_frames,
                .phase_frames = c->config.phase_frames,
                .jitter_seed = seed,
            },
        .peer_macs = (const uint8_t(*)[6])c->config.server_macs,
        .tx_key = tx_key,
        .rx_key = rx_key,
        .count = w->links < c->link_count ? w->links : c->link_count,
        .prober = true,
        .changed = link_changed,
        .arg = c,
    };
    links.first = first < links.count ? first : 0;
    for (uint32_t i = 0; i < links.count; i++)
        links.ports[i] = port_of(c, i);
    int err = or_noise_split(&c->noise, tx_key, rx_key);
    if (!err)
        err = allow(c);
    if (!err && (err = or_links_open(&c->links, &links, now)) != 0)
        or_client_disallow(c);
    memset(tx_key, 0, sizeof tx_key);
    memset(rx_key, 0, sizeof rx_key);
    return err;
}

static enum or_refuse on_welcome(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    const struct or_welcome *m = (const void *)(h + 1);
    struct or_welcome_payload w;
    if (!c->hello.session || h->session != c->hello.session)
        return OR_REFUSE_SESSION;
    if (!or_proof_verify(&c->proof, h, c->hello_digest) ||
        or_noise_read(&c->noise, m->message, sizeof m->message, (uint8_t *)&w, sizeof w) != sizeof w)
        return OR_REFUSE_HANDSHAKE;
    /* From here on the server has proved the key; a welcome we cannot use is an operator's matter. */
    if (!welcome_ok(c, &w)) {
        c->hello.session = 0;
        return OR_REFUSE_HANDSHAKE;
    }
    memcpy(c->cookie, w.cookie, sizeof c->cookie);
    if (c->state == OR_CLIENT_UP) {
        if (w.known) {
            abandon_handshake(c);
            return OR_REFUSE_NONE;
        }
        session_lost(c, "the I/O hypervisor no longer knows the session", now);
    }
    c->session = c->hello.session;
    if (open_session(c, &w, h->link, now)) {
        c->session = c->hello.session = 0;
        return OR_REFUSE_HANDSHAKE;
    }
    c->session_mtu = w.mtu;
    c->own_mtu = c->hello_mtu;
    abandon_handshake(c);
    c->fragment_bytes = or_wire_fragment_bytes(w.mtu);
    c->slots_granted = w.slots;
    c->bytes_granted = w.bytes;
    c->credit_epoch = 0;
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++)
        c->slots[i].sequence = 0;
    c->state = OR_CLIENT_UP;
    or_packets_begin(&c->packets, &c->links, c->fragment_bytes, or_client_send_requests, c);
    c->stats.sessions++;
    or_path_probe(&c->links.link[c->links.current].path); /* confirms the keys, when nothing else is to be said */
    or_client_begin(c);
    c->config.link(c->config.arg, true, "");
    return OR_REFUSE_NONE;
}

/* Our HELLO might have been an old one, overheard and repeated: so the server asks for one with its cookie.
 * That makes it another handshake, as a cipher key serves once. */
static enum or_refuse on_retry(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    const struct or_retry *m = (const void *)(h + 1);
    if (!c->hello.session || h->session != c->hello.session)
        return OR_REFUSE_SESSION;
    if (!or_proof_verify(&c->proof, h, c->hello_digest))
        return OR_REFUSE_HANDSHAKE;
    memcpy(c->cookie, m->cookie, sizeof c->cookie);
    c->hello.session = 0; /* the next is made anew */
    c->hello_at = now;
    return OR_REFUSE_NONE;
}

/* --- frames ------------------------------------------------------------------------------------- */

static void on_credit(struct or_client *c, const struct or_message_credit *m)
{
    if (m->epoch <= c->credit_epoch || m->slots <= OR_SLOT_DATA || m->slots > OR_SLOTS_MAX || m->frames == 0)
        return;
    c->credit_epoch = m->epoch;
    c->slots_granted = m->slots;
    c->bytes_granted = m->bytes;
    for (uint32_t i = 0; i < c->links.count; i++)
        c->links.link[i].path.peer_frames = m->frames;
}

static const char *bye_reason(uint8_t code)
{
    return code == OR_BYE_MTU ? "the MTU of the I/O hypervisor's link has changed" : "the I/O hypervisor is stopping";
}

/* The packets of a frame that counts as received: only then, so that each comes once. */
static enum or_refuse take_packets(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    enum or_refuse refuse, bad = OR_REFUSE_NONE;
    uint32_t at = sizeof *h, length;
    const struct or_message *m;
    while ((m = or_wire_next(h, &at, &refuse))) {
        if (m->type != OR_MSG_PACKET)
            continue;
        const struct or_message_packet *message = (const void *)m;
        const uint8_t *packet = or_packets_receive(&c->packets, message, &length, &refuse, now);
        if (packet && c->config.packet)
            c->config.packet(c->config.arg, message->device, message->generation, packet, length);
        if (refuse)
            bad = refuse;
    }
    return bad;
}

static enum or_refuse on_data(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    if (c->state != OR_CLIENT_UP || h->session != c->session)
        return OR_REFUSE_SESSION;
    if (h->link >= c->links.count)
        return OR_REFUSE_CHANNEL;
    uint32_t link = h->link;
    struct or_path *path = &c->links.link[link].path;
    enum or_refuse refuse = or_path_verify(path, &h, now);
    if (refuse)
        return refuse;
    uint32_t at = sizeof *h;
    const struct or_message *m;
    const char *bye = NULL;
    bool eliciting = false, packets = false;
    enum or_refuse bad = OR_REFUSE_NONE;
    while ((m = or_wire_next(h, &at, &refuse))) {
        eliciting |= m->type != OR_MSG_ACK;
        if (m->type == OR_MSG_ACK)
            or_path_on_ack(path, (const void *)m, now);
        else if (m->type == OR_MSG_REPLY)
            refuse = or_client_on_reply(c, (const void *)m);
        else if (m->type == OR_MSG_CREDIT)
            on_credit(c, (const void *)m);
        else if (m->type == OR_MSG_PACKET)
            packets = true;
        else if (m->type == OR_MSG_BYE && !OR_PLANTED(OR_PLANT_BYE_IGNORED))
            bye = bye_reason(m->code);
        else if (m->type != OR_MSG_PING)
            refuse = OR_REFUSE_MESSAGE;
        if (refuse)
            bad = refuse;
    }
    or_path_accept(path, h, eliciting, now);
    or_links_heard(&c->links, link, now);
    enum or_refuse of_packets = packets ? take_packets(c, h, now) : OR_REFUSE_NONE;
    if (of_packets)
        bad = of_packets;
    if (c->hello_at != UINT64_MAX)
        abandon_handshake(c); /* the session lives: there is nothing to ask */
    if (bye)
        session_lost(c, bye, now);
    return refuse ? refuse : bad;
}

/* "I know no such session", from anybody: so it changes nothing. When the server does not answer either, it is
 * asked, in a handshake beside the living session: its WELCOME, which proves the key, says which
 * session it has. */
static enum or_refuse on_unknown(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    if (c->state != OR_CLIENT_UP || h->session != c->links.link[0].path.peer_session)
        return OR_REFUSE_SESSION;
    if (!or_links_silent_since(&c->links) || c->hello_at != UINT64_MAX || now < c->doubt_rest_until)
        return OR_REFUSE_NONE;
    c->doubt_rest_until = now + DOUBT_REST_NS;
    or_client_connect(c, now);
    c->hello_at = now + DOUBT_NS;
    return OR_REFUSE_NONE;
}

void or_client_rx(struct or_client *c, const uint8_t *frame, uint32_t length, uint64_t now)
{
    const struct or_frame_header *h;
    enum or_refuse refuse = or_wire_check_frame(frame, length, &h);
    if (!refuse) {
        if (h->channel != c->config.channel)
            refuse = OR_REFUSE_CHANNEL;
        else if (h->type == OR_FRAME_DATA)
            refuse = on_data(c, h, now);
        else if (h->type == OR_FRAME_WELCOME)
            refuse = on_welcome(c, h, now);
        else if (h->type == OR_FRAME_RETRY)
            refuse = on_retry(c, h, now);
        else if (h->type == OR_FRAME_UNKNOWN)
            refuse = on_unknown(c, h, now);
        else
            refuse = OR_REFUSE_TYPE;
    }
    c->stats.refused[refuse]++;
    if (refuse && length >= OR_ETH_HEADER)
        memcpy(c->refused_source, frame + 6, sizeof c->refused_source);
}

/* --- ports -------------------------------------------------------------------------------------- */

void or_client_port_changed(struct or_client *c, const struct or_port *port, uint64_t now)
{
    uint32_t mtu = least_mtu(c);
    if (mtu != c->hello_mtu && c->hello.session)
        abandon_handshake(c);
    if (c->state == OR_CLIENT_UP) {
        bool smaller = mtu<c->session_mtu, larger = mtu> c->own_mtu && c->session_mtu == c->own_mtu;
        if (smaller || larger)
            session_lost(c, "the MTU of a link has changed", now);
        else
            or_links_port_changed(&c->links, port, now);
    }
    if (c->state == OR_CLIENT_DOWN && (!port->down || c->hello_at == UINT64_MAX))
        or_client_connect(c, now);
}

/* --- time --------------------------------------------------------------------------------------- */

static uint64_t dead_at(const struct or_client *c)
{
    uint64_t since = or_links_silent_since(&c->links);
    return since ? since + DEAD_NS : UINT64_MAX;
}

void or_client_tick(struct or_client *c, uint64_t now)
{
    or_client_expire(c, now);
    if (now >= c->hello_at)
        send_hello(c, now);
    if (c->state == OR_CLIENT_DOWN)
        return;
    or_links_tick(&c->links, now);
    if (now >= dead_at(c))
        session_lost(c, "no answer from the I/O hypervisor", now);
    else
        or_links_heartbeat(&c->links, HEARTBEAT_NS, now);
}

uint64_t or_client_deadline(const struct or_client *c)
{
    uint64_t d = or_client_expires_at(c);
    if (c->state == OR_CLIENT_DOWN)
        return c->hello_at < d ? c->hello_at : d;
    uint64_t others[] = {or_links_deadline(&c->links), c->hello_at, dead_at(c),
                         or_links_heartbeat_at(&c->links, HEARTBEAT_NS)};
    for (uint32_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i] < d)
            d = others[i];
    return d;
}
