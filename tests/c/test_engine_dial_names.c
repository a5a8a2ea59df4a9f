/* Where the hub is: asked for anew, remembered while nobody answers, and what the program knows by other means. */
#include <string.h>

#include "base/clock.h"
#include "engine/dialer_internal.h"
#include "policy/prefix.h"
#include "tests/c/check.h"

#define MS SV_NS_PER_MS

static struct sv_engine engine;
static struct sv_worker worker;
static struct sv_dialer dialer;
static struct sv_dial_name *name;
static struct sv_addresses got;

/* A dialer that attempts nothing. */
static void begin(const char *host)
{
    memset(&engine, 0, sizeof engine);
    memset(&worker, 0, sizeof worker);
    memset(&dialer, 0, sizeof dialer);
    engine.dialer = &dialer;
    worker.engine = &engine;
    dialer.worker = &worker;
    dialer.gone_at = SV_NEVER;
    pthread_mutex_init(&dialer.lock, NULL);
    sv_dial_plan_init(&dialer.plan, true, true, SV_NEVER, false);
    CHECK_EQ(sv_events_init(&engine), 0);
    CHECK_EQ(sv_ring_init(&worker.pokes, 64), 0);
    CHECK_EQ(sv_loop_init(&worker.loop, NULL, NULL, NULL), 0);
    name = &dialer.names[SV_DIAL_QUIC];
    sv_dial_name_init(name, &dialer, host);
    dialer.attempts[SV_DIAL_QUIC] = dialer.attempts[SV_DIAL_WEBSOCKET] = (struct sv_dial_attempt){
        .dialer = &dialer, .name = name};
}

static void end(void)
{
    sv_dial_name_clear(name);
    sv_loop_clear(&worker.loop);
    sv_ring_clear(&worker.pokes);
    sv_events_clear(&engine);
    pthread_mutex_destroy(&dialer.lock);
}

static void await_answer(void)
{
    while (sv_dial_name_knows(name, 0) == SV_DIAL_ASKS) {
        uv_run(&worker.loop.uv, UV_RUN_ONCE);
    }
}

static void offer(const char *host, const char *one, const char *other)
{
    const char *const addresses[] = {one, other};

    CHECK_EQ(sv_client_offer_addresses(&engine, host, addresses, other ? 2 : 1), 0);
    sv_dialer_obey(&engine);
}

static const char *known(size_t i)
{
    static char text[SV_ADDR_TEXT_SIZE];

    sv_dial_name_addresses(name, &got);
    return i < got.count ? sv_addr_format(text, sizeof text, got.list[i].ip) : "";
}

static void worked(const char *address)
{
    uint8_t ip[16];

    CHECK_EQ(sv_addr_parse(ip, address), 0);
    sv_dial_name_worked(name, ip);
}

static unsigned told_of_lookups(void)
{
    sv_event event;
    unsigned count = 0;

    while (sv_engine_next_event(&engine, &event)) {
        count += event.type == SV_EVENT_LOOKUP && strcmp(event.reason, name->host) == 0;
    }
    return count;
}

static void a_numeric_host_is_known(void)
{
    begin("192.0.2.7");
    sv_dial_name_ask(name, sv_clock_now());
    CHECK_EQ(sv_dial_name_knows(name, sv_clock_now()), SV_DIAL_KNOWS);
    CHECK_STR(known(0), "192.0.2.7");
    CHECK_EQ(told_of_lookups(), 0);
    offer("192.0.2.7", "192.0.2.8", NULL);
    CHECK_STR(known(0), "192.0.2.7");
    end();
}

static void a_name_that_nobody_knows(void)
{
    begin("hub.invalid");
    sv_dial_name_ask(name, sv_clock_now());
    CHECK_EQ(sv_dial_name_knows(name, UINT64_MAX), SV_DIAL_ASKS);
    CHECK_EQ(sv_dial_name_deadline(name), SV_NEVER);
    await_answer();
    CHECK_EQ(sv_dial_name_knows(name, 0), SV_DIAL_FAILS);
    CHECK(strncmp(name->why, "hub.invalid: ", 13) == 0);
    CHECK_EQ(told_of_lookups(), 1);
    end();
}

