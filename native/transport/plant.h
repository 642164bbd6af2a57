/* Bugs that can be planted in the session code, one at a time, to prove that the simulator would find
 * them (test/sim/plants). Only builds with OR_PLANTS contain them; elsewhere OR_PLANTED is 0. */
#ifndef OR_PLANT_H
#define OR_PLANT_H

enum or_plant {
    OR_PLANT_NONE = 0,
    OR_PLANT_NO_DUPLICATE_SUPPRESSION, /* server: a request seen before executes again */
    OR_PLANT_LATE_REPLY_ACCEPTED,      /* client: a reply of an older sequence number ends the slot's request */
    OR_PLANT_CREDIT_LEAK,              /* client: a finished request does not give its credit back */
    OR_PLANT_FRAGMENT_OVERLAP,         /* server: a fragment received twice counts twice */
    OR_PLANT_STALE_SESSION,            /* server: frames of a replaced session are still executed */
    OR_PLANT_OVERLAP_IN_FLIGHT,        /* client: overlapping requests are in flight together */
    OR_PLANT_NO_DRAIN,                 /* server: a new session does not wait for the old one's back-end I/O */
    OR_PLANT_STALE_GENERATION,         /* server: the generation is not compared */
    OR_PLANT_WAITED_UNCHECKED,         /* server: nor is it when a request's turn comes, after it waited */
    OR_PLANT_NO_REPLAY_WINDOW,         /* both: a frame counter seen before is accepted */
    OR_PLANT_UNVERIFIED_PHASE,         /* both: a frame's phase bit changes the keys before the frame has verified */
    OR_PLANT_HASTY_PHASE,              /* both: a key is changed although the peer may not know the present one */
    OR_PLANT_LINK_DEATH_LOSES,         /* both: what was in flight on a link that goes down is forgotten */
    OR_PLANT_TWICE_ACROSS_LINKS,       /* server: a request that comes again on another link executes again */
    OR_PLANT_BYE_IGNORED,              /* client: the server's goodbye does not end the session */
    OR_PLANT_TIMEOUT_FORGETS,          /* client: a request that timed out gives its slot and range free at once */
    OR_PLANT_PACKETS_MIXED,            /* both: a fragment is taken for one of another packet of its device */
    OR_PLANT_PACKET_GENERATION,        /* server: the generation of a packet is not compared */
    OR_PLANT_PACKET_HOST,              /* server: a packet is taken from a host that does not have the NIC */
    OR_PLANT_PACKET_REST_LOST,         /* both: of a packet that finds too little room the rest is forgotten */
    OR_PLANT_PACKET_ANY_LINK,          /* both: packets of one NIC travel on all links */
    OR_PLANT_MOVE_NO_DRAIN,      /* server: a volume goes to another worker while the back-end has I/O of this one */
    OR_PLANT_MOVE_FORGETS_ORDER, /* dispatcher: requests go on in the order in which they came back */
    OR_PLANT_MAX
};

#ifdef OR_PLANTS
extern enum or_plant or_planted;
#define OR_PLANTED(plant) (or_planted == (plant))
#else
#define OR_PLANTED(plant) 0
#endif

#endif
