#include "transport/ws_url.h"

#include <curl/curl.h>
#include <smartvpn/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "policy/prefix.h"
#include "transport/websocket.h"

enum { URL_MAX = SV_HOST_MAX + SV_WS_PATH_MAX };

/* ---- splitting ---- */

static const char *after_scheme(struct sv_ws_url *url, const char *text)
{
    url->secure = strncasecmp(text, "wss://", 6) == 0;
    return url->secure ? text + 6 : strncasecmp(text, "ws://", 5) == 0 ? text + 5 : NULL;
}

static bool fits(int n, size_t size)
{
    return n >= 0 && (size_t)n < size;
}

static void keep_host(struct sv_ws_url *url, const char *host)
{
    size_t len = strlen(host);
    bool bracket = len >= 2 && host[0] == '[';

    snprintf(url->host, sizeof url->host, "%.*s", (int)(len - 2 * bracket), host + bracket);
}

/* The host as curl writes it, IPv6 in brackets. */
static bool keep_parts(struct sv_ws_url *url, const char *host, const char *port, const char *path,
                       const char *query)
{
    bool usual = strcmp(port, url->secure ? "443" : "80") == 0;

    keep_host(url, host);
    return fits(snprintf(url->port, sizeof url->port, "%s", port), sizeof url->port) &&
           fits(snprintf(url->authority, sizeof url->authority, usual ? "%s" : "%s:%s", host, port),
                sizeof url->authority) &&
           fits(snprintf(url->path, sizeof url->path, "%s%s%s", path, query ? "?" : "", query ? query : ""),
                sizeof url->path) &&
           fits(snprintf(url->http, sizeof url->http, "%s://%s:%s/", url->secure ? "https" : "http", host,
                         port),
                sizeof url->http);
}

static bool split(struct sv_ws_url *url, CURLU *parts, const char *rest)
{
    char *host = NULL, *port = NULL, *path = NULL, *query = NULL, http[URL_MAX];
    bool good = fits(snprintf(http, sizeof http, "%s://%s", url->secure ? "https" : "http", rest),
                     sizeof http) &&
                !curl_url_set(parts, CURLUPART_URL, http, 0) &&
                !curl_url_get(parts, CURLUPART_HOST, &host, 0) &&
                !curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) &&
                !curl_url_get(parts, CURLUPART_PATH, &path, 0);

    if (good && curl_url_get(parts, CURLUPART_QUERY, &query, 0)) {
        query = NULL;
    }
    good = good && keep_parts(url, host, port, path, query);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    return good;
}

int sv_ws_url_split(struct sv_ws_url *url, const char *text)
{
    const char *rest = text ? after_scheme(url, text) : NULL;
    CURLU *parts = rest ? curl_url() : NULL;
    bool good = parts && split(url, parts, rest);

    curl_url_cleanup(parts);
    return good ? 0 : sv_fail(SV_E_INVALID, "serverUrl: not a ws:// or wss:// address");
}

int sv_ws_client_host(char host[SV_HOST_MAX], const char *url)
{
    struct sv_ws_url parts;
    int error = sv_ws_url_split(&parts, url);

    if (!error) {
        memcpy(host, parts.host, sizeof parts.host);
    }
    return error;
}

/* ---- what curl need not look up ---- */

/* Link-local addresses have no form there. */
static bool is_link_local(const uint8_t ip[16])
{
    return ip[0] == 0xFE && (ip[1] & 0xC0) == 0x80;
}

bool sv_ws_url_resolve(char entry[SV_WS_RESOLVED_MAX], const struct sv_ws_url *url,
                       const struct sv_addresses *addresses)
{
    struct sv_address numeric;
    int n = snprintf(entry, SV_WS_RESOLVED_MAX, "%s:%s:", url->host, url->port), before = n;

    if (sv_host_numeric(&numeric, url->host) == 0) {
        return false;
    }
    for (size_t i = 0; i < addresses->count; i++) {
        const uint8_t *ip = addresses->list[i].ip;
        const char *form = sv_addr_is4(ip) ? "%s%s" : "%s[%s]";
        char text[50];

        if (!is_link_local(ip)) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            n += snprintf(entry + n, (size_t)(SV_WS_RESOLVED_MAX - n), form, n > before ? "," : "",
                          sv_addr_format(text, sizeof text, ip));
#pragma GCC diagnostic pop
        }
    }
    return n > before;
}

/* ---- proxies ---- */

bool sv_ws_client_proxied(void)
{
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *proxy = getenv(names[i]);

        if (proxy && *proxy) {
            return true;
        }
    }
    return false;
}
