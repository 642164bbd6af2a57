/* Whether a path's frames may travel in envelopes (envelope.h), which a switch, a firewall or a peer configured
 * otherwise may swallow. Nothing is agreed upon: an acknowledgement tells that an envelope has arrived.
 *
 *              probe sent               both of its frames acknowledged
 *   UNTRIED ──────────────> ASKED ────────────────────────────────────> USED
 *      ^                      │ one lost                                 │ a frame was lost, whichever
 *      │ link died, or other  v                                          v
 *      │ port or address   UNANSWERED <── again ASKED at once, or after a pause where that happens often
 *                             │ ASKED again after 1 s, doubling to 60 s
 *
 * A probe is an envelope with two segments of full size, each a ping; a plain ping follows. As in path MTU discovery
 * (RFC 8899, section 3) its loss says nothing about congestion. While in doubt, frames travel plain: so at most the
 * envelopes of one round trip are lost to a network that swallows them from now on. No I/O; one thread. */
#ifndef OR_SUPER_FRAMES_H
#define OR_SUPER_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#define OR_SUPER_PROBE_FRAMES 2u

enum or_super_state { OR_SUPER_UNTRIED, OR_SUPER_ASKED, OR_SUPER_USED, OR_SUPER_UNANSWERED };

struct or_super {
    enum or_super_state state;
    uint32_t missing;     /* frames of the probe that were not acknowledged yet */
    uint64_t first, last; /* numbers of the latest probe's frames; 0: none */
    uint64_t try_at;      /* not before, unless USED */
    uint64_t interval;    /* after the next probe that is lost; 0: the first */
    uint64_t pause;       /* after the latest doubt */
    uint64_t used_since;
};

/* A probe is to be sent. */
bool or_super_due(const struct or_super *super, uint64_t now);
/* It was, in the frames from `first` on. */
void or_super_asked(struct or_super *super, uint64_t first);
bool or_super_is_probe(const struct or_super *super, uint64_t frame);
/* A probe's frame was acknowledged, or lost. */
void or_super_acked(struct or_super *super, uint64_t frame, uint64_t now);
void or_super_lost(struct or_super *super, uint64_t frame, uint64_t now);
/* Another frame was lost. */
void or_super_doubt(struct or_super *super, uint64_t now);
/* The peer is to be reached in another way, or again. */
void or_super_reset(struct or_super *super);

#endif
