/* Hello and settings are the bytes that protocol.md says; what breaks its rules is refused and changes
 * nothing. */
#include "tests/c/check.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "proto/settings.h"

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

#define CAPS 0x01, 0, 4, 0, 0, 0, 0x19
#define ID16 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf
#define V6 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7
#define SESSION 0x10, 0, 16, ID16
#define ADDRESS 0x11, 0, 5, 10, 8, 0, 2, 24
#define MTU 0x15, 0, 2, 0x05, 0x8c
#define LEAST CAPS, SESSION, ADDRESS, MTU

static const uint8_t full_hello[] = {CAPS, 0x02, 0, 3, 'x', '/', '1', 0x03, 0, 16, ID16, 0x04, 0, 16, V6};

static const uint8_t full_settings[] = {
    CAPS,    0x02,    0,    3,  's', '/',  '2',     /* software */
    SESSION, ADDRESS, 0x12, 0,  17,  V6,   64,      /* address, IPv6 */
    0x13,    0,       4,    10, 8,   0,    1,       /* gateway */
    0x14,    0,       16,   V6,                     /* gateway, IPv6 */
    MTU,     0x16,    0,    4,  9,   9,    9,    9, /* DNS */
    0x16,    0,       16,   V6,                     /* DNS, IPv6 */
    0x17,    0,       2,    0,  45,                 /* keepalive */
    0x18,    0,       4,    0,  0,   0x0e, 0x10,    /* rekey 3600 */
    0x19,    0,       4,    0,  0,   1,    44,      /* resume lifetime 300 */
    0x1A,    0,       5,    0,  0,   0,    0,    0, /* route 0.0.0.0/0 */
    0x1A,    0,       17,   7,  V6,                 /* route fd00::7/7 */
};

/* A copy of exactly the list's length, so that a read past it is found. */
static int read_hello(struct sv_hello *hello, const uint8_t *src, size_t len)
{
    uint8_t *exact = malloc(len > 0 ? len : 1);
    memcpy(exact, src, len);
    int status = sv_hello_read(hello, exact, len);
    free(exact);
    return status;
}

static int read_settings(struct sv_settings *settings, const uint8_t *src, size_t len)
{
    uint8_t *exact = malloc(len > 0 ? len : 1);
    memcpy(exact, src, len);
    int status = sv_settings_read(settings, exact, len);
    free(exact);
    return status;
}

static void hello_both_ways(void)
{
    struct sv_hello hello;
    uint8_t again[SV_HELLO_MAX];
    CHECK_EQ(read_hello(&hello, full_hello, sizeof full_hello), 0);
    CHECK_EQ(hello.capabilities, SV_CAP_BATCH | SV_CAP_RESUME | SV_CAP_REKEY);
    CHECK_STR(hello.software, "x/1");
    CHECK(hello.has_resume && hello.has_instance);
    CHECK_MEM(hello.resume_id, ((const uint8_t[]){ID16}), 16);
    CHECK_MEM(hello.instance, ((const uint8_t[]){V6}), 16);
    CHECK_EQ(sv_hello_write(&hello, again, sizeof again), sizeof full_hello);
    CHECK_MEM(again, full_hello, sizeof full_hello);
    for (size_t cap = 0; cap < sizeof full_hello; cap++) {
        CHECK_EQ(sv_hello_write(&hello, again, cap), 0);
    }
}

static void hello_rules(void)
{
    struct sv_hello hello;
    CHECK_EQ(read_hello(&hello, BYTES(CAPS)), 0);
    CHECK(!hello.has_resume && !hello.has_instance && hello.software[0] == '\0');
    CHECK_EQ(read_hello(&hello, BYTES(CAPS, 0x77, 0, 1, 9, 0x77, 0, 0, 0x10, 0, 1, 1)), 0);
    CHECK_EQ(read_hello(&hello, BYTES(0x02, 0, 1, 'a')), SV_E_MALFORMED);
    CHECK_EQ(read_hello(&hello, BYTES(CAPS, CAPS)), SV_E_MALFORMED);
    CHECK_EQ(read_hello(&hello, BYTES(CAPS, 0x02, 0, 0, 0x02, 0, 0)), SV_E_MALFORMED);
    CHECK_EQ(read_hello(&hello, BYTES(0x01, 0, 3, 0, 0, 1)), SV_E_MALFORMED);
    CHECK_EQ(read_hello(&hello, BYTES(0x01, 0, 5, 0, 0, 0, 0, 1)), SV_E_MALFORMED);
    CHECK_EQ(read_hello(&hello, BYTES(CAPS, 0x03, 0, 2, 1, 2)), SV_E_MALFORMED);
    CHECK_EQ(read_hello(&hello, BYTES(CAPS, 0x04, 0, 0)), SV_E_MALFORMED);
    CHECK_EQ(sv_hello_read(&hello, full_hello, 0), SV_E_MALFORMED);
}

