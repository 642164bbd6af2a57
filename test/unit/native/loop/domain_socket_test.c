/* The socket of a protection domain: cuts and commits, and what clients do that they should not. Needs root, for the
 * link. */
#include "protect_world.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct record {
    uint8_t op, zeroes[3];
    uint32_t tag;
    uint64_t generation, epoch, zero;
};

struct answer {
    int32_t error;
    uint32_t tag;
    uint64_t generation, epoch, open, committed;
    uint32_t flags, zero;
};

static struct world *begin(void)
{
    struct world *w = begin_world();
    struct or_command *c = new_domain(w);
    strcpy(c->path, path_of(w, "socket"));
    order(w, c);
    return w;
}

static int dial(const struct world *w)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {WAIT_MS_MAX / 1000, 0};
    strcpy(address.sun_path, path_of(w, "socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    return fd;
}

static void say(int fd, uint8_t op, uint32_t tag, uint64_t generation, uint64_t epoch)
{
    struct record r = {.op = op, .tag = tag, .generation = generation, .epoch = epoch};
    assert_int_equal(send(fd, &r, sizeof r, MSG_NOSIGNAL), sizeof r);
}

static struct answer hear(int fd)
{
    struct answer a;
    assert_int_equal(recv(fd, &a, sizeof a, MSG_WAITALL), sizeof a);
    return a;
}

static void assert_closed(int fd)
{
    char byte;
    assert_true(recv(fd, &byte, 1, 0) <= 0);
    close(fd);
}

static void epochs_are_cut_and_committed(void **state)
{
    (void)state;
    struct world *w = begin();
    struct stat st;
    assert_int_equal(stat(path_of(w, "socket"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    int fd = dial(w);
    say(fd, 1, 71, 1, 0);
    struct answer a = hear(fd);
    assert_int_equal(a.error, 0);
    assert_int_equal(a.tag, 71);
    assert_int_equal(a.generation, 1);
    assert_int_equal(a.epoch, 1);
    assert_int_equal(a.open, 2);
    say(fd, 2, 72, 0, 1); /* of the present generation */
    a = hear(fd);
    assert_int_equal(a.error, 0);
    assert_int_equal(a.tag, 72);
    assert_int_equal(a.committed, 1);
    say(fd, 1, 73, 9, 0);
    assert_int_equal(hear(fd).error, ESTALE);
    say(fd, 2, 74, 1, 2);
    assert_int_equal(hear(fd).error, EINVAL);
    say(fd, 3, 75, 0, 0);
    a = hear(fd);
    assert_int_equal(a.error, 0);
    assert_int_equal(a.open, 2);
    close(fd);
    struct or_domain_status s = status(w);
    assert_int_equal(s.cuts, 1);
    assert_int_equal(s.commits, 1);
    end_world(w);
}

static void policy(struct world *w, enum or_domain_overflow overflow)
{
    struct or_command *c = of_domain(OR_CMD_DOMAIN_SET, 0, 0);
    c->has_overflow = c->has_timeout = true;
    c->overflow = overflow;
    c->timeout_ms = overflow == OR_DOMAIN_UNPROTECT ? 1 : 0;
    order(w, c);
}

static struct answer ask(int fd, uint8_t op, uint64_t epoch)
{
    say(fd, op, 0, 0, epoch);
    struct answer a = hear(fd);
    assert_int_equal(a.error, 0);
    return a;
}

static void answers_say_that_protection_was_dropped(void **state)
{
    (void)state;
    struct world *w = begin();
    int fd = dial(w);
    uint64_t end = or_clock_ns() + WAIT_MS_MAX * 1000000ull;
    assert_int_equal(ask(fd, 1, 0).flags, 0);
    policy(w, OR_DOMAIN_UNPROTECT); /* nobody commits the epoch */
    while (!ask(fd, 3, 0).flags)
        assert_true(or_clock_ns() < end);
    policy(w, OR_DOMAIN_PUSH_BACK);
    assert_int_equal(ask(fd, 2, 1).flags, 1);
    assert_int_equal(ask(fd, 1, 0).flags, 1);
    assert_int_equal(ask(fd, 2, 2).flags, 0);
    assert_int_equal(ask(fd, 1, 0).flags, 0);
    assert_int_equal(ask(fd, 3, 0).flags, 0);
    close(fd);
    end_world(w);
}

static void what_makes_no_sense_ends_the_connection(void **state)
{
    (void)state;
    struct world *w = begin();
    for (uint32_t n = 0; n < 4; n++) {
        struct record r = {.op = n == 0 ? 0 : n == 1 ? 4 : 1, .zero = n == 2, .epoch = n == 3};
        int fd = dial(w);
        assert_int_equal(send(fd, &r, sizeof r, 0), sizeof r);
        assert_closed(fd);
    }
    int fd = dial(w); /* half a record */
    assert_int_equal(send(fd, "half", 4, 0), 4);
    close(fd);
    assert_int_equal(status(w).records_bad, 4);
    end_world(w);
}

/* Many records at once, none of whose answers is taken for long; and some clients that go while commits are under way.
 */
static void clients_that_ask_and_do_not_listen_are_bounded(void **state)
{
    (void)state;
    struct world *w = begin();
    int fds[20];
    for (uint32_t n = 0; n < 20; n++)
        fds[n] = dial(w);
    for (uint32_t n = 16; n < 20; n++)
        assert_closed(fds[n]);
    assert_int_equal(status(w).connections, 16);
    for (uint32_t i = 0; i < 500; i++)
        say(fds[0], 3, i, 0, 0);
    for (uint32_t i = 0; i < 500; i++)
        assert_int_equal(hear(fds[0]).tag, i);
    for (uint32_t n = 1; n < 16; n++) {
        say(fds[n], 1, 0, 0, 0);
        for (uint32_t i = 0; i < 100; i++)
            say(fds[n], 2, i, 0, n);
        close(fds[n]);
    }
    uint64_t end = wait_end();
    while (status(w).connections > 1)
        assert_true(or_clock_ns() < end);
    say(fds[0], 3, 7, 0, 0);
    assert_int_equal(hear(fds[0]).tag, 7);
    close(fds[0]);
    end_world(w);
}

int main(void)
{
    if (!isolate())
        return 0;
    const struct CMUnitTest tests[] = {cmocka_unit_test(epochs_are_cut_and_committed),
                                       cmocka_unit_test(answers_say_that_protection_was_dropped),
                                       cmocka_unit_test(what_makes_no_sense_ends_the_connection),
                                       cmocka_unit_test(clients_that_ask_and_do_not_listen_are_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
