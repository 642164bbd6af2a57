/* A volume in a file that comes to a protection domain and leaves it while a host writes and reads, its epochs, its
 * generations and what an engine leaves to the next one. Needs root, for the link. */
#include "protect_world.h"

#define PAGE_BLOCKS (OR_HOLD_PAGE / BLOCK)

/* --- tests --------------------------------------------------------------------------------------- */

static void protection_comes_and_goes_under_load_and_loses_nothing(void **state)
{
    (void)state;
    struct world *w = begin_world();
    order(w, new_domain(w));
    order(w, new_export(w, 0));
    begin_client(w);
    load(w, 200);
    for (uint32_t i = 0; i < 10; i++) {
        order(w, new_protect(w, true));
        for (uint32_t n = 0; n < 3; n++) {
            load(w, 50);
            checkpoint(w, 1);
        }
        load(w, 50);
        order(w, new_protect(w, false));
        load(w, 50);
    }
    quiesce(&w->site);
    assert_int_equal(one(w, OR_OP_FLUSH, 0, 0), OR_OK);
    for (uint32_t block = 0; block < BLOCKS; block++)
        assert_int_equal(on_disk(w, block), w->submitted[block]);
    order(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0));
    end_world(w);
}

static void nothing_is_on_the_disk_before_it_is_committed(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    assert_int_equal(one(w, OR_OP_WRITE, 3, 33), OR_OK);
    assert_int_equal(one(w, OR_OP_FLUSH, 0, 0), OR_OK);
    assert_int_equal(on_disk(w, 3), 0);
    uint64_t epoch = order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    assert_int_equal(epoch, 1);
    assert_int_equal(one(w, OR_OP_WRITE, 4, 44), OR_OK);
    assert_int_equal(on_disk(w, 3), 0);
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, epoch));
    wait_applied(w, 1);
    assert_int_equal(on_disk(w, 3), 33);
    assert_int_equal(on_disk(w, 4), 0);
    assert_int_equal(one(w, OR_OP_READ, 4, 0), OR_OK); /* its own */
    struct or_domain_status s = status(w);
    assert_int_equal(s.info.committed, 1);
    assert_int_equal(s.cuts, 1);
    assert_int_equal(s.sync.count, 1);
    assert_int_equal(s.apply.count, 1);
    refused(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, 2), -EINVAL);
    refused(w, of_domain(OR_CMD_DOMAIN_CUT, 2, 0), -ESTALE);
    refused(w, of_volume(w, OR_CMD_VOLUME_CLOSE), -EBUSY);
    refused(w, of_volume(w, OR_CMD_VOLUME_GIVE), -EBUSY);
    refused(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0), -EBUSY);
    end_world(w);
}

static void commits_count_as_syncs_only_what_they_waited_for(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    checkpoint(w, 1); /* holds nothing */
    assert_int_equal(status(w).sync.count, 0);
    assert_int_equal(one(w, OR_OP_WRITE, 1, 1), OR_OK);
    uint64_t epoch = order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, epoch));
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, epoch)); /* is already */
    checkpoint(w, 1);
    struct or_domain_status s = status(w);
    assert_int_equal(s.commits, 4);
    assert_int_equal(s.sync.count, 1);
    end_world(w);
}

