/* Key pairs as programs see them (smartvpn/keys.h). */
#include <smartvpn/keys.h>
#include <sodium.h>
#include <string.h>

#include "crypto/keys.h"

int sv_keypair_generate(uint8_t private_key[SV_KEY_SIZE], uint8_t public_key[SV_KEY_SIZE])
{
    int error = sv_crypto_init();

    if (!error) {
        sv_x25519_generate(private_key, public_key);
    }
    return error;
}

int sv_keypair_public(uint8_t public_key[SV_KEY_SIZE], const uint8_t private_key[SV_KEY_SIZE])
{
    int error = sv_crypto_init();

    if (!error) {
        sv_x25519_public(public_key, private_key);
    }
    return error;
}

int sv_key_parse(uint8_t key[SV_KEY_SIZE], const char *text)
{
    size_t len = strlen(text);
    const char *end;
    size_t n;

    if (sodium_base642bin(key, SV_KEY_SIZE, text, len, NULL, &n, &end, sodium_base64_VARIANT_ORIGINAL) ||
        n != SV_KEY_SIZE || end != text + len) {
        sv_wipe(key, SV_KEY_SIZE);
        return SV_E_INVALID;
    }
    return 0;
}

void sv_key_format(char text[SV_KEY_TEXT_SIZE], const uint8_t key[SV_KEY_SIZE])
{
    sodium_bin2base64(text, SV_KEY_TEXT_SIZE, key, SV_KEY_SIZE, sodium_base64_VARIANT_ORIGINAL);
}
