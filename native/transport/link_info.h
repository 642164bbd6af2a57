/* What people are told of a link of a session. */
#ifndef OR_LINK_INFO_H
#define OR_LINK_INFO_H

#include <stdbool.h>
#include <stdint.h>

/* How frames leave on a link: several at once in an envelope (envelope.h), or each by itself, and why. */
enum or_link_form {
    OR_LINK_PLAIN_PORT,       /* a port of this kind has no envelopes */
    OR_LINK_PLAIN_OFF,        /* configured so */
    OR_LINK_PLAIN_LARGE,      /* the link takes large frames */
    OR_LINK_PLAIN_SMALL,      /* the link's MTU is too small */
    OR_LINK_PLAIN_REFUSED,    /* the kernel lacks something */
    OR_LINK_PLAIN_UNTRIED,    /* no envelope was acknowledged yet, or again after a loss */
    OR_LINK_PLAIN_UNANSWERED, /* an envelope was sent and did not arrive */
    OR_LINK_SUPER,            /* an envelope was acknowledged */
    OR_LINK_FORMS
};

struct or_link_info {
    bool up; /* it carries requests */
    enum or_link_form form;
    uint64_t srtt_ns, cwnd_frames, in_flight_frames, frames_lost;
};

#endif