static void a_takeover_refuses_the_old_generation_and_drops_what_is_not_committed(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    assert_int_equal(one(w, OR_OP_WRITE, 1, 11), OR_OK);
    checkpoint(w, 1);
    assert_int_equal(one(w, OR_OP_WRITE, 1, 12), OR_OK);
    refused(w, of_domain(OR_CMD_DOMAIN_ABORT, 0, 0), -EBUSY);
    assert_int_equal(order(w, of_domain(OR_CMD_DOMAIN_FENCE, 2, 0)), 1);
    order(w, of_domain(OR_CMD_DOMAIN_ABORT, 0, 0));
    w->fails = true;
    assert_int_equal(one(w, OR_OP_WRITE, 1, 13), OR_EFENCED);
    assert_int_equal(one(w, OR_OP_READ, 1, 0), OR_EFENCED);
    refused(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0), -ESTALE);
    refused(w, new_export(w, 3), -ESTALE);
    order(w, new_export(w, 2)); /* the same attachment, which may run again */
    assert_int_equal(one(w, OR_OP_READ, 1, 0), OR_OK);
    assert_int_equal(*(uint32_t *)(void *)w->requests[0].data, 11);
    assert_int_equal(one(w, OR_OP_WRITE, 2, 22), OR_OK);
    wait_applied(w, checkpoint(w, 2));
    assert_int_equal(on_disk(w, 1), 11);
    assert_int_equal(on_disk(w, 2), 22);
    assert_int_equal(status(w).info.writes_fenced, 2);
    end_world(w);
}

/* The supervisor, whose store is no part of this: the region is kept in the process. */
static void begin_next_engine(struct world *w)
{
    or_engine_close(w->site.workers[0]);
    begin_engine(w);
    struct or_dispatch *host = w->site.dispatch;
    w->site.dispatch = NULL;
    open_volume(w);
    order(w, new_domain(w));
    order(w, new_protect(w, true));
    order(w, new_export(w, 1));
    host_command(&w->site, 0, OR_CMD_HOST_ADMIT);
    w->site.dispatch = host;
}

static void the_next_engine_goes_on_with_what_was_held(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    load(w, 200);
    checkpoint(w, 1);
    load(w, 100);
    order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    load(w, 100);
    begin_next_engine(w);
    assert_int_equal(w->events[OR_DOMAIN_EVENT_REWIND], 0);
    load(w, 100); /* each read is looked at */
    struct or_domain_status s = status(w);
    assert_int_equal(s.info.state, OR_DOMAIN_RUNNING);
    assert_int_equal(s.info.open, 3);
    assert_int_equal(s.info.committed, 1);
    load(w, 100);
    checkpoint(w, 1);
    order(w, new_protect(w, false));
    quiesce(&w->site);
    for (uint32_t block = 0; block < BLOCKS; block++)
        assert_int_equal(on_disk(w, block), w->submitted[block]);
    end_world(w);
}

/* What the answer to a cut or a commit says. */
static bool says_unprotected(struct world *w, struct or_command *c)
{
    c = run_command(&w->site, 0, c);
    bool unprotected = c->unprotected;
    or_command_free(c);
    return unprotected;
}

static void a_domain_without_a_commit_pushes_back_and_says_so(void **state)
{
    (void)state;
    struct world *w = begin_world();
    struct or_command *c = new_domain(w);
    c->size = OR_DOMAIN_BYTES_MIN / 4096 * 4096;
    c->timeout_ms = 20;
    protect(w, c);
    assert_int_equal(one(w, OR_OP_WRITE, 1, 1), OR_OK);
    uint64_t end = wait_end();
    while (!w->events[OR_DOMAIN_EVENT_TIMEOUT] && or_clock_ns() < end)
        status(w);
    assert_int_equal(w->events[OR_DOMAIN_EVENT_TIMEOUT], 1);
    assert_int_equal(status(w).info.committed, 0);
    c = of_domain(OR_CMD_DOMAIN_SET, 0, 0);
    c->has_overflow = true;
    c->overflow = OR_DOMAIN_UNPROTECT;
    order(w, c);
    assert_int_equal(one(w, OR_OP_WRITE, 1, 2), OR_OK);
    while (!status(w).unprotected && or_clock_ns() < end)
        ;
    assert_int_equal(w->events[OR_DOMAIN_EVENT_UNPROTECTED], 1);
    while (on_disk(w, 1) != 2 && or_clock_ns() < end)
        status(w);
    assert_int_equal(on_disk(w, 1), 2);
    c = of_domain(OR_CMD_DOMAIN_SET, 0, 0);
    c->has_timeout = true; /* from the next cut on there is none */
    order(w, c);
    assert_true(says_unprotected(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, status(w).info.open - 1)));
    assert_true(says_unprotected(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0)));
    assert_true(status(w).unprotected); /* until the checkpoint is there */
    assert_false(says_unprotected(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, status(w).info.open - 1)));
    assert_false(status(w).unprotected);
    assert_false(says_unprotected(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0)));
    assert_int_equal(one(w, OR_OP_WRITE, 1, 3), OR_OK);
    order(w, new_protect(w, false)); /* commits what is held, without a checkpoint */
    assert_true(status(w).unprotected);
    checkpoint(w, 1);
    assert_false(status(w).unprotected);
    end_world(w);
}

