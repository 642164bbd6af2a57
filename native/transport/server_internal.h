/* What server.c (hosts, handshake, sessions) and requests.c (slots, execution) share. */
#ifndef OR_SERVER_INTERNAL_H
#define OR_SERVER_INTERNAL_H

#include "links.h"
#include "mem/bitmap.h"
#include "mem/buddy.h"
#include "mem/list.h"
#include "proof.h"
#include "schedule.h"
#include "server.h"

#define OR_HALF_OPEN 4u /* unconfirmed handshakes kept per host */
static_assert(OR_SERVER_SESSIONS_PER_HOST == OR_HALF_OPEN + 1, "what the port lets in");
#define OR_RETIRED_MAX 16u /* replaced sessions per host whose I/O has not ended */
#define OR_EXPORT_BUCKETS 256u
#define OR_HELLO_TOKENS 16u /* handshakes that a host may start at once */
#define OR_ANSWER_BUCKETS 64u
#define OR_HOST_BITS 10u /* low bits of a session id: the host's index */

/* A device document; shared by the host and the replies that carry it. */
struct or_document {
    uint32_t refs, version, length;
    uint8_t bytes[];
};

struct or_server_export {
    struct or_export info;
    struct or_list link;      /* in server.exports[hash] */
    struct or_list waiting;   /* slots whose request waits, for its turn or for what schedule.c, is_ready, names */
    struct or_session *owner; /* whose requests the back-end has; NULL: nobody's, or of an older generation */
    uint32_t in_flight;
    uint64_t requests, bytes; /* executed here: of reads and writes */
    bool removed;
    bool elsewhere; /* another worker executes its requests */
    /* schedule.c */
    struct or_session *waits_in; /* in whose lane it waits; NULL: nothing of it may begin */
    struct or_fair_flow flow;
    uint32_t flow_session; /* the id of the session that `flow` is of */
    uint64_t unit;         /* OR_FAIR_UNIT / info.weight */
    struct or_list out;    /* in server.out while the back-end has something, and its volume answers later */
    uint64_t out_bytes;
    uint64_t progress_ns; /* when something of it ended, or was first out; 0: not looked yet */
    bool stalled;         /* nothing ended for long: what is out does not count */
    void (*drained)(void *arg);
    void *drained_arg;
    void (*left)(void *arg); /* NULL: nobody waits for the back-end to be done before it is elsewhere */
    void *left_arg;
};

struct or_server_nic {
    struct or_nic_export info;
    struct or_host *host;
    struct or_list link; /* in server.nics[hash] */
    uint64_t fenced;
};

/* A slot's life. A request is new when its sequence is the slot's plus one.
 *   FREE       nothing yet                                     -> RECEIVING, or straight on
 *   RECEIVING  a write of which fragments are missing          -> WAITING, EXECUTING, REPLYING
 *   WAITING    for its turn, an older session's I/O, the volume -> EXECUTING, REPLYING
 *   POLLING    CONTROL_GET until the document changes          -> REPLYING
 *   EXECUTING  the back-end has it                             -> REPLYING
 *   REPLYING   the reply, or a part, is not acknowledged yet   -> DONE, or a new request
 *   DONE       answered; duplicates are ignored                -> a new request */
enum or_slot_state {
    OR_SLOT_FREE,
    OR_SLOT_RECEIVING,
    OR_SLOT_WAITING,
    OR_SLOT_POLLING,
    OR_SLOT_EXECUTING,
    OR_SLOT_REPLYING,
    OR_SLOT_DONE,
};

struct or_server_slot {
    struct or_session *session;
    uint32_t sequence;
    uint8_t state; /* enum or_slot_state */
    uint8_t op, flags, status;
    uint16_t reply_mark; /* see requests.c, OTHER_REPLY */
    uint32_t device, generation, placement, length;
    uint64_t offset;
    struct or_server_export *export; /* WAITING, EXECUTING; REPLYING when `reply` is the volume's memory */
    struct or_io io;
    uint8_t *buffer;          /* from server.buffers, or NULL */
    const uint8_t *reply;     /* data of the reply: buffer, the volume's memory, or the document */
    struct or_volume *pinned; /* whose memory `reply` is, when it is to be given back (unpeek) */
    struct or_document *document;
    uint32_t total;     /* bytes of the reply */
    uint32_t fragments; /* of the request while RECEIVING, of the reply from REPLYING on */
    uint32_t unsent;    /* bytes of the fragments in `todo` */
    struct or_bitmap received, todo, acked;
    struct or_list sending, waiting;
};

