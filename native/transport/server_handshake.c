/* The server's half of the handshake: HELLO, half-open entries, WELCOME, and the frame that makes an
 * entry a session. What may be asked of it by strangers is bounded here.
 *
 * A HELLO is looked at in an order in which each step costs more and lets fewer through:
 *
 *   1 form and name      a known host, by a hash of its name
 *   2 digest (proof.h)   made by who has the key: strangers end here, for a fraction of a microsecond
 *   3 seen before?       of the live session, or of an entry: answered again with what is there
 *   4 cookie             the one that the host was given last, and that no other HELLO has used: what was
 *                        overheard ends here, with a RETRY that says the cookie to who can use it
 *   5 token, Noise       keys are derived, the WELCOME is made: only for a living host, so a stranger can
 *                        use up neither its tokens nor its entries
 *
 * The host proves itself in a second step. An answered HELLO makes a half-open entry that holds keys but
 * no buffers and disturbs nothing. Only a frame that verifies under those keys, which needs the
 * ephemeral secret of the HELLO, makes it the host's session; the session before it is retired in
 * that moment. */
#include <stdlib.h>
#include <string.h>

#include "noise.h"
#include "server_internal.h"

#define MS 1000000ull
#define HALF_OPEN_EXPIRES_NS (5000 * MS)
#define HELLO_TOKEN_NS (50 * MS)  /* and one more in every such time */
#define UNKNOWN_EVERY_NS (5 * MS) /* per bucket of addresses */
#define RETRY_EVERY_NS (4 * MS)   /* per bucket of HELLOs: less than a client waits before it repeats one */
#define CLIENT_FRAMES_MAX 1024u

struct or_half_open *or_server_find_half_open(const struct or_server *s, uint32_t id)
{
    uint32_t index = id & ((1u << OR_HOST_BITS) - 1);
    if (index >= s->config.hosts_max)
        return NULL;
    for (uint32_t i = 0; i < OR_HALF_OPEN; i++) {
        struct or_half_open *half = &s->hosts[index].half[i];
        if (half->used && half->id == id)
            return half;
    }
    return NULL;
}

void or_server_drop_half_open(struct or_server *s, struct or_half_open *half)
{
    if (half->used)
        or_server_disallow(s, half->id);
    memset(half, 0, sizeof *half);
}

/* --- hello and welcome -------------------------------------------------------------------------- */

static uint8_t *control_frame(struct or_server *s, uint32_t port, const uint8_t *to,
                              const struct or_frame_header *header)
{
    uint8_t *frame = or_port_tx_begin(s->config.ports[port], to);
    if (!frame)
        return NULL;
    memcpy(frame + OR_ETH_HEADER, header, sizeof *header);
    return frame + OR_ETH_HEADER + sizeof *header;
}

static void send_welcome(struct or_server *s, const struct or_proof *proof, const struct or_half_open *half)
{
    struct or_frame_header h = {
        .version = OR_WIRE_VERSION,
        .type = OR_FRAME_WELCOME,
        .channel = s->config.channel,
        .link = half->link,
        .session = half->hello.session,
        .length = sizeof h + sizeof half->welcome,
    };
    uint8_t *body = control_frame(s, half->port, half->mac, &h);
    if (!body)
        return; /* the client asks again */
    memcpy(body, &half->welcome, sizeof half->welcome);
    or_proof_sign(proof, (struct or_frame_header *)body - 1, half->hello_digest);
    or_port_tx_commit(s->config.ports[half->port], OR_ETH_HEADER + h.length);
}

/* Answers that cost us and a bystander little are still kept from becoming a flood. A bucket, not a list of
 * who got one: whoever makes up addresses or replays many HELLOs gets no more than all buckets hold. */
static bool is_due(uint64_t last_ns[OR_ANSWER_BUCKETS], uint32_t key, uint64_t interval_ns, uint64_t now)
{
    uint64_t *last = &last_ns[key % OR_ANSWER_BUCKETS];
    if (*last && now < *last + interval_ns)
        return false;
    *last = now;
    return true;
}