static void the_next_engine_knows_that_protection_was_dropped(void **state)
{
    (void)state;
    struct world *w = begin_world();
    struct or_command *c = new_domain(w);
    c->overflow = OR_DOMAIN_UNPROTECT;
    c->timeout_ms = 20;
    protect(w, c);
    assert_int_equal(one(w, OR_OP_WRITE, 1, 1), OR_OK);
    for (uint64_t end = wait_end(); on_disk(w, 1) != 1;) {
        assert_true(or_clock_ns() < end);
        status(w);
    }
    begin_next_engine(w);
    assert_true(status(w).unprotected);
    struct or_command *cut = run_command(&w->site, 0, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    assert_true(cut->unprotected);
    begin_next_engine(w);
    assert_true(status(w).unprotected);
    assert_false(says_unprotected(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, cut->epoch)));
    assert_false(status(w).unprotected);
    or_command_free(cut);
    end_world(w);
}

/* Writes to pages up to `pages`, in the epoch that is open. */
static void fill(struct world *w, uint32_t pages)
{
    for (uint32_t page = 0; page < pages; page++)
        assert_int_equal(one(w, OR_OP_WRITE, page * PAGE_BLOCKS, 1), OR_OK);
}

/* A write for which there is no room. */
static void submit_too_much(struct world *w, uint32_t page)
{
    uint64_t overflows = status(w).overflows, end = wait_end();
    submit(w, &w->requests[0], OR_OP_WRITE, page * PAGE_BLOCKS);
    while (status(w).overflows == overflows)
        assert_true(or_clock_ns() < end);
    status(w); /* the step after it has told */
}

static void a_full_domain_says_so_once_until_half_of_it_is_free(void **state)
{
    (void)state;
    struct world *w = begin_world();
    struct or_command *c = new_domain(w);
    c->size = OR_DOMAIN_BYTES_MIN; /* 64 pages */
    protect(w, c);
    uint64_t little = 0, epoch = 0;
    for (uint32_t pages = 8; pages <= 32; pages += 12) { /* 8, 20, 32 */
        fill(w, pages);
        epoch = order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
        little = little ? little : epoch;
    }
    fill(w, 4);
    submit_too_much(w, 4);
    assert_int_equal(w->events[OR_DOMAIN_EVENT_OVERFLOW], 1);
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, little));
    quiesce(&w->site);
    fill(w, 12);
    submit_too_much(w, 12);
    assert_int_equal(w->events[OR_DOMAIN_EVENT_OVERFLOW], 1);
    order(w, of_domain(OR_CMD_DOMAIN_COMMIT, 1, epoch));
    wait_applied(w, epoch);
    quiesce(&w->site);
    fill(w, 32);
    order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    fill(w, 32);
    order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    submit_too_much(w, 0);
    assert_int_equal(w->events[OR_DOMAIN_EVENT_OVERFLOW], 2);
    checkpoint(w, 1);
    quiesce(&w->site);
    end_world(w);
}

