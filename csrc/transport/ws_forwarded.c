#include "transport/ws_forwarded.h"

#include <string.h>

bool sv_ws_is_trusted(const struct sv_prefix *proxies, size_t count, const uint8_t addr[16])
{
    for (size_t i = 0; i < count; i++) {
        if (sv_prefix_contains(&proxies[i], addr)) {
            return true;
        }
    }
    return false;
}

/* One entry: an address, perhaps with a port, perhaps in brackets. */
static bool parse_entry(char *entry, uint8_t addr[16])
{
    char *end = entry + strlen(entry);

    entry += strspn(entry, " \t");
    while (end > entry && (end[-1] == ' ' || end[-1] == '\t')) {
        *--end = '\0';
    }
    if (*entry == '[') {
        entry++;
        entry[strcspn(entry, "]")] = '\0';
    } else if (strchr(entry, ':') && strchr(entry, ':') == strrchr(entry, ':')) {
        *strchr(entry, ':') = '\0';
    }
    return sv_addr_parse(addr, entry) == 0;
}

bool sv_ws_forwarded_source(uint8_t source[16], char *list, const struct sv_prefix *proxies, size_t count)
{
    bool known = false;
    char *comma;
    uint8_t addr[16];

    do {
        comma = strrchr(list, ',');
        if (!parse_entry(comma ? comma + 1 : list, addr)) {
            return known;
        }
        memcpy(source, addr, 16);
        known = true;
        if (comma) {
            *comma = '\0';
        }
    } while (comma && sv_ws_is_trusted(proxies, count, addr));
    return known;
}
