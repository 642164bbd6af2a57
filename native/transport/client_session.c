/* The client's session: handshake, the frames that arrive, and time. What a session carries is client.c's
 * matter. */
#include "client_internal.h"

#include <string.h>

#define MS 1000000ull
#define HEARTBEAT_NS (1000 * MS) /* a ping after this long without sending */
#define DEAD_NS (1500 * MS)      /* unanswered for this long: the session is lost */
#define SUSPECT_NS (20 * MS)     /* the same after the peer said that it knows no such session */
#define HELLO_FIRST_NS (20 * MS)
#define HELLO_MAX_NS (250 * MS)

static void random_bytes(struct or_client *c, void *out, size_t n)
{
    c->config.env.random(c->config.env.arg, out, n);
}

/* --- handshake ---------------------------------------------------------------------------------- */

static void prepare_hello(struct or_client *c)
{
    const struct or_client_config *config = &c->config;
    uint8_t ephemeral[32];
    random_bytes(c, ephemeral, sizeof ephemeral);
    do
        random_bytes(c, &c->session, sizeof c->session);
    while (!c->session);
    c->hello = (struct or_hello){.session = c->session, .name_length = (uint8_t)strlen(config->name)};
    memcpy(c->hello.name, config->name, c->hello.name_length);
    struct or_hello_payload payload = {
        .instance = c->instance,
        .mtu = config->port->mtu,
        .rx_frames = config->port->rx_frames,
        .channels = 1,
        .links = 1,
        .integrity_min = config->integrity_min,
    };
    int n = or_noise_init(&c->noise, true, &c->hello, offsetof(struct or_hello, message), config->psk, ephemeral);
    if (n == 0)
        n = or_noise_write(&c->noise, &payload, sizeof payload, c->hello.message, sizeof c->hello.message);
    assert(n < 0 || n == sizeof c->hello.message);
    if (n < 0)
        c->session = 0; /* memory is short: tried again at the next time-out */
}

static void send_hello(struct or_client *c, uint64_t now)
{
    if (!c->session)
        prepare_hello(c);
    uint8_t *frame = c->session ? or_port_tx_begin(c->config.port, c->config.server_mac) : NULL;
    if (frame) {
        struct or_frame_header *h = (void *)(frame + OR_ETH_HEADER);
        *h = (struct or_frame_header){
            .version = OR_WIRE_VERSION,
            .type = OR_FRAME_HELLO,
            .length = sizeof *h + sizeof c->hello,
        };
        memcpy(h + 1, &c->hello, sizeof c->hello);
        or_port_tx_commit(c->config.port, OR_ETH_HEADER + h->length);
    }
    uint8_t jitter;
    random_bytes(c, &jitter, 1);
    c->hello_at = now + c->hello_interval + c->hello_interval * jitter / 1024;
    c->hello_interval = c->hello_interval * 2 < HELLO_MAX_NS ? c->hello_interval * 2 : HELLO_MAX_NS;
}

void or_client_connect(struct or_client *c, uint64_t now)
{
    c->session = 0;
    c->suspect_at = UINT64_MAX;
    c->hello_at = now;
    c->hello_interval = HELLO_FIRST_NS;
}

static void session_lost(struct or_client *c, const char *why, uint64_t now)
{
    c->stats.frames_lost += c->path.frames_lost;
    c->stats.rekeys += c->path.tx_keys.phase;
    or_client_take_back(c);
    or_path_close(&c->path);
    or_port_disallow(c->config.port, c->session);
    c->state = OR_CLIENT_DOWN;
    or_client_connect(c, now);
    c->config.link(c->config.arg, false, why);
}

static bool welcome_ok(const struct or_client *c, const struct or_welcome_payload *w)
{
    return w->session != 0 && w->mtu >= OR_MTU_MIN && w->mtu <= c->config.port->mtu && w->rx_frames >= 1 &&
           w->slots > OR_SLOT_DATA && w->slots <= OR_SLOTS_MAX && w->channels == 1 &&
           w->integrity >= OR_INTEGRITY_CRC && w->integrity <= OR_INTEGRITY_ENCRYPT &&
           w->integrity >= c->config.integrity_min;
}

static int open_session(struct or_client *c, const struct or_welcome_payload *w, uint64_t now)
{
    uint8_t tx_key[32], rx_key[32];
    uint32_t seed;
    random_bytes(c, &seed, sizeof seed);
    struct or_path_config path = {
        .owner = {.acked = or_client_acked, .lost = or_client_lost, .arg = c},
        .port = c->config.port,
        .peer_mac = c->config.server_mac,
        .integrity = w->integrity,
        .peer_session = w->session,
        .mtu = w->mtu,
        .peer_frames = w->rx_frames,
        .tx_key = tx_key,
        .rx_key = rx_key,
        .phase_frames = c->config.phase_frames,
        .jitter_seed = seed,
    };
    int err = or_noise_split(&c->noise, tx_key, rx_key);
    if (!err)
        err = or_port_allow(c->config.port, c->session);
    if (!err && (err = or_path_open(&c->path, &path, now)) != 0)
        or_port_disallow(c->config.port, c->session);
    memset(tx_key, 0, sizeof tx_key);
    memset(rx_key, 0, sizeof rx_key);
    return err;
}