static void a_journal_of_another_domain_is_refused(void **state)
{
    (void)state;
    struct world *w = begin_world();
    order(w, new_domain(w));
    struct or_command *c = of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0);
    c->forget = true;
    order(w, c);
    c = new_domain(w);
    c->id = domain + 1;
    refused(w, c, -EBADMSG);
    int fd = open(path_of(w, "journal"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "damaged", 7, 0), 7);
    assert_int_equal(pwrite(fd, "damaged", 7, 4096), 7);
    close(fd);
    refused(w, new_domain(w), -EBADMSG);
    c = new_domain(w);
    c->size = 64ull << 20;
    refused(w, c, -EFBIG);
    end_world(w);
}

/* Not reaped yet. */
static void submit_command(struct world *w, struct or_command *c)
{
    assert_int_equal(or_engine_submit(w->site.workers[0], c), 0);
}

/* It comes while the fence is under way, or when that is done, which the abort then hears. */
static void a_commit_that_comes_with_a_fence_keeps_nothing_that_is_aborted(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    for (uint64_t generation = 2; generation < 12; generation++) {
        uint64_t epoch = 0;
        for (uint32_t n = 0; n < 3; n++) {
            assert_int_equal(one(w, OR_OP_WRITE, n, n), OR_OK);
            epoch = order(w, of_domain(OR_CMD_DOMAIN_CUT, 0, 0));
        }
        submit_command(w, of_domain(OR_CMD_DOMAIN_FENCE, generation, 0));
        submit_command(w, of_domain(OR_CMD_DOMAIN_COMMIT, 0, epoch)); /* of the present generation */
        int committed = 1, aborted = 1;
        uint64_t resume = 0;
        while (committed == 1 || aborted == 1) {
            struct or_command *c = next_command(&w->site, 0);
            assert_non_null(c);
            if (c->type == OR_CMD_DOMAIN_COMMIT) {
                committed = c->error;
            } else if (c->type == OR_CMD_DOMAIN_ABORT) {
                aborted = c->error;
            } else {
                assert_int_equal(c->error, 0);
                resume = c->epoch;
                submit_command(w, of_domain(OR_CMD_DOMAIN_ABORT, 0, 0));
            }
            or_command_free(c);
        }
        struct or_domain_info info = status(w).info;
        assert_true(committed == 0 || committed == -EAGAIN);
        assert_int_equal(aborted, committed ? 0 : -EBUSY);
        assert_int_equal(info.committed, committed ? resume : epoch);
        assert_int_equal(info.open, info.committed + 1);
        order(w, new_export(w, generation));
    }
    end_world(w);
}

/* Protection is dropped when the takeover is decided already. */
static void nothing_is_committed_by_itself_between_a_fence_and_the_abort(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    assert_int_equal(one(w, OR_OP_WRITE, 1, 1), OR_OK);
    order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    assert_int_equal(one(w, OR_OP_WRITE, 1, 2), OR_OK);
    order(w, of_domain(OR_CMD_DOMAIN_FENCE, 2, 0));
    struct or_command *c = of_domain(OR_CMD_DOMAIN_SET, 0, 0);
    c->has_overflow = c->has_timeout = true;
    c->overflow = OR_DOMAIN_UNPROTECT;
    c->timeout_ms = 1;
    order(w, c);
    uint64_t end = wait_end();
    for (; !w->events[OR_DOMAIN_EVENT_UNPROTECTED]; status(w))
        assert_true(or_clock_ns() < end);
    order(w, of_domain(OR_CMD_DOMAIN_ABORT, 0, 0));
    assert_int_equal(status(w).info.committed, 0);
    order(w, new_export(w, 2));
    assert_int_equal(one(w, OR_OP_WRITE, 2, 3), OR_OK);
    for (; on_disk(w, 2) != 3; status(w))
        assert_true(or_clock_ns() < end);
    assert_int_equal(on_disk(w, 1), 0);
    end_world(w);
}

