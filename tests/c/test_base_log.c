/* One call is one line to the one receiver that is set, from any thread and while it is being changed. */
#include "tests/c/check.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { WRITERS = 3, LINES = 3000, MAGIC = 0x600d };

static struct {
    int count, level;
    char line[2048];
} last;

static void capture(void *ctx, int level, const char *line)
{
    CHECK(ctx == &last);
    last.count++;
    last.level = level;
    snprintf(last.line, sizeof last.line, "%s", line);
}

static void start(enum sv_log_level most_verbose)
{
    memset(&last, 0, sizeof last);
    sv_log_set(capture, &last, most_verbose);
}

static void level_and_text_arrive(void)
{
    start(SV_LOG_DEBUG);
    sv_log(SV_LOG_WARNING, "%s has %d", "alice", 7);
    CHECK_EQ(last.count, 1);
    CHECK_EQ(last.level, SV_LOG_WARNING);
    CHECK_STR(last.line, "alice has 7");
}

static void more_verbose_lines_are_left_out(void)
{
    for (int most = SV_LOG_ERROR; most <= SV_LOG_DEBUG; most++) {
        start((enum sv_log_level)most);
        for (int level = SV_LOG_ERROR; level <= SV_LOG_DEBUG; level++) {
            sv_log((enum sv_log_level)level, "x");
        }
        CHECK_EQ(last.count, most + 1);
        CHECK_EQ(last.level, most);
    }
}

static void stays_one_line(void)
{
    char big[5000];

    start(SV_LOG_DEBUG);
    sv_log(SV_LOG_INFO, "%s", "one\ntwo\r\x1b[2Jthree\x7f");
    CHECK_STR(last.line, "one two  [2Jthree ");
    memset(big, 'y', sizeof big);
    big[sizeof big - 1] = '\0';
    sv_log(SV_LOG_INFO, "%s", big);
    CHECK_EQ(strlen(last.line), 1023);
}

static void errno_is_left_alone(void)
{
    start(SV_LOG_DEBUG);
    errno = ENOENT;
    sv_log(SV_LOG_INFO, "%ls", L"\x110000");
    CHECK_EQ(errno, ENOENT);
}

static void without_receiver_to_stderr(void)
{
    int ends[2];
    int real = dup(2);
    char text[200] = "";

    CHECK_EQ(pipe(ends), 0);
    dup2(ends[1], 2);
    sv_log_set(NULL, NULL, SV_LOG_INFO);
    sv_log(SV_LOG_ERROR, "disk %d", 3);
    sv_log(SV_LOG_INFO, "up");
    sv_log(SV_LOG_DEBUG, "hidden");
    dup2(real, 2);
    close(real);
    close(ends[1]);
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    for (size_t used = strlen(text); read(ends[0], text + used, sizeof text - 1 - used) > 0;) {
        used = strlen(text);
    }
    close(ends[0]);
    CHECK_STR(text, "smartvpn: error: disk 3\nsmartvpn: info: up\n");
}

static void one_line_a_second(void)
{
    struct sv_log_limit limit = {0};
    const uint64_t at = 5 * SV_NS_PER_S;

    start(SV_LOG_INFO);
    sv_log_limited(&limit, at, SV_LOG_INFO, "bad frame from %d", 1);
    CHECK_STR(last.line, "bad frame from 1");
    for (uint64_t i = 1; i <= 40; i++) {
        sv_log_limited(&limit, at + i, SV_LOG_INFO, "bad frame from %d", 2);
    }
    sv_log_limited(&limit, at + SV_NS_PER_S - 1, SV_LOG_INFO, "bad frame from %d", 3);
    CHECK_EQ(last.count, 1);
    sv_log_limited(&limit, at + SV_NS_PER_S, SV_LOG_INFO, "bad frame from %d", 4);
    CHECK_EQ(last.count, 2);
    CHECK_STR(last.line, "bad frame from 4 (41 like it left out)");
    sv_log_limited(&limit, at + 2 * SV_NS_PER_S, SV_LOG_INFO, "bad frame from %d", 5);
    CHECK_STR(last.line, "bad frame from 5");
}

static void limits_are_apart_and_unwanted_lines_use_none(void)
{
    struct sv_log_limit one = {0};
    struct sv_log_limit other = {0};

    start(SV_LOG_INFO);
    sv_log_limited(&one, 10, SV_LOG_DEBUG, "hidden");
    sv_log_limited(&one, 10, SV_LOG_INFO, "a");
    sv_log_limited(&other, 10, SV_LOG_INFO, "b");
    CHECK_EQ(last.count, 2);
    CHECK_STR(last.line, "b");
}

/* Long text is cut so that the number left out is still told. */
static void the_number_is_never_cut(void)
{
    struct sv_log_limit limit = {0};
    char big[3000];
    const char *tail = " (1 like it left out)";

    memset(big, 'z', sizeof big);
    big[sizeof big - 1] = '\0';
    start(SV_LOG_INFO);
    for (uint64_t i = 0; i < 3; i++) {
        sv_log_limited(&limit, i * SV_NS_PER_S * 2 / 3, SV_LOG_INFO, "%s", big);
    }
    CHECK_EQ(last.count, 2);
    CHECK(strlen(last.line) > strlen(tail));
    CHECK_STR(last.line + strlen(last.line) - strlen(tail), tail);
}

