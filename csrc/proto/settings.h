/* Hello and settings: the TLV lists inside the two handshake messages and the Settings frame (protocol.md, "Handshake"). */
#ifndef SV_PROTO_SETTINGS_H
#define SV_PROTO_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_CAP_BATCH = 1u << 0,
    SV_CAP_GSO_TCP = 1u << 1,
    SV_CAP_DATAGRAM = 1u << 2,
    SV_CAP_RESUME = 1u << 3,
    SV_CAP_REKEY = 1u << 4,
    SV_CAP_GSO_UDP = 1u << 5,
    SV_CAP_AES_GCM = 1u << 6, /* only where sv_aead_aes is there */
};

enum {
    SV_SOFTWARE_MAX = 64, /* bytes kept of the software name */
    SV_SETTINGS_DNS_MAX = 8,
    SV_SETTINGS_ROUTES_MAX = 256,
    SV_SETTINGS_MAX = 8192, /* bytes of the longest list that is written */
    SV_HELLO_MAX = 256,
    SV_KEEPALIVE_DEFAULT_SECS = 60, /* what holds when a tag is absent */
    SV_REKEY_DEFAULT_SECS = 3600,
    SV_RESUME_DEFAULT_SECS = 300,
    SV_REKEY_MIN_SECS = 20,
};

/* An address; length 0: absent, 4 or 16. */
struct sv_wire_addr {
    uint8_t length, prefix; /* prefix length in bits where it has one */
    uint8_t bytes[16];
};

struct sv_hello {
    uint32_t capabilities;
    char software[SV_SOFTWARE_MAX +
                  1]; /* unchecked UTF-8 from the network, NUL-ended: escape before logging */
    bool has_resume, has_instance;
    uint8_t resume_id[16], instance[16];
};

struct sv_settings {
    uint32_t capabilities;
    char software[SV_SOFTWARE_MAX + 1];
    uint8_t session_id[16];
    struct sv_wire_addr address4, address6, gateway4, gateway6;
    uint16_t mtu, keepalive_secs;
    uint32_t rekey_secs, resume_lifetime_secs;
    size_t dns_count, route_count;
    struct sv_wire_addr dns[SV_SETTINGS_DNS_MAX], routes[SV_SETTINGS_ROUTES_MAX];
    bool has_keepalive, has_rekey,
        has_resume_lifetime; /* false after reading: the default stands in the field */
};

/* Length written, or 0 when cap is too small. */
size_t sv_hello_write(const struct sv_hello *hello, uint8_t *dst, size_t cap);
/* SV_E_MALFORMED: broken list, wrong size, forbidden repetition, mandatory tag missing. */
int sv_hello_read(struct sv_hello *hello, const uint8_t *src, size_t len);

size_t sv_settings_write(const struct sv_settings *settings, uint8_t *dst, size_t cap);
int sv_settings_read(struct sv_settings *settings, const uint8_t *src, size_t len);

/* Settings frame: only tags 0x13–0x1A; a tag that occurs replaces all its earlier values, of length 0 it removes them. `mask` has bit (tag - 0x10) for each
 * tag to write. On SV_E_MALFORMED the settings are unchanged. */
size_t sv_settings_write_update(const struct sv_settings *settings, uint32_t mask, uint8_t *dst, size_t cap);
int sv_settings_apply_update(struct sv_settings *settings, const uint8_t *src, size_t len);

#endif