static void send_retry(struct or_server *s, const struct or_host *host, uint32_t port, const uint8_t *frame,
                       const struct or_frame_header *hello_header, uint64_t now)
{
    const struct or_hello *hello = (const void *)(hello_header + 1);
    struct or_frame_header h = {
        .version = OR_WIRE_VERSION,
        .type = OR_FRAME_RETRY,
        .channel = s->config.channel,
        .session = hello->session,
        .length = sizeof h + sizeof(struct or_retry),
    };
    uint32_t bucket; /* the digest is as good as random, and a stranger cannot choose it */
    memcpy(&bucket, hello_header->digest, sizeof bucket);
    uint8_t *body = is_due(s->retry_ns, bucket, RETRY_EVERY_NS, now) ? control_frame(s, port, frame + 6, &h) : NULL;
    if (!body)
        return;
    memcpy(body, host->cookie, sizeof host->cookie);
    or_proof_sign(&host->proof, (struct or_frame_header *)body - 1, hello_header->digest);
    or_port_tx_commit(s->config.ports[port], OR_ETH_HEADER + h.length);
}

void or_server_send_unknown(struct or_server *s, uint32_t port, const uint8_t *to, uint32_t id, uint64_t now)
{
    if (!is_due(s->unknown_ns, to[5], UNKNOWN_EVERY_NS, now))
        return;
    struct or_frame_header h = {
        .version = OR_WIRE_VERSION,
        .type = OR_FRAME_UNKNOWN,
        .channel = s->config.channel,
        .session = id,
        .length = sizeof h,
    };
    if (control_frame(s, port, to, &h))
        or_port_tx_commit(s->config.ports[port], OR_ETH_HEADER + h.length);
}

static bool spend_token(struct or_host *h, uint64_t now)
{
    uint64_t earned = (now - h->tokens_ns) / HELLO_TOKEN_NS;
    if (earned) {
        h->tokens = h->tokens + earned > OR_HELLO_TOKENS ? OR_HELLO_TOKENS : h->tokens + (uint32_t)earned;
        h->tokens_ns = now;
    }
    return h->tokens && h->tokens--;
}

static uint32_t new_session_id(struct or_server *s, const struct or_host *host)
{
    uint32_t index = (uint32_t)(host - s->hosts), id;
    do {
        or_server_random(s, &id, sizeof id);
        id = (id & ~((1u << OR_HOST_BITS) - 1)) | index;
    } while (id == 0 || or_server_find_session(s, id) || or_server_find_half_open(s, id));
    return id;
}

/* Confirmed or not. */
static bool has_session(const struct or_server *s, const struct or_host *host, uint32_t id)
{
    const struct or_session *session = or_server_find_session(s, id);
    if (session)
        return session->host == host;
    const struct or_half_open *half = id ? or_server_find_half_open(s, id) : NULL;
    return half >= host->half && half < host->half + OR_HALF_OPEN;
}

static bool payload_ok(const struct or_server *s, const struct or_hello_payload *p)
{
    return p->mtu >= OR_MTU_MIN && p->mtu <= OR_MTU_MAX && p->rx_frames >= 1 && p->channels >= 1 && p->links >= 1 &&
           p->integrity_min <= s->config.integrity;
}

/* Answers a handshake in `half`: fills everything but `used`. */
static enum or_refuse answer(struct or_server *s, struct or_host *host, struct or_half_open *half, uint64_t now)
{
    struct or_noise noise;
    struct or_hello_payload hello;
    uint8_t ephemeral[32];
    or_server_random(s, ephemeral, sizeof ephemeral);
    if (or_noise_init(&noise, false, &half->hello, offsetof(struct or_hello, message), host->psk, ephemeral))
        return OR_REFUSE_CREDIT;
    enum or_refuse refuse = OR_REFUSE_HANDSHAKE;
    int n = or_noise_read(&noise, half->hello.message, sizeof half->hello.message, (uint8_t *)&hello, sizeof hello);
    if (n == sizeof hello && !spend_token(host, now)) {
        refuse = OR_REFUSE_RATE;
    } else if (n == sizeof hello && payload_ok(s, &hello)) {
        half->id = new_session_id(s, host);
        half->created_ns = now;
        half->client_mtu = hello.mtu;
        half->mtu = hello.mtu < or_server_mtu(s) ? hello.mtu : or_server_mtu(s);
        half->links = hello.links < OR_LINKS_MAX ? hello.links : OR_LINKS_MAX;
        half->client_frames = hello.rx_frames < CLIENT_FRAMES_MAX ? hello.rx_frames * 3 / 4 : CLIENT_FRAMES_MAX;
        if (!half->client_frames)
            half->client_frames = 1;
        struct or_welcome_payload welcome = {
            .instance = s->instance,
            .session = half->id,
            .mtu = half->mtu,
            .rx_frames = 4, /* until the session has its share */
            .slots = s->config.slots,
            .bytes = OR_REQ_BYTES_MAX,
            .channels = 1,
            .links = half->links,
            .integrity = s->config.integrity,
            .known = has_session(s, host, hello.known),
        };
        or_server_random(s, host->cookie, sizeof host->cookie);
        memcpy(welcome.cookie, host->cookie, sizeof welcome.cookie);
        n = or_noise_write(&noise, &welcome, sizeof welcome, half->welcome.message, sizeof half->welcome.message);
        if (n == sizeof half->welcome.message && or_noise_split(&noise, half->rx_key, half->tx_key) == 0)
            refuse = OR_REFUSE_NONE;
    }
    or_noise_wipe(&noise);
    return refuse;
}