#define CHECK_ESCAPED(room, text, expected)                                 \
    do {                                                                    \
        char dst_[64];                                                      \
                                                                            \
        memset(dst_, '#', sizeof dst_);                                     \
        CHECK(sv_log_escape(dst_, (room), text, sizeof(text) - 1) == dst_); \
        CHECK_STR(dst_, expected);                                          \
        CHECK_EQ(dst_[(room)], '#');                                        \
    } while (0)

static void escape(void)
{
    char untouched = '#';

    CHECK_ESCAPED(60, "plain ~text", "plain ~text");
    CHECK_ESCAPED(60, "a\n\0b\x7f\xc3\xa9", "a\\x0a\\x00b\\x7f\\xc3\\xa9");
    CHECK_ESCAPED(60, "", "");
    CHECK_ESCAPED(5, "abcd", "abcd");
    CHECK_ESCAPED(5, "abcde", "abcd");
    CHECK_ESCAPED(5, "\n", "\\x0a");
    CHECK_ESCAPED(5, "a\n", "a");
    CHECK_ESCAPED(1, "a", "");
    CHECK(sv_log_escape(&untouched, 0, "a", 1) == &untouched);
    CHECK_EQ(untouched, '#');
}

static void log_again(void *ctx, int level, const char *line)
{
    int *depth = ctx;

    (void)line;
    if (++*depth < 3) {
        sv_log((enum sv_log_level)level, "from inside");
    }
}

static void receiver_may_log_itself(void)
{
    int depth = 0;

    sv_log_set(log_again, &depth, SV_LOG_INFO);
    sv_log(SV_LOG_INFO, "outside");
    CHECK_EQ(depth, 3);
    sv_log_set(NULL, NULL, SV_LOG_INFO);
}

/* Each receiver belongs to one kind of context, which is freed as soon as another receiver is set. */
struct receiver {
    int magic;
    sv_log_fn fn;
};

static atomic_ulong received, wrong;

static void receive(const struct receiver *receiver, sv_log_fn fn, const char *line)
{
    atomic_fetch_add(&received, 1);
    if (receiver->magic != MAGIC || receiver->fn != fn || strncmp(line, "line ", 5) != 0) {
        atomic_fetch_add(&wrong, 1);
    }
}

static void receive_even(void *ctx, int level, const char *line)
{
    (void)level;
    receive(ctx, receive_even, line);
}

static void receive_odd(void *ctx, int level, const char *line)
{
    (void)level;
    receive(ctx, receive_odd, line);
}

static atomic_int writers_left;

static void *write_lines(void *arg)
{
    struct sv_log_limit *limit = arg;

    for (int i = 0; i < LINES; i++) {
        sv_log(SV_LOG_INFO, "line %d", i);
        sv_log_limited(limit, (uint64_t)i * SV_NS_PER_S, SV_LOG_INFO, "line %d", i);
    }
    atomic_fetch_sub(&writers_left, 1);
    return NULL;
}

static struct receiver *set_receiver(struct receiver *old, int turn)
{
    struct receiver *receiver = malloc(sizeof *receiver);

    *receiver = (struct receiver){MAGIC, turn % 2 ? receive_odd : receive_even};
    sv_log_set(receiver->fn, receiver, SV_LOG_INFO);
    if (old) {
        old->magic = 0;
    }
    free(old);
    return receiver;
}

static void receiver_changes_under_load(void)
{
    pthread_t threads[WRITERS];
    static struct sv_log_limit limit;
    struct receiver *receiver = set_receiver(NULL, 0);

    atomic_store(&writers_left, WRITERS);
    for (size_t i = 0; i < WRITERS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, write_lines, &limit), 0);
    }
    for (int turn = 0; atomic_load(&writers_left) > 0; turn++) {
        receiver = set_receiver(receiver, turn);
    }
    for (size_t i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    sv_log_set(NULL, NULL, SV_LOG_INFO);
    free(receiver);
    CHECK_EQ(atomic_load(&wrong), 0);
    CHECK(atomic_load(&received) >= WRITERS * LINES + LINES);
    CHECK(atomic_load(&received) <= 2 * WRITERS * LINES);
}

int main(void)
{
    RUN(level_and_text_arrive);
    RUN(more_verbose_lines_are_left_out);
    RUN(stays_one_line);
    RUN(errno_is_left_alone);
    RUN(without_receiver_to_stderr);
    RUN(one_line_a_second);
    RUN(limits_are_apart_and_unwanted_lines_use_none);
    RUN(the_number_is_never_cut);
    RUN(escape);
    RUN(receiver_may_log_itself);
    RUN(receiver_changes_under_load);
    return CHECK_DONE("base_log");
}