static void a_list_cut_anywhere_is_malformed_or_shorter(void)
{
    struct sv_hello hello;
    size_t accepted = 0;
    for (size_t len = 0; len < sizeof full_hello; len++) {
        accepted += read_hello(&hello, full_hello, len) == 0;
    }
    /* After capabilities, software and resume. */
    CHECK_EQ(accepted, 3);
    CHECK_EQ(read_hello(&hello, BYTES(CAPS, 0x77, 0xff, 0xff)), SV_E_MALFORMED);
}

static void a_long_software_name_is_cut(void)
{
    uint8_t list[7 + 3 + 300] = {CAPS, 0x02, 1, 44};
    struct sv_hello hello;
    memset(list + 10, 'n', 300);
    CHECK_EQ(read_hello(&hello, list, sizeof list), 0);
    CHECK_EQ(strlen(hello.software), SV_SOFTWARE_MAX);
}

static void check_full(const struct sv_settings *s)
{
    CHECK_EQ(s->capabilities, 0x19);
    CHECK_STR(s->software, "s/2");
    CHECK_MEM(s->session_id, ((const uint8_t[]){ID16}), 16);
    CHECK_EQ(s->address4.length, 4);
    CHECK_EQ(s->address4.prefix, 24);
    CHECK_MEM(s->address4.bytes, ((const uint8_t[]){10, 8, 0, 2}), 4);
    CHECK_EQ(s->address6.length, 16);
    CHECK_EQ(s->address6.prefix, 64);
    CHECK_MEM(s->gateway4.bytes, ((const uint8_t[]){10, 8, 0, 1}), 4);
    CHECK_EQ(s->gateway6.length, 16);
    CHECK_EQ(s->mtu, 1420);
    CHECK_EQ(s->dns_count, 2);
    CHECK_EQ(s->dns[0].length, 4);
    CHECK_EQ(s->dns[1].length, 16);
    CHECK(s->has_keepalive && s->has_rekey && s->has_resume_lifetime);
    CHECK_EQ(s->keepalive_secs, 45);
    CHECK_EQ(s->rekey_secs, 3600);
    CHECK_EQ(s->resume_lifetime_secs, 300);
    CHECK_EQ(s->route_count, 2);
    CHECK_EQ(s->routes[0].prefix, 0);
    CHECK_EQ(s->routes[1].prefix, 7);
    CHECK_EQ(s->routes[1].length, 16);
}

static void settings_both_ways(void)
{
    static struct sv_settings settings;
    uint8_t again[SV_SETTINGS_MAX];
    CHECK_EQ(read_settings(&settings, full_settings, sizeof full_settings), 0);
    check_full(&settings);
    CHECK_EQ(sv_settings_write(&settings, again, sizeof again), sizeof full_settings);
    CHECK_MEM(again, full_settings, sizeof full_settings);
    for (size_t cap = 0; cap < sizeof full_settings; cap++) {
        CHECK_EQ(sv_settings_write(&settings, again, cap), 0);
    }
}

static void settings_rules(void)
{
    static struct sv_settings s;
    CHECK_EQ(read_settings(&s, BYTES(LEAST)), 0);
    CHECK(!s.has_keepalive && !s.has_rekey && !s.has_resume_lifetime);
    CHECK_EQ(s.keepalive_secs, 60);
    CHECK_EQ(s.rekey_secs, 3600);
    CHECK_EQ(s.resume_lifetime_secs, 300);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, SESSION, 0x12, 0, 17, V6, 128, MTU)), 0);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0xfe, 0, 0, 0xfe, 0, 1, 1)), 0);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x18, 0, 4, 0, 0, 0, 0)), 0);
    CHECK_EQ(s.rekey_secs, 0);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x18, 0, 4, 0, 0, 0, 20)), 0);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x18, 0, 4, 0, 0, 0, 19)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(SESSION, ADDRESS, MTU)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, ADDRESS, MTU)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, SESSION, MTU)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, SESSION, ADDRESS)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, MTU)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, ADDRESS)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, SESSION, MTU, 0x11, 0, 5, 1, 2, 3, 4, 33)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, SESSION, MTU, 0x11, 0, 4, 1, 2, 3, 4)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(CAPS, SESSION, MTU, 0x12, 0, 17, V6, 129)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x13, 0, 5, 1, 2, 3, 4, 5)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x16, 0, 0)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x17, 0, 1, 1)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x19, 0, 2, 1, 1)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x1A, 0, 5, 33, 0, 0, 0, 0)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x1A, 0, 4, 8, 0, 0, 0)), SV_E_MALFORMED);
    CHECK_EQ(read_settings(&s, BYTES(LEAST, 0x1A, 0)), SV_E_MALFORMED);
    CHECK_EQ(sv_settings_read(&s, full_settings, 0), SV_E_MALFORMED);
}

