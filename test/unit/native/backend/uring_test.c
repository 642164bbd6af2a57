/* The ring as a worker uses it: it wakes a sleeping epoll, makes no system call while idle, takes more
 * operations than it has entries, may be created on another thread, registers the memory it was lent; and
 * what is under way keeps the volume locked after its process died. */
#include "volume_fixture.h"

#include <linux/fs.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PIECE 4096u

static void completions_wake_a_sleeping_epoll(void **state)
{
    (void)state;
    for (enum fixture_kind kind = KIND_DIRECT; kind <= KIND_LOOP; kind++) {
        struct fixture *fx = fixture_open(kind, 8);
        uint8_t *buffer = buffer_new(MIB);
        memset(buffer, 0x11, MIB);
        /* run() fails when epoll_wait times out. Reads end in the disk's interrupt, writes to holes and
         * flushes in kernel worker threads, cached reads before the submission returns. */
        for (uint32_t i = 0; i < 8; i++) {
            assert_int_equal(run(fx, OR_OP_WRITE, 0, i * MIB, MIB, buffer), OR_OK);
            assert_int_equal(run(fx, OR_OP_FLUSH, 0, 0, 0, NULL), OR_OK);
            assert_int_equal(run(fx, OR_OP_READ, 0, i * MIB, 4096, buffer), OR_OK);
        }
        /* And it lets it sleep again. */
        struct epoll_event event;
        assert_int_equal(or_uring_poll(fx->uring), 0);
        assert_int_equal(epoll_wait(fx->epoll_fd, &event, 1, 0), 0);
        free(buffer);
        fixture_close(fx);
    }
}

static void what_ended_before_the_ring_was_armed_is_not_slept_over(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    uint8_t *buffer = buffer_new(PIECE);
    struct task task;
    memset(buffer, 0x22, PIECE);
    assert_int_equal(run(fx, OR_OP_WRITE, OR_REQ_FUA, 0, PIECE, buffer), OR_OK); /* reading a hole ends at once */
    task_start(fx, &task, OR_OP_READ, 0, 0, PIECE, buffer);
    while (or_uring_poll(fx->uring) == 0 && !task.done) {
        usleep(20000); /* by now it has ended in the kernel, mostly */
        bool work = or_uring_arm(fx->uring);
        struct epoll_event event;
        int ready = work ? 1 : epoll_wait(fx->epoll_fd, &event, 1, STUCK_MS);
        or_uring_disarm(fx->uring);
        assert_true(ready == 1 || (ready < 0 && errno == EINTR));
    }
    assert_int_equal(task_wait(fx, &task), OR_OK);
    /* Nothing is left that would end the next sleep at once. */
    struct epoll_event event;
    assert_false(or_uring_arm(fx->uring));
    assert_int_equal(epoll_wait(fx->epoll_fd, &event, 1, 0), 0);
    or_uring_disarm(fx->uring);
    free(buffer);
    fixture_close(fx);
}

static void an_idle_poll_makes_no_system_call(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    uint8_t *buffer = buffer_new(PIECE);
    assert_int_equal(run(fx, OR_OP_READ, 0, 0, PIECE, buffer), OR_OK);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* From here on the kernel kills the process for any call but exit. */
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        uint32_t ended = 0;
        for (uint32_t i = 0; i < 1000; i++) {
            ended += or_uring_poll(fx->uring);
        }
        syscall(SYS_exit, ended == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    free(buffer);
    fixture_close(fx);
}

/* An operation that submits another from done(), until a count is reached. */
struct chain {
    struct task task;
    struct fixture *fx;
    uint32_t left;
};

static void chain_next(struct or_io *io)
{
    struct chain *chain = (struct chain *)io;
    if (chain->left == 0) {
        chain->task.done++;
        return;
    }
    chain->left--;
    or_volume_submit(chain->fx->volume, io);
}

static void operations_submitted_from_done_run(void **state)
{
    enum { CHAINS = 40 };
    static struct chain chains[CHAINS];
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 4);
    uint8_t *buffer = buffer_new(CHAINS * PIECE);
    for (uint32_t i = 0; i < CHAINS; i++) {
        chains[i] = (struct chain){.task.io = {.op = i % 4 ? OR_OP_READ : OR_OP_FLUSH,
                                               .offset = i * PIECE,
                                               .length = PIECE,
                                               .data = buffer + i * PIECE,
                                               .done = chain_next},
                                   .fx = fx,
                                   .left = 50};
        or_volume_submit(fx->volume, &chains[i].task.io);
    }
    for (uint32_t i = 0; i < CHAINS; i++) {
        assert_int_equal(task_wait(fx, &chains[i].task), OR_OK);
    }
    assert_false(or_uring_busy(fx->uring));
    free(buffer);
    fixture_close(fx);
}