struct or_session {
    struct or_server *server;
    struct or_host *host;
    struct or_links links;
    struct or_list link; /* in server.sessions, or server.retired */
    uint32_t id, fragment_bytes, mtu;
    uint32_t client_mtu; /* what the client could take */
    bool retired;
    uint32_t executing; /* slots that the back-end has */
    uint64_t since_ns, requests;
    uint32_t credit_epoch;
    uint64_t credit_bytes, held_bytes; /* of request buffers: granted, in use */
    uint32_t credit_frames;
    bool credit_todo;
    struct or_hello hello; /* which handshake made it */
    struct or_list sending;
    uint64_t unsent;     /* bytes of replies that are to be put into frames */
    uint64_t step_bytes; /* of them, put there in this step */
    struct or_lane lanes[OR_LANE_KINDS];
#ifdef OR_PLANTS
    uint8_t rx_link, slot_link[OR_SLOTS_MAX];
#endif
    struct or_server_slot slots[OR_SLOTS_MAX];
};

/* A handshake whose welcome was sent and which waits for the first frame under its keys. */
struct or_half_open {
    bool used;
    uint32_t id;
    uint64_t created_ns;
    struct or_hello hello;
    uint8_t hello_digest[OR_DIGEST_BYTES];
    struct or_welcome welcome;
    uint8_t mac[6]; /* where the HELLO came from, */
    uint32_t port;  /* to which of our ports, */
    uint8_t link;   /* on which of its links */
    uint8_t tx_key[32], rx_key[32];
    uint32_t mtu, client_mtu, client_frames;
    uint8_t links;
};

struct or_host {
    bool used, admitted;
    char name[OR_NAME_MAX + 1];
    uint8_t psk[32];
    struct or_proof proof;
    /* What its next HELLO must bear. Another one once a handshake with it was answered, so that each serves
     * once. */
    uint8_t cookie[OR_COOKIE_BYTES];
    struct or_session *live;
    struct or_half_open half[OR_HALF_OPEN];
    uint32_t retired, exports, nics;
    struct or_packets packets; /* of the live session; open since the host had its first NIC */
    uint32_t tokens;           /* handshakes that it may start now */
    uint64_t tokens_ns;
    struct or_document *document;
    uint32_t document_version;
#ifdef OR_PLANTS
    struct or_session *stale;
#endif
};

struct or_server {
    struct or_server_config config;
    uint64_t instance;
    struct or_host *hosts;
    struct or_list sessions, retired;
    uint32_t session_count, export_count, nic_count;
    struct or_list exports[OR_EXPORT_BUCKETS], nics[OR_EXPORT_BUCKETS];
    struct or_buddy buffers;
    struct or_fair lanes[OR_LANE_KINDS]; /* sessions of which something may begin */
    uint64_t step_cost;                  /* of what began in memory in this step */
    uint32_t out_requests;               /* that volumes have which answer later, but for stalled ones */
    uint64_t out_bytes;
    struct or_list out;    /* exports that have something out; the one that is silent for longest first */
    bool more;             /* replies could be sent, but not in this step */
    uint32_t *name_hashes; /* of the hosts, in their order: looked through before the hosts themselves */
    uint64_t unknown_ns[OR_ANSWER_BUCKETS]; /* when the last UNKNOWN went to an address of this bucket */
    uint64_t retry_ns[OR_ANSWER_BUCKETS];   /* when a HELLO of this bucket was last answered with RETRY */
    uint64_t expire_at; /* when to look for half-open entries that have expired; UINT64_MAX: there are none */
    struct or_server_stats stats;
    uint8_t refused_source[6]; /* of the last frame that was refused */
};