/* The volume below would be the fenced host's. */
static void a_volume_does_not_leave_under_a_fence_what_that_has_fenced(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    for (uint64_t generation = 2; generation < 12; generation++) {
        assert_int_equal(one(w, OR_OP_WRITE, 1, 1), OR_OK);
        if (generation % 2)
            order(w, of_domain(OR_CMD_DOMAIN_CUT, 0, 0));
        submit_command(w, new_protect(w, false));
        submit_command(w, of_domain(OR_CMD_DOMAIN_FENCE, generation, 0));
        bool fenced = false, left = false;
        for (uint32_t n = 0; n < 2; n++) {
            struct or_command *c = next_command(&w->site, 0);
            assert_non_null(c);
            if (c->type == OR_CMD_DOMAIN_FENCE)
                fenced = c->error == 0;
            else
                left = c->error == 0;
            assert_false(c->type != OR_CMD_DOMAIN_FENCE && fenced && left);
            or_command_free(c);
        }
        assert_true(fenced);
        if (left) { /* before the fence */
            struct or_command *c = new_protect(w, true);
            c->domain_generation = generation;
            order(w, c);
        } else {
            w->fails = true;
            assert_int_equal(one(w, OR_OP_WRITE, 1, 2), OR_EFENCED);
            w->fails = false;
            order(w, new_export(w, generation));
        }
    }
    end_world(w);
}

/* A volume is in use, or has something held: neither hinders, or is lost by, a domain that closes. */
static void a_domain_is_closed_without_its_exports_and_keeps_what_it_holds(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    assert_int_equal(one(w, OR_OP_WRITE, 1, 11), OR_OK);
    wait_applied(w, checkpoint(w, 1));
    assert_int_equal(one(w, OR_OP_WRITE, 1, 12), OR_OK);
    order(w, of_domain(OR_CMD_DOMAIN_CUT, 1, 0));
    assert_int_equal(one(w, OR_OP_WRITE, 2, 13), OR_OK);
    refused(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0), -EBUSY); /* it is exported */
    assert_int_equal(one(w, OR_OP_READ, 1, 0), OR_OK);
    struct or_command *c = or_command_new(OR_CMD_EXPORT_REMOVE);
    c->id = w->volume.id;
    order(w, c);
    order(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0));
    refused(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0), -ENOENT);
    assert_int_equal(on_disk(w, 1), 11);
    assert_int_equal(on_disk(w, 2), 0);
    open_volume(w);
    order(w, new_domain(w));
    order(w, new_protect(w, true));
    order(w, new_export(w, 1));
    assert_int_equal(one(w, OR_OP_READ, 1, 0), OR_OK);
    assert_int_equal(*(uint32_t *)(void *)w->requests[0].data, 12);
    assert_int_equal(status(w).info.open, 3);
    wait_applied(w, checkpoint(w, 1));
    assert_int_equal(on_disk(w, 1), 12);
    assert_int_equal(on_disk(w, 2), 13);
    end_world(w);
}

/* Commands that come while it closes, or are there already. */
static void nothing_begins_with_a_volume_whose_domain_closes(void **state)
{
    (void)state;
    struct world *w = begin_world();
    for (uint32_t round = 0; round < 10; round++) {
        order(w, new_domain(w));
        order(w, new_protect(w, true));
        submit_command(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0));
        submit_command(w, new_export(w, 1));
        submit_command(w, new_protect(w, false));
        submit_command(w, of_volume(w, OR_CMD_VOLUME_FLUSH));
        for (uint32_t n = 0; n < 4; n++) {
            struct or_command *c = next_command(&w->site, 0);
            assert_non_null(c);
            bool closes = c->type == OR_CMD_DOMAIN_CLOSE;
            assert_true(closes ? !c->error : c->error == -EBUSY || c->error == -ENOENT);
            or_command_free(c);
        }
        open_volume(w);
    }
    end_world(w);
}