static void more_than_the_arrays_hold_is_left_out(void)
{
    static struct sv_settings s;
    static uint8_t list[16 * 1024], again[SV_SETTINGS_MAX];
    static const uint8_t least[] = {LEAST}, dns[] = {0x16, 0, 4, 1, 1, 1, 1}, route[] = {0x1A, 0, 17, 8, V6};
    size_t len = sizeof least;
    memcpy(list, least, len);
    for (int i = 0; i < SV_SETTINGS_DNS_MAX + 5; i++, len += sizeof dns) {
        memcpy(list + len, dns, sizeof dns);
    }
    for (int i = 0; i < SV_SETTINGS_ROUTES_MAX + 5; i++, len += sizeof route) {
        memcpy(list + len, route, sizeof route);
    }
    CHECK_EQ(read_settings(&s, list, len), 0);
    CHECK_EQ(s.dns_count, SV_SETTINGS_DNS_MAX);
    CHECK_EQ(s.route_count, SV_SETTINGS_ROUTES_MAX);
    CHECK(sv_settings_write(&s, again, sizeof again) > 0);
}

static int apply(struct sv_settings *s, const uint8_t *src, size_t len)
{
    uint8_t *exact = malloc(len > 0 ? len : 1);
    memcpy(exact, src, len);
    int status = sv_settings_apply_update(s, exact, len);
    free(exact);
    return status;
}

static void an_update_replaces_and_removes(void)
{
    static struct sv_settings s;
    CHECK_EQ(read_settings(&s, full_settings, sizeof full_settings), 0);
    CHECK_EQ(apply(&s, BYTES(0x15, 0, 2, 5, 0, 0x16, 0, 4, 8, 8, 8, 8, 0x18, 0, 0, 0x1A, 0, 0, 0x14, 0, 0)),
             0);
    CHECK_EQ(s.mtu, 1280);
    CHECK_EQ(s.dns_count, 1);
    CHECK_MEM(s.dns[0].bytes, ((const uint8_t[]){8, 8, 8, 8}), 4);
    CHECK(!s.has_rekey);
    CHECK_EQ(s.rekey_secs, 3600);
    CHECK_EQ(s.route_count, 0);
    CHECK_EQ(s.gateway6.length, 0);
    CHECK_EQ(s.gateway4.length, 4);
    CHECK_EQ(s.keepalive_secs, 45);
    CHECK_EQ(apply(&s, BYTES(0x16, 0, 0, 0x16, 0, 4, 7, 7, 7, 7)), 0);
    CHECK_EQ(s.dns_count, 1);
    CHECK_EQ(apply(&s, BYTES(0x10, 0, 1, 1, 0x01, 0, 9)), SV_E_MALFORMED);
    CHECK_EQ(apply(&s, BYTES(0x10, 0, 1, 1, 0x11, 0, 0, 0x99, 0, 1, 1)), 0);
    CHECK_EQ(s.session_id[0], 0xa0);
    CHECK_EQ(s.address4.length, 4);
}

static void a_malformed_update_changes_nothing(void)
{
    static struct sv_settings s, before;
    CHECK_EQ(read_settings(&s, full_settings, sizeof full_settings), 0);
    before = s;
    CHECK_EQ(apply(&s, BYTES(0x15, 0, 2, 5, 0, 0x17, 0, 1, 1)), SV_E_MALFORMED);
    CHECK_EQ(apply(&s, BYTES(0x15, 0, 2, 5, 0, 0x15, 0, 2, 5, 0)), SV_E_MALFORMED);
    CHECK_EQ(apply(&s, BYTES(0x16, 0, 4, 1, 1, 1, 1, 0x16, 0, 5, 1, 1, 1, 1, 1)), SV_E_MALFORMED);
    CHECK_EQ(apply(&s, BYTES(0x1A, 0, 0, 0x15, 0, 0)), SV_E_MALFORMED);
    CHECK_EQ(apply(&s, BYTES(0x1A, 0, 0, 0x17, 0)), SV_E_MALFORMED);
    CHECK_EQ(apply(&s, BYTES(0x1A, 0, 0, 0x18, 0, 4, 0, 0, 0, 5)), SV_E_MALFORMED);
    CHECK_MEM(&s, &before, sizeof s);
}

static void an_update_is_written_from_its_mask(void)
{
    static struct sv_settings s;
    uint8_t list[SV_SETTINGS_MAX];
    static const uint8_t want[] = {0x15, 0, 2,    0x05, 0x8c, 0x16, 0,    4, 9, 9,
                                   9,    9, 0x16, 0,    16,   V6,   0x17, 0, 0};
    CHECK_EQ(read_settings(&s, full_settings, sizeof full_settings), 0);
    s.has_keepalive = false;
    size_t len = sv_settings_write_update(&s, 1u << 5 | 1u << 6 | 1u << 7 | 1u << 0 | 1u << 20, list,
                                          sizeof list);
    CHECK_EQ(len, sizeof want);
    CHECK_MEM(list, want, sizeof want);
    CHECK_EQ(sv_settings_write_update(&s, 1u << 5, list, 4), 0);
}

int main(void)
{
    RUN(hello_both_ways);
    RUN(hello_rules);
    RUN(a_list_cut_anywhere_is_malformed_or_shorter);
    RUN(a_long_software_name_is_cut);
    RUN(settings_both_ways);
    RUN(settings_rules);
    RUN(more_than_the_arrays_hold_is_left_out);
    RUN(an_update_replaces_and_removes);
    RUN(a_malformed_update_changes_nothing);
    RUN(an_update_is_written_from_its_mask);
    return CHECK_DONE("proto_settings");
}