/* Where the welcome goes. */
static void came_from(struct or_half_open *half, uint32_t port, const uint8_t *frame, const struct or_frame_header *h)
{
    memcpy(half->mac, frame + 6, sizeof half->mac);
    half->port = port;
    half->link = h->link;
}

enum or_refuse or_server_on_hello(struct or_server *s, uint32_t port, const uint8_t *frame,
                                  const struct or_frame_header *h, uint64_t now)
{
    const struct or_hello *hello = (const void *)(h + 1);
    if (hello->name_length == 0 || hello->name_length > OR_NAME_MAX || hello->name[hello->name_length] ||
        strnlen(hello->name, sizeof hello->name) != hello->name_length || !hello->session)
        return OR_REFUSE_HANDSHAKE;
    struct or_host *host = or_server_host_named(s, hello->name);
    if (!host || !host->admitted)
        return OR_REFUSE_HOST;
    if (!or_proof_verify(&host->proof, h, NULL))
        return OR_REFUSE_HANDSHAKE;
    if (host->live && memcmp(&host->live->hello, hello, sizeof *hello) == 0)
        return OR_REFUSE_NONE; /* late: its session is there */
    struct or_half_open *oldest = &host->half[0];
    for (uint32_t i = 0; i < OR_HALF_OPEN; i++) {
        struct or_half_open *half = &host->half[i];
        if (half->used && memcmp(&half->hello, hello, sizeof *hello) == 0) {
            came_from(half, port, frame, h);
            send_welcome(s, &host->proof, half);
            return OR_REFUSE_NONE;
        }
        if (!half->used || (oldest->used && half->created_ns < oldest->created_ns))
            oldest = half;
    }
    if (memcmp(hello->cookie, host->cookie, sizeof host->cookie) != 0) {
        send_retry(s, host, port, frame, h, now);
        return OR_REFUSE_COOKIE;
    }
    if (host->retired >= OR_RETIRED_MAX)
        return OR_REFUSE_RATE;
    struct or_half_open fresh = {.used = true, .hello = *hello};
    memcpy(fresh.hello_digest, h->digest, sizeof fresh.hello_digest);
    came_from(&fresh, port, frame, h);
    enum or_refuse refuse = answer(s, host, &fresh, now);
    if (refuse == OR_REFUSE_NONE) {
        or_server_drop_half_open(s, oldest);
        if (or_server_allow(s, fresh.id))
            refuse = OR_REFUSE_CREDIT;
    }
    if (refuse == OR_REFUSE_NONE) {
        *oldest = fresh;
        if (s->expire_at == UINT64_MAX)
            s->expire_at = now + HALF_OPEN_EXPIRES_NS;
        s->stats.handshakes++;
        send_welcome(s, &host->proof, oldest);
    }
    memset(&fresh, 0, sizeof fresh);
    return refuse;
}

/* --- promotion ---------------------------------------------------------------------------------- */

static void link_changed(void *arg, uint32_t link, bool up)
{
    const struct or_session *session = arg;
    const struct or_server_config *config = &session->server->config;
    if (!config->link_changed)
        return;
    uint32_t port = 0;
    while (config->ports[port] != session->links.link[link].path.port)
        port++;
    config->link_changed(config->arg, session->host->name, link, port, up);
}