/* requests.c */
enum or_refuse or_requests_receive(struct or_session *session, const struct or_message_request *message);
/* A frame's messages from offset `at` on are about to be received: its reads are told to their volume. */
void or_requests_expect(const struct or_session *session, const struct or_frame_header *header, uint32_t at);
void or_requests_acked(void *session, struct or_item item);
void or_requests_lost(void *session, struct or_item item);
/* Puts some replies into frames. False: there are none, or no room. */
bool or_requests_send(void *session, uint64_t now);
/* A request that waited begins, if it may still. */
void or_requests_run(struct or_server_slot *slot, struct or_server_export *export);
/* The session is over: frees what its slots hold, except those that the back-end has. */
void or_requests_abandon(struct or_session *session);
struct or_server_export *or_requests_export(struct or_server *server, uint32_t id);
/* The export is another one now, under another generation or with its volume: refuses what waits and may not any more.
 */
void or_requests_recheck(struct or_server_export *export);
/* What waits on the export is told to go elsewhere. Calls its left() once the back-end has nothing of it. */
void or_requests_leave(struct or_server_export *export);
/* Refuses what waits on the export; frees it and calls its drained() once the back-end has nothing of it. */
void or_requests_remove(struct or_server_export *export);
/* The export changes hands, or its volume is about to go: replies of this session that lie in the volume's
 * memory become `status`. */
void or_requests_forget_memory(struct or_session *session, const struct or_server_export *export, uint8_t status);
/* The document changed: answers the host's long poll. */
void or_requests_document(struct or_host *host);
void or_document_release(struct or_document *document);

/* nics.c */
struct or_server_nic *or_nics_find(const struct or_server *server, uint32_t id);
/* The packets of a frame that counts as received: only then, so that each comes once. */
enum or_refuse or_nics_receive(struct or_session *session, const struct or_frame_header *header, uint64_t now);
/* A session of the host begins, or ends. */
void or_nics_begin(struct or_session *session);
void or_nics_end(struct or_host *host);
/* The server ends. */
void or_nics_free(struct or_server *server);

/* server.c */
void or_server_random(struct or_server *server, void *out, size_t bytes);
void or_server_tell(struct or_server *server, const struct or_host *host, bool up, const char *why);
struct or_host *or_server_host_named(const struct or_server *server, const char *name);
uint32_t or_server_ports(const struct or_server *server);
/* Data frames of this session get in through every port, or through none. 0 or -errno. */
int or_server_allow(struct or_server *server, uint32_t id);
void or_server_disallow(struct or_server *server, uint32_t id);
/* The least of the ports'. */
uint32_t or_server_mtu(const struct or_server *server);
/* The live session of this id, or NULL. */
struct or_session *or_server_find_session(const struct or_server *server, uint32_t id);
/* Ends a live session. It stays in memory until the back-end has given back what it has of it. */
void or_server_retire(struct or_server *server, struct or_session *session);
/* Shares what the server can take in fairly among the sessions there are. */
void or_server_share_credits(struct or_server *server);
/* A retired session's last I/O ended. */
void or_server_session_drained(struct or_session *session);

/* server_handshake.c */
enum or_refuse or_server_on_hello(struct or_server *server, uint32_t port, const uint8_t *frame,
                                  const struct or_frame_header *header, uint64_t now);
struct or_half_open *or_server_find_half_open(const struct or_server *server, uint32_t id);
/* The first frame under a half-open entry's keys: it becomes the host's session. NULL with the reason when
 * it does not prove them. */
struct or_session *or_server_confirm(struct or_server *server, struct or_half_open *half, uint32_t port,
                                     const uint8_t *frame, const struct or_frame_header *header, enum or_refuse *refuse,
                                     uint64_t now);
/* Tells `to` that no session of this id exists; at most once in a while. */
void or_server_send_unknown(struct or_server *server, uint32_t port, const uint8_t *to, uint32_t id, uint64_t now);
/* Forgets a half-open entry with its keys; the ports let its frames in no longer. */
void or_server_drop_half_open(struct or_server *server, struct or_half_open *half);
/* Forgets the half-open entries that have expired, and sets server.expire_at. */
void or_server_expire_half_open(struct or_server *server, uint64_t now);

#endif
