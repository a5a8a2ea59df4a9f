/* Certificate pinning, with the real server and the real client over loopback. */
#include <smartvpn/base.h>
#include <unistd.h>

#include "base/error.h"
#include "tests/c/tls_certificate.h"
#include "tests/c/ws_fixture.h"

static struct tls_certificate hub, other;

static void open_tls(void)
{
    ws_open_loop();
    CHECK_EQ(ws_open_server(hub.cert, hub.key, NULL, 0), 0);
}

static void a_match_opens_the_link(void)
{
    uint8_t message[SV_LINK_HEADROOM + 5] = { [SV_LINK_HEADROOM] = 'h', 'e', 'l', 'l', 'o' };

    open_tls();
    ws_dial("wss://127.0.0.1:%u/path", hub.hash, true, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.opened);
    ws_wait(&ws.accepted.opened);
    CHECK(ws.dialed.link->encrypted && ws.accepted.link->encrypted);
    CHECK_EQ(ws.dialed.link->ops->send(ws.dialed.link, message + SV_LINK_HEADROOM, 5), 0);
    ws_wait_received(&ws.accepted, 5);
    CHECK_MEM(ws.accepted.received, "hello", 5);
    ws_close_all();
}

int main(void)
{
    tls_certificate_make(&hub, "IP:127.0.0.1");
    tls_certificate_make(&other, "IP:127.0.0.1");
    RUN(a_match_opens_the_link);
    return CHECK_DONE("test_transport_ws_pin");
}
