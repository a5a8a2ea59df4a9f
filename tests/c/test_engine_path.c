/* Links that go on from another address: who may, and that nobody is counted by an address that is not proven. */
#include "tests/c/check.h"

#include <smartvpn/base.h>
#include <string.h>

#include "engine/hub.h"

enum { PORT = 4433, ASKED = 1000 };

static const uint8_t here[16] = {[10] = 0xFF, [11] = 0xFF, 192, 0, 2, 1};
static const uint8_t elsewhere[16] = {[10] = 0xFF, [11] = 0xFF, 192, 0, 2, 2};
static const uint8_t denied[16] = {[10] = 0xFF, [11] = 0xFF, 198, 51, 100, 1};

static struct sv_hub hub;
static struct sv_engine engine = {.server = true, .hub = &hub};
static struct sv_worker worker = {.engine = &engine};
static struct sv_link the_link;
static struct sv_client client;
static struct sv_conn conn;

static void open_conn(struct sv_client *whose)
{
    static const uint8_t secret[16];

    memset(&hub, 0, sizeof hub);
    memset(&conn, 0, sizeof conn);
    pthread_mutex_init(&hub.lock, NULL);
    CHECK_EQ(sv_admission_init(&hub.admission, secret), 0);
    memcpy(the_link.remote, here, sizeof here);
    memcpy(conn.remote, here, sizeof here);
    conn.worker = &worker;
    conn.link = &the_link;
    conn.client = whose;
    conn.remote_port = PORT;
}

static void close_conn(void)
{
    sv_admission_clear(&hub.admission);
    pthread_mutex_destroy(&hub.lock);
}

static void a_stranger_stays_at_its_address(void)
{
    open_conn(NULL);
    CHECK(sv_hub_admits_path(&conn, here, PORT + 1));
    CHECK_EQ(conn.remote_port, PORT + 1);
    CHECK(!sv_hub_admits_path(&conn, elsewhere, PORT));
    CHECK_MEM(conn.remote, here, sizeof here);
    close_conn();
}

static void a_client_is_judged_by_its_rules(void)
{
    static const char *const deny[] = {"198.51.100.0/24"};
    struct sv_acl *source;

    CHECK_EQ(sv_acl_new(&source, NULL, 0, deny, 1, NULL), 0);
    atomic_init(&client.policy, sv_policy_new(source, NULL, 100));
    open_conn(&client);
    CHECK(sv_hub_admits_path(&conn, elsewhere, PORT));
    CHECK_MEM(conn.remote, elsewhere, sizeof elsewhere);
    CHECK(!sv_hub_admits_path(&conn, denied, PORT));
    CHECK_MEM(conn.remote, elsewhere, sizeof elsewhere);
    close_conn();
    sv_policy_free(atomic_load(&client.policy));
}

/* Else whoever forges addresses would keep their owners out. */
static void an_address_that_is_only_claimed_can_still_connect(void)
{
    atomic_init(&client.policy, sv_policy_new(NULL, NULL, 100));
    open_conn(&client);
    for (uint16_t i = 0; i < ASKED; i++) {
        CHECK(sv_hub_admits_path(&conn, elsewhere, i));
    }
    CHECK(sv_admission_source_passes(&hub.admission, worker.loop.now, elsewhere));
    close_conn();
    sv_policy_free(atomic_load(&client.policy));
}

int main(void)
{
    RUN(a_stranger_stays_at_its_address);
    RUN(a_client_is_judged_by_its_rules);
    RUN(an_address_that_is_only_claimed_can_still_connect);
    return CHECK_DONE("test_engine_path");
}
