/* The links of a session, seen from one end: one path (path.h) for each pair of NICs. All links are used
 * together; any of them may die while another lives, and nothing is lost.
 *
 * A message may travel on any link, and again on another: what it is about (slot, sequence, fragment) is
 * the session's, and so is the rule that it happens once. Frame numbers, acknowledgements, replay window,
 * congestion and keys are each link's own.
 *
 *           peer's answer to a frame of ours
 *   DOWN ──────────────────────────────────────> UP
 *        <──────────────────────────────────────
 *           silent for some probe time-outs, while another link lives; or its port died
 *
 * A link that goes down reports all that was in flight on it as lost, at once, so it is sent on another
 * one. While down it carries pings only: from the client at growing intervals, from the server when it
 * hears something. Only an acknowledgement brings it up, so a link that works in one direction stays
 * down. The last link that is up never goes down: if that is silent, the session is (or_links_silent_since).
 *
 * Requests and packets of NICs share the frames. `ahead` counts by how many bytes packets had more than requests
 * lately; whoever is behind and has something to send goes first. Where packets wait for room on a link and are
 * behind, requests begin no frame there. A packet that waits is asked for again in the next step, and is
 * forgotten when it is not; and something is in flight while it waits, the end of which makes a next step: so
 * nobody waits for one who does not come. */
#ifndef OR_LINKS_H
#define OR_LINKS_H

#include "link_info.h"
#include "path.h"

/* Both ends choose what goes next where it still waits outside of frames, so that who shares a session takes turns.
 * What a request costs there beside its bytes: one of 4 KiB costs a server about twice what its bytes do. */
#define OR_LINKS_REQUEST_COST 4096u
/* And the bytes that wait for frames, of a client's requests or of a session's replies, beyond which no more are
 * chosen. The lone VM of a host that keeps 32 operations of 4 KiB in flight stays below. */
#define OR_LINKS_UNSENT_MAX (160u << 10)

struct or_link {
    struct or_path path;
    bool up;
    bool known; /* where the peer is on this link: a server learns it from the first frame that verifies */
    uint64_t down_since;
    uint64_t probe_at; /* while down: when to ping; UINT64_MAX: not by ourselves */
    uint64_t probe_interval;
    uint64_t probed_ns;
    uint8_t packets_wait; /* flushes for which this is remembered */
};

struct or_links {
    struct or_link link[OR_LINKS_MAX];
    uint32_t count;
    bool prober;      /* a client: probes links that are down by itself */
    uint32_t current; /* frames are being filled here */
    uint32_t turn;    /* messages since it was chosen */
    int32_t ahead;    /* bytes */
    void (*changed)(void *arg, uint32_t link, bool up);
    void *arg;
};

struct or_links_config {
    struct or_path_config path;          /* of all links; its link, port, peer_mac and keys are filled in */
    struct or_port *ports[OR_LINKS_MAX]; /* by link */
    const uint8_t (*peer_macs)[6];       /* by link, of the client; NULL: only `first` is known */
    const uint8_t *first_mac;            /* where the peer is on link `first` */
    const uint8_t *tx_key, *rx_key;      /* of the session */
    uint32_t count, first;               /* how many; the one that is up from the beginning */
    bool prober;
    /* A link went down or came up; NULL: nobody wants to know. */
    void (*changed)(void *arg, uint32_t link, bool up);
    void *arg;
};

/* 0 or -ENOMEM (then closed already). */
int or_links_open(struct or_links *links, const struct or_links_config *config, uint64_t now);
void or_links_close(struct or_links *links);

/* or_path_message for requests and replies, on the link with the most room; it is kept for some messages, so that what
 * belongs together mostly travels together. NULL: no link takes more now. */
void *or_links_message(struct or_links *links, uint32_t bytes, struct or_item item, uint64_t now);
/* The link that the packets of this device travel on, so that they stay in order; -1: none is up. */
int or_links_of_packets(const struct or_links *links, uint32_t device);
/* or_path_message for a packet or a fragment of one. NULL: the link takes no packets now; this is remembered. */
void *or_links_packet(struct or_links *links, uint32_t link, uint32_t bytes, struct or_item item, uint64_t now);
/* Requests, if any wait, are to be sent before the next packet. */
bool or_links_requests_first(const struct or_links *links);
void or_links_flush(struct or_links *links, uint64_t now);

/* A frame of this link was verified, and accepted or deferred, and its acknowledgements processed. */
void or_links_heard(struct or_links *links, uint32_t link, uint64_t now);
/* Where the peer's frames of this link come from. */
void or_links_learn(struct or_links *links, uint32_t link, struct or_port *port, const uint8_t mac[6]);
/* A port's `up` has changed: its links go down, or are tried at once. */
void or_links_port_changed(struct or_links *links, const struct or_port *port, uint64_t now);

void or_links_tick(struct or_links *links, uint64_t now);
uint64_t or_links_deadline(const struct or_links *links);

/* Since when something was sent and nothing heard on any link; 0: not so. */
uint64_t or_links_silent_since(const struct or_links *links);
/* When anything was last heard. */
uint64_t or_links_heard_ns(const struct or_links *links);
/* Pings on every link on which nothing was sent for `idle_ns`; when that is next due. */
void or_links_heartbeat(struct or_links *links, uint64_t idle_ns, uint64_t now);
uint64_t or_links_heartbeat_at(const struct or_links *links, uint64_t idle_ns);
uint64_t or_links_frames_lost(const struct or_links *links);
/* Key changes of our sending direction. */
uint64_t or_links_rekeys(const struct or_links *links);

struct or_link_info or_links_info(const struct or_links *links, uint32_t link);

#endif