/* Notes how many operations got an entry before `patient` did. */
static struct {
    void (*prepare)(struct or_io *io, struct io_uring_sqe *sqe);
    struct or_io *patient;
    uint32_t before;
    bool started;
} order;

static void note_order(struct or_io *io, struct io_uring_sqe *sqe)
{
    order.started |= io == order.patient;
    order.before += !order.started;
    order.prepare(io, sqe);
}

static void what_waits_for_room_is_not_overtaken(void **state)
{
    enum { GREEDY = 8 };
    static struct chain greedy[GREEDY];
    static struct task patient;
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 1);
    uint8_t *buffer = buffer_new(PIECE);
    struct or_uring_volume *volume = (struct or_uring_volume *)fx->volume;
    order.prepare = volume->prepare;
    order.patient = &patient.io;
    volume->prepare = note_order;
    for (uint32_t i = 0; i < GREEDY; i++) {
        greedy[i] = (struct chain){
            .task.io = {.op = OR_OP_READ, .length = PIECE, .data = buffer, .done = chain_next}, .fx = fx, .left = 20};
        or_volume_submit(fx->volume, &greedy[i].task.io);
    }
    task_start(fx, &patient, OR_OP_READ, 0, 0, PIECE, buffer);
    assert_int_equal(task_wait(fx, &patient), OR_OK);
    assert_int_equal(order.before, GREEDY);
    for (uint32_t i = 0; i < GREEDY; i++) {
        assert_int_equal(task_wait(fx, &greedy[i].task), OR_OK);
    }
    free(buffer);
    fixture_close(fx);
}

static void *serve(void *arg)
{
    struct fixture *fx = arg;
    uint8_t *buffer = buffer_new(PIECE);
    memset(buffer, 0x33, PIECE);
    uint8_t wrote = run(fx, OR_OP_WRITE, 0, 0, PIECE, buffer);
    uint8_t flushed = run(fx, OR_OP_FLUSH, 0, 0, 0, NULL);
    free(buffer);
    return wrote == OR_OK && flushed == OR_OK ? fx : NULL;
}

static void a_ring_may_be_created_on_another_thread(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    pthread_t thread;
    void *result;
    assert_int_equal(pthread_create(&thread, NULL, serve, fx), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, fx);
    fixture_close(fx);
}

static void an_impossible_ring_is_an_error(void **state)
{
    int err = 0;
    (void)state;
    assert_null(or_uring_create(1u << 30, &err));
    assert_int_equal(err, -EINVAL);
}

/* Three pieces of memory, lent to the ring. */
#define LENT_BYTES (3ull * OR_URING_PIECE)