/* Frames go to where the one came from that proved the keys; not the HELLO, which a stranger may have repeated
 * under an address of their own. The other links' addresses are learned from the first frames that verify
 * on them. */
static int open_links(struct or_server *s, struct or_session *session, const struct or_half_open *half, uint32_t port,
                      const uint8_t *frame, uint32_t first, uint64_t now)
{
    uint32_t seed;
    or_server_random(s, &seed, sizeof seed);
    struct or_links_config links = {
        .path =
            {
                .owner = {.acked = or_requests_acked, .lost = or_requests_lost, .arg = session},
                .channel = s->config.channel,
                .integrity = s->config.integrity,
                .peer_session = half->hello.session,
                .mtu = half->mtu,
                .peer_frames = half->client_frames,
                .phase_frames = s->config.phase_frames,
                .jitter_seed = seed,
            },
        .first_mac = frame + 6,
        .tx_key = half->tx_key,
        .rx_key = half->rx_key,
        .count = half->links,
        .first = first,
        .changed = link_changed,
        .arg = session,
    };
    for (uint32_t i = 0; i < half->links; i++)
        links.ports[i] = s->config.ports[port];
    return or_links_open(&session->links, &links, now);
}

static struct or_session *session_new(struct or_server *s, struct or_host *host, const struct or_half_open *half,
                                      uint64_t now)
{
    struct or_session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    session->server = s;
    session->host = host;
    session->id = half->id;
    session->hello = half->hello;
    session->mtu = half->mtu;
    session->client_mtu = half->client_mtu;
    session->fragment_bytes = or_wire_fragment_bytes(half->mtu);
    session->since_ns = now;
    or_list_init(&session->link);
    or_list_init(&session->sending);
    or_schedule_open_session(session);
    for (uint32_t i = 0; i < OR_SLOTS_MAX; i++) {
        session->slots[i].session = session;
        or_list_init(&session->slots[i].sending);
        or_list_init(&session->slots[i].waiting);
    }
    return session;
}

/* Was the frame made with the key of its link? */
static bool proves(const struct or_server *s, const struct or_half_open *half, const struct or_frame_header *h)
{
    uint8_t key[32];
    bool proved = or_noise_link_key(half->rx_key, h->link, key) == 0 && or_keys_prove(s->config.integrity, key, h);
    memset(key, 0, sizeof key);
    return proved;
}

struct or_session *or_server_confirm(struct or_server *s, struct or_half_open *half, uint32_t port,
                                     const uint8_t *frame, const struct or_frame_header *h, enum or_refuse *refuse,
                                     uint64_t now)
{
    struct or_host *host = &s->hosts[half->id & ((1u << OR_HOST_BITS) - 1)];
    *refuse = h->link >= half->links ? OR_REFUSE_CHANNEL : proves(s, half, h) ? OR_REFUSE_NONE : OR_REFUSE_DIGEST;
    if (*refuse)
        return NULL;
    struct or_session *session = session_new(s, host, half, now);
    if (!session || open_links(s, session, half, port, frame, h->link, now)) {
        free(session);
        *refuse = OR_REFUSE_CREDIT;
        return NULL;
    }
    if (host->live)
        or_server_retire(s, host->live);
    memset(half, 0, sizeof *half); /* its id is the session's now */
    for (uint32_t i = 0; i < OR_HALF_OPEN; i++)
        or_server_drop_half_open(s, &host->half[i]); /* older handshakes are void */
    host->live = session;
    or_nics_begin(session);
    or_list_append(&s->sessions, &session->link);
    s->session_count++;
    s->stats.sessions++;
    or_server_share_credits(s);
    or_server_tell(s, host, true, "");
    return session;
}

/* --- time --------------------------------------------------------------------------------------- */

void or_server_expire_half_open(struct or_server *s, uint64_t now)
{
    s->expire_at = UINT64_MAX;
    for (uint32_t i = 0; i < s->config.hosts_max; i++)
        for (uint32_t k = 0; k < OR_HALF_OPEN; k++) {
            struct or_half_open *half = &s->hosts[i].half[k];
            uint64_t end = half->created_ns + HALF_OPEN_EXPIRES_NS;
            if (half->used && now >= end)
                or_server_drop_half_open(s, half);
            else if (half->used && end < s->expire_at)
                s->expire_at = end;
        }
}