static enum or_refuse on_welcome(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    const struct or_welcome *m = (const void *)(h + 1);
    struct or_welcome_payload w;
    if (c->state != OR_CLIENT_DOWN || !c->session || h->session != c->session)
        return OR_REFUSE_SESSION;
    if (or_noise_read(&c->noise, m->message, sizeof m->message, (uint8_t *)&w, sizeof w) != sizeof w)
        return OR_REFUSE_HANDSHAKE;
    /* From here on the server has proved the key; a welcome we cannot use is an operator's matter. */
    if (!welcome_ok(c, &w) || open_session(c, &w, now)) {
        c->session = 0;
        return OR_REFUSE_HANDSHAKE;
    }
    or_noise_wipe(&c->noise);
    c->fragment_bytes = or_wire_fragment_bytes(w.mtu);
    c->slots_granted = w.slots;
    c->bytes_granted = w.bytes;
    c->credit_epoch = 0;
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++)
        c->slots[i].sequence = 0;
    c->state = OR_CLIENT_UP;
    c->stats.sessions++;
    c->path.want_ping = true; /* confirms the keys, when nothing else is to be said */
    or_client_begin(c);
    c->config.link(c->config.arg, true, "");
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
    c->path.peer_frames = m->frames;
}

static enum or_refuse on_data(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    if (c->state != OR_CLIENT_UP || h->session != c->session || h->channel != 0 || h->link != 0)
        return OR_REFUSE_SESSION;
    enum or_refuse refuse = or_path_verify(&c->path, &h, now);
    if (refuse)
        return refuse;
    uint32_t at = sizeof *h;
    const struct or_message *m;
    bool eliciting = false;
    enum or_refuse bad = OR_REFUSE_NONE;
    while ((m = or_wire_next(h, &at, &refuse))) {
        eliciting |= m->type != OR_MSG_ACK;
        if (m->type == OR_MSG_ACK)
            or_path_on_ack(&c->path, (const void *)m, now);
        else if (m->type == OR_MSG_REPLY)
            refuse = or_client_on_reply(c, (const void *)m);
        else if (m->type == OR_MSG_CREDIT)
            on_credit(c, (const void *)m);
        else if (m->type != OR_MSG_PING)
            refuse = OR_REFUSE_MESSAGE;
        if (refuse)
            bad = refuse;
    }
    or_path_accept(&c->path, h, eliciting, now);
    c->suspect_at = UINT64_MAX;
    return refuse ? refuse : bad;
}

/* "I know no such session", from anybody: believed only when the session is silent from now on. */
static enum or_refuse on_unknown(struct or_client *c, const struct or_frame_header *h, uint64_t now)
{
    if (c->state != OR_CLIENT_UP || h->session != c->path.peer_session)
        return OR_REFUSE_SESSION;
    if (c->path.waiting_since && c->suspect_at == UINT64_MAX)
        c->suspect_at = now + SUSPECT_NS;
    return OR_REFUSE_NONE;
}

void or_client_rx(struct or_client *c, const uint8_t *frame, uint32_t length, uint64_t now)
{
    const struct or_frame_header *h;
    enum or_refuse refuse = or_wire_check_frame(frame, length, &h);
    if (!refuse) {
        if (h->type == OR_FRAME_DATA)
            refuse = on_data(c, h, now);
        else if (h->type == OR_FRAME_WELCOME)
            refuse = on_welcome(c, h, now);
        else if (h->type == OR_FRAME_UNKNOWN)
            refuse = on_unknown(c, h, now);
        else
            refuse = OR_REFUSE_TYPE;
    }
    c->stats.refused[refuse]++;
}

/* --- time --------------------------------------------------------------------------------------- */

static uint64_t heartbeat_at(const struct or_client *c)
{
    return c->path.in_flight ? UINT64_MAX : c->path.last_sent_ns + HEARTBEAT_NS;
}

static uint64_t dead_at(const struct or_client *c)
{
    return c->path.waiting_since ? c->path.waiting_since + DEAD_NS : UINT64_MAX;
}

void or_client_tick(struct or_client *c, uint64_t now)
{
    if (c->state == OR_CLIENT_DOWN) {
        if (now >= c->hello_at)
            send_hello(c, now);
        return;
    }
    or_path_tick(&c->path, now);
    if (now >= c->suspect_at)
        session_lost(c, "the I/O hypervisor no longer knows the session", now);
    else if (now >= dead_at(c))
        session_lost(c, "no answer from the I/O hypervisor", now);
    else if (now >= heartbeat_at(c))
        c->path.want_ping = true;
}

uint64_t or_client_deadline(const struct or_client *c)
{
    if (c->state == OR_CLIENT_DOWN)
        return c->hello_at;
    uint64_t d = or_path_deadline(&c->path);
    uint64_t others[] = {c->suspect_at, dead_at(c), heartbeat_at(c)};
    for (uint32_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i] < d)
            d = others[i];
    return d;
}