static uint8_t *lend(struct or_uring *uring)
{
    uint8_t *map = mmap(NULL, LENT_BYTES + OR_URING_PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    uint8_t *lent = map + (OR_URING_PIECE - (uintptr_t)map % OR_URING_PIECE) % OR_URING_PIECE;
    or_uring_lend(uring, lent, LENT_BYTES);
    return lent;
}

/* Writes `bytes` random bytes out of memory, reads them back into it. */
static void assert_round_trip(struct fixture *fx, uint8_t *memory, uint32_t bytes, uint8_t flags)
{
    uint8_t *copy = buffer_new(bytes);
    fill_random(memory, bytes);
    memcpy(copy, memory, bytes);
    assert_int_equal(run(fx, OR_OP_WRITE, flags, MIB, bytes, memory), OR_OK);
    memset(memory, 0, bytes);
    assert_int_equal(run(fx, OR_OP_READ, 0, MIB, bytes, memory), OR_OK);
    assert_memory_equal(memory, copy, bytes);
    free(copy);
}

static void lent_memory_is_pinned_when_it_is_used(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    uint8_t *lent = lend(fx->uring), *own = buffer_new(MIB);
    if (or_uring_stats(fx->uring).pin_error == -EINVAL) {
        print_message("this kernel has no sparse tables of buffers\n");
        fixture_close(fx);
        skip();
    }
    assert_true(or_uring_stats(fx->uring).pinned_bytes == 0);
    assert_round_trip(fx, lent + OR_URING_PIECE, MIB, 0);
    assert_round_trip(fx, lent + OR_URING_PIECE + MIB, MIB, OR_REQ_FUA);
    assert_true(or_uring_stats(fx->uring).pinned_bytes == OR_URING_PIECE);
    assert_int_equal(or_uring_buffer(fx->uring, lent + OR_URING_PIECE, OR_URING_PIECE), 1);
    /* What is not whole in one piece goes as if nothing had been lent. */
    assert_int_equal(or_uring_buffer(fx->uring, lent + OR_URING_PIECE, OR_URING_PIECE + 1), -1);
    assert_int_equal(or_uring_buffer(fx->uring, lent - 1, 1), -1);
    assert_int_equal(or_uring_buffer(fx->uring, lent + LENT_BYTES, 1), -1);
    assert_round_trip(fx, lent + OR_URING_PIECE - PIECE, MIB, 0);
    assert_round_trip(fx, own, MIB, 0);
    assert_true(or_uring_stats(fx->uring).pinned_bytes == OR_URING_PIECE);
    assert_int_equal(or_uring_stats(fx->uring).pin_error, 0);
    free(own);
    fixture_close(fx);
}

static void a_cached_file_pins_nothing(void **state)
{
    (void)state;
    struct fixture *fx = fixture_open(KIND_BUFFERED, 8);
    assert_round_trip(fx, lend(fx->uring), MIB, 0);
    assert_true(or_uring_stats(fx->uring).pinned_bytes == 0);
    fixture_close(fx);
}

/* In a process of its own, because it gives up its rights. */
static void run_without_rights(void)
{
    const struct rlimit little = {OR_URING_PIECE, OR_URING_PIECE};
    struct fixture *fx = fixture_open(KIND_DIRECT, 8);
    struct or_uring *with_rights = fx->uring;
    int err;
    if (setrlimit(RLIMIT_MEMLOCK, &little) != 0 || setresuid(65534, 65534, 65534) != 0) {
        _exit(1);
    }
    fx->uring = ((struct or_uring_volume *)fx->volume)->uring = or_uring_create(8, &err);
    struct epoll_event event = {.events = EPOLLIN};
    if (!fx->uring || epoll_ctl(fx->epoll_fd, EPOLL_CTL_ADD, or_uring_fd(fx->uring), &event) != 0) {
        _exit(2);
    }
    uint8_t *lent = lend(fx->uring);
    for (uint32_t piece = 0; piece < 3; piece++) {
        assert_round_trip(fx, lent + piece * OR_URING_PIECE, MIB, 0);
    }
    struct or_uring_stats stats = or_uring_stats(fx->uring);
    or_uring_destroy(with_rights);
    unlink(fx->path);
    _exit(stats.pinned_bytes < LENT_BYTES && stats.pin_error == -ENOMEM ? 0 : 3);
}

static void what_the_kernel_does_not_let_us_pin_is_no_obstacle(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        run_without_rights();
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int shell(const char *format, const char *first, const char *second)
{
    char command[2000];
    snprintf(command, sizeof(command), format, first, second);
    return system(command);
}

/* A file system of its own, which can be frozen: a write then stays with the kernel for as long as the
 * test likes. */
struct freezer {
    struct fixture *fx; /* its file holds the file system */
    char dir[600];
    char volume[700];
    int dir_fd;
};

static void freezer_close(struct freezer *freezer)
{
    if (freezer->dir_fd >= 0) {
        close(freezer->dir_fd);
        assert_int_equal(shell("umount %s%s", freezer->dir, ""), 0);
    }
    rmdir(freezer->dir);
    fixture_close(freezer->fx);
}

static void freezer_open(struct freezer *freezer)
{
    freezer->fx = fixture_open(KIND_DIRECT, 8);
    freezer->dir_fd = -1;
    snprintf(freezer->dir, sizeof(freezer->dir), "%s.d", freezer->fx->path);
    snprintf(freezer->volume, sizeof(freezer->volume), "%s/volume", freezer->dir);
    assert_int_equal(mkdir(freezer->dir, 0700), 0);
    if (shell("mkfs.ext4 -qF %1$s && mount -o loop %1$s %2$s", freezer->fx->path, freezer->dir) != 0) {
        print_message("cannot make and mount a file system\n");
        freezer_close(freezer);
        skip();
    }
    freezer->dir_fd = open(freezer->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(freezer->dir_fd >= 0);
    assert_int_equal(shell("head -c %2$s /dev/zero > %1$s && sync %1$s", freezer->volume, "1048576"), 0);
}

/* An engine that locks the volume, submits a write once it is told to go, says so, and never ends by
 * itself. */
static void engine(const char *path, int go, int say)
{
    int err;
    char byte = 0;
    struct or_uring *uring = or_uring_create(8, &err);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (!uring || fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0) {
        _exit(1);
    }
    struct or_volume *volume = or_volume_file(uring, fd, false, &err);
    static uint8_t data[PIECE] __attribute__((aligned(BUFFER_ALIGN)));
    static struct task task = {.io = {.op = OR_OP_WRITE, .length = PIECE, .data = data, .done = count_done}};
    if (!volume || write(say, &byte, 1) != 1 || read(go, &byte, 1) != 1) {
        _exit(2);
    }
    or_volume_submit(volume, &task.io);
    or_uring_poll(uring);
    byte = (char)task.done;
    if (write(say, &byte, 1) != 1) {
        _exit(3);
    }
    for (;;) {
        pause();
    }
}

static void what_is_under_way_keeps_the_lock_of_a_killed_engine(void **state)
{
    struct freezer freezer;
    int go[2];
    int say[2];
    char byte = 0;
    (void)state;
    freezer_open(&freezer);
    assert_int_equal(pipe(go) | pipe(say), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        engine(freezer.volume, go[0], say[1]);
    }
    assert_int_equal(read(say[0], &byte, 1), 1);
    int successor = open(freezer.volume, O_RDWR | O_CLOEXEC);
    assert_true(successor >= 0);
    assert_int_equal(ioctl(freezer.dir_fd, FIFREEZE, 0), 0);
    assert_int_equal(write(go[1], &byte, 1), 1);
    assert_int_equal(read(say[0], &byte, 1), 1);
    bool under_way = byte == 0;
    kill(child, SIGKILL);
    bool locked = true;
    for (uint32_t i = 0; i < 30 && locked; i++) {
        locked = flock(successor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        usleep(10000);
    }
    assert_int_equal(ioctl(freezer.dir_fd, FITHAW, 0), 0);
    /* Only now, lest the file system stays frozen. */
    assert_true(under_way);
    assert_true(locked);
    assert_int_equal(flock(successor, LOCK_EX), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(successor);
    for (int end = 0; end < 2; end++) {
        close(go[end]);
        close(say[end]);
    }
    freezer_close(&freezer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completions_wake_a_sleeping_epoll),
        cmocka_unit_test(what_ended_before_the_ring_was_armed_is_not_slept_over),
        cmocka_unit_test(an_idle_poll_makes_no_system_call),
        cmocka_unit_test(operations_submitted_from_done_run),
        cmocka_unit_test(what_waits_for_room_is_not_overtaken),
        cmocka_unit_test(a_ring_may_be_created_on_another_thread),
        cmocka_unit_test(an_impossible_ring_is_an_error),
        cmocka_unit_test(lent_memory_is_pinned_when_it_is_used),
        cmocka_unit_test(a_cached_file_pins_nothing),
        cmocka_unit_test(what_the_kernel_does_not_let_us_pin_is_no_obstacle),
        cmocka_unit_test(what_is_under_way_keeps_the_lock_of_a_killed_engine),
    };
    return cmocka_run_group_tests_name("uring", tests, NULL, NULL);
}