/* One answer serves all that ask within a second; in another network it is asked for anew, and until there is an answer the old one is there. */
static void an_answer_is_kept(void)
{
    uint64_t now;

    begin("localhost");
    sv_dial_name_ask(name, sv_clock_now());
    await_answer();
    CHECK_EQ(sv_dial_name_knows(name, 0), SV_DIAL_KNOWS);
    sv_dial_name_ask(name, sv_clock_now());
    CHECK_EQ(sv_dial_name_knows(name, 0), SV_DIAL_KNOWS);
    CHECK_EQ(told_of_lookups(), 1);
    sv_dial_name_outdate(name);
    now = sv_clock_now();
    sv_dial_name_ask(name, now);
    CHECK_EQ(told_of_lookups(), 1);
    CHECK_EQ(sv_dial_name_knows(name, now), SV_DIAL_ASKS);
    CHECK_EQ(sv_dial_name_deadline(name), now + 500 * MS);
    CHECK_EQ(sv_dial_name_knows(name, now + 500 * MS), SV_DIAL_KNOWS);
    CHECK(*known(0));
    await_answer();
    CHECK_EQ(sv_dial_name_knows(name, now), SV_DIAL_KNOWS);
    end();
}

static void no_more_lookups_than_two_at_once(void)
{
    begin("hub.invalid");
    for (unsigned i = 0; i < 5; i++) {
        sv_dial_name_outdate(name);
        sv_dial_name_ask(name, sv_clock_now());
    }
    CHECK(name->lookups[0].lookup && name->lookups[1].lookup && name->again);
    await_answer();
    CHECK_EQ(sv_dial_name_knows(name, 0), SV_DIAL_FAILS);
    CHECK(!name->again);
    end();
}

/* It comes before what the system's resolver says, whichever is there first; of an earlier asking nothing stays. */
static void what_is_offered_comes_first(void)
{
    begin("localhost");
    sv_dial_name_ask(name, sv_clock_now());
    offer("LOCALHOST", "2001:db8::7", "192.0.2.7");
    offer("other.example", "192.0.2.9", NULL);
    CHECK_EQ(sv_dial_name_knows(name, 0), SV_DIAL_KNOWS);
    CHECK_STR(known(1), "192.0.2.7");
    CHECK_EQ(got.count, 2);
    while (name->lookups[0].lookup) {
        uv_run(&worker.loop.uv, UV_RUN_ONCE);
    }
    CHECK_STR(known(0), "2001:db8::7");
    CHECK(got.count > 2);
    sv_dial_name_outdate(name);
    sv_dial_name_ask(name, sv_clock_now());
    offer("localhost", "192.0.2.8", NULL);
    CHECK_STR(known(0), "192.0.2.8");
    CHECK_EQ(got.count, 1);
    end();
}

static void what_worked_comes_last(void)
{
    begin("localhost");
    offer("localhost", "192.0.2.7", NULL);
    worked("192.0.2.99"); /* a proxy's */
    worked("192.0.2.7");
    CHECK_STR(known(0), "192.0.2.7");
    CHECK_EQ(got.count, 1);
    sv_dial_name_outdate(name);
    sv_dial_name_ask(name, sv_clock_now());
    offer("localhost", "192.0.2.8", NULL);
    CHECK_STR(known(0), "192.0.2.8");
    CHECK_STR(known(1), "192.0.2.7");
    CHECK_EQ(got.count, 2);
    end();
}

static void what_cannot_be_offered(void)
{
    const char *const wrong[] = {"192.0.2.7", "hub.example"};

    begin("localhost");
    CHECK_EQ(sv_client_offer_addresses(&engine, "localhost", wrong, 2), SV_E_INVALID);
    CHECK_EQ(sv_client_offer_addresses(&engine, "localhost", wrong, 0), 0);
    sv_dialer_obey(&engine);
    CHECK_STR(known(0), "");
    engine.dialer = NULL;
    CHECK_EQ(sv_client_offer_addresses(&engine, "localhost", wrong, 1), SV_E_STATE);
    end();
}

int main(void)
{
    RUN(a_numeric_host_is_known);
    RUN(a_name_that_nobody_knows);
    RUN(an_answer_is_kept);
    RUN(no_more_lookups_than_two_at_once);
    RUN(what_is_offered_comes_first);
    RUN(what_worked_comes_last);
    RUN(what_cannot_be_offered);
    return CHECK_DONE("engine/dial_names");
}