/* As when its journal is damaged: nobody could close it otherwise. */
static void a_domain_that_is_not_open_can_be_forgotten(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    load(w, 100);
    quiesce(&w->site);
    checkpoint(w, 1);
    or_engine_close(w->site.workers[0]);
    begin_engine(w);
    refused(w, of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0), -ENOENT);
    for (uint32_t again = 0; again < 2; again++) {
        struct or_command *c = of_domain(OR_CMD_DOMAIN_CLOSE, 0, 0);
        c->forget = true;
        order(w, c);
    }
    order(w, new_domain(w));
    assert_int_equal(status(w).info.state, OR_DOMAIN_REWIND); /* without its region */
    end_world(w);
}

/* What a cut seals has the committed epochs only, and the head what comes after. */
static void a_snapshot_of_a_protected_volume_is_of_the_boundary_of_an_epoch(void **state)
{
    (void)state;
    struct world *w = begin_protected();
    char why[OR_WHY_MAX];
    load(w, 200);
    quiesce(&w->site);
    assert_int_equal(one(w, OR_OP_WRITE, 5, 55), OR_OK);
    wait_applied(w, checkpoint(w, 1));
    assert_int_equal(one(w, OR_OP_WRITE, 5, 56), OR_OK);
    struct or_command *c = of_volume(w, OR_CMD_VOLUME_CUT);
    assert_int_equal(or_layer_file_create(path_of(w, "overlay"), SIZE, 9, 0, why), 0);
    c->layers = calloc(1, sizeof *c->layers);
    struct or_layer_place place = {.path = path_of(w, "overlay"), .content = 9, .use = OR_LAYER_HEAD};
    assert_int_equal(or_layer_file_open(&place, 0, c->layers, why), 0);
    c->layer_count = 1;
    w->site.quiet = false;
    order(w, c);
    load(w, 200);
    quiesce(&w->site);
    assert_int_equal(one(w, OR_OP_WRITE, 5, 57), OR_OK);
    wait_applied(w, checkpoint(w, 1));
    assert_int_equal(on_disk(w, 5), 55);
    assert_int_equal(one(w, OR_OP_READ, 5, 0), OR_OK);
    assert_int_equal(*(uint32_t *)(void *)w->requests[0].data, 57);
    order(w, of_volume(w, OR_CMD_VOLUME_FLUSH));
    order(w, new_protect(w, false));
    assert_int_equal(one(w, OR_OP_READ, 5, 0), OR_OK);
    assert_int_equal(*(uint32_t *)(void *)w->requests[0].data, 57);
    unlink(path_of(w, "overlay"));
    end_world(w);
}

int main(void)
{
    if (!isolate())
        return 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_on_the_disk_before_it_is_committed),
        cmocka_unit_test(commits_count_as_syncs_only_what_they_waited_for),
        cmocka_unit_test(protection_comes_and_goes_under_load_and_loses_nothing),
        cmocka_unit_test(a_takeover_refuses_the_old_generation_and_drops_what_is_not_committed),
        cmocka_unit_test(a_commit_that_comes_with_a_fence_keeps_nothing_that_is_aborted),
        cmocka_unit_test(nothing_is_committed_by_itself_between_a_fence_and_the_abort),
        cmocka_unit_test(a_volume_does_not_leave_under_a_fence_what_that_has_fenced),
        cmocka_unit_test(the_next_engine_goes_on_with_what_was_held),
        cmocka_unit_test(a_domain_without_a_commit_pushes_back_and_says_so),
        cmocka_unit_test(a_snapshot_of_a_protected_volume_is_of_the_boundary_of_an_epoch),
        cmocka_unit_test(a_domain_is_closed_without_its_exports_and_keeps_what_it_holds),
        cmocka_unit_test(nothing_begins_with_a_volume_whose_domain_closes),
        cmocka_unit_test(the_next_engine_knows_that_protection_was_dropped),
        cmocka_unit_test(a_full_domain_says_so_once_until_half_of_it_is_free),
        cmocka_unit_test(a_journal_of_another_domain_is_refused),
        cmocka_unit_test(a_domain_that_is_not_open_can_be_forgotten)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
